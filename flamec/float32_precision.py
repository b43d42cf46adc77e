"""How a GPU multiplies float32: matrix products and convolutions each in their own way.

What can be set is PyTorch's (``set_float32_matmul_precision``, ``backends``): ``"ieee"``,
``"tf32"``, or ``"none"``, which asks the wider setting. There is one of all libraries, one of
CUDA's, and one of each kind of operations. If nothing is set, matrix products are float32 and
convolutions TF32. What follows is ``process.float32_precision``: compiled functions guard it
(``settings_of``), and programs of single operations are kept for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flamec.ir.graph import Graph
from flamec.ir.op import OpKind
from flamec.ir.types import float32
from flamec.state import float32_precision, process

__all__ = [
    "allow_tf32",
    "allows_tf32",
    "chosen_precision",
    "get_float32_matmul_precision",
    "precision_for",
    "restore_settings",
    "saved_settings",
    "set_float32_matmul_precision",
    "set_precision",
    "settings_of",
]

_UNSET = "unset"  # "none", and TF32 where nothing wider is set
_WIDER = {"matmul": "cuda", "conv": "cuda", "rnn": "cuda", "cuda": "generic"}
_DEFAULTS = {"generic": "none", "cuda": "none", "matmul": "none", "conv": _UNSET, "rnn": _UNSET}
_set: dict[str, str] = {**_DEFAULTS, "name": "high"}  # ``name``: as what TF32 was asked for


def precision_for(kind: str) -> str:
    """``"ieee"``, ``"tf32"`` or ``"none"``, by what is set for a kind and for wider ones."""
    name: str | None = kind
    while name is not None:
        if _set[name] in ("ieee", "tf32"):
            return _set[name]
        name = _WIDER.get(name)
    return "tf32" if _set[kind] == _UNSET else "none"


def set_precision(kind: str, precision: str) -> None:
    """Set the precision of a kind of operations; RuntimeError for one that there is not."""
    if precision not in ("ieee", "tf32", "none"):
        raise RuntimeError(f"fp32_precision is 'ieee', 'tf32' or 'none', not {precision!r}")
    _set[kind] = precision
    _follow()


def saved_settings() -> dict[str, str]:
    """Everything that is set, to be restored."""
    return dict(_set)


def restore_settings(saved: dict[str, str]) -> None:
    """Set what was set when it was saved."""
    _set.update(saved)
    _follow()


def allows_tf32(*kinds: str) -> bool:
    """Whether the kinds may be TF32; RuntimeError where some may and some may not."""
    found = {kind: precision_for(kind) == "tf32" for kind in kinds}
    if len(set(found.values())) > 1:
        said = ", ".join(f"{kind}.fp32_precision is {precision_for(kind)!r}" for kind in kinds)
        raise RuntimeError(f"allow_tf32 is not one answer: {said}; read these instead")
    return found.popitem()[1]


def allow_tf32(allowed: bool, *kinds: str) -> None:
    """PyTorch's older switches: what is not allowed is float32 for matrix products, and what wider
    settings say for others."""
    for kind in kinds:
        _set[kind] = "tf32" if allowed else "ieee" if kind == "matmul" else "none"
    if "matmul" in kinds:
        _set["name"] = "high"
    _follow()


def set_float32_matmul_precision(precision: str) -> None:
    """How a GPU multiplies float32 matrices; ValueError for anything but these.

    ``"highest"``: no further from the exact product than float32 arithmetic; where tensor cores
    multiply TF32, each operand is split in two parts of which three products are summed (Ootomo
    and Yokota, "Recovering single precision accuracy from Tensor Cores while surpassing the FP32
    theoretical peak performance", IJHPCA 36(4), 2022). ``"high"`` and ``"medium"``: operands
    rounded to TF32 (10 bits of mantissa) and float32 sums. CPUs always multiply as float32.
    Compiled functions that multiply float32 matrices on a GPU are compiled again after a change.
    Convolutions are not meant: ``flamec.backends.cudnn.conv.fp32_precision``.
    """
    if precision not in ("highest", "high", "medium"):
        raise ValueError(
            f"float32_matmul_precision is 'highest', 'high' or 'medium', not {precision!r}"
        )
    allow_tf32(precision != "highest", "matmul")
    _set["name"] = "medium" if precision == "medium" else "high"


def get_float32_matmul_precision() -> str:
    """``"highest"``, ``"high"`` or ``"medium"``."""
    return _set["name"] if precision_for("matmul") == "tf32" else "highest"


def settings_of(graph: Graph) -> tuple[str, ...]:
    """Which of ``process.float32_precision`` a program depends on: ``"products"`` if it multiplies
    float32 matrices on a GPU, also in a loop or branch, ``"convolutions"`` if it has some there."""
    found = {
        "convolutions" if node.op.kind is OpKind.CONVOLUTION else "products"
        for node in _with_bodies(graph)
        if node.op.kind in (OpKind.CONTRACTION, OpKind.ATTENTION, OpKind.CONVOLUTION)
        for value in node.outputs
        if value.type.dtype is float32 and value.type.device.type == "cuda"
    }
    return tuple(sorted(found))


def chosen_precision(graph: Graph) -> tuple[str, ...]:
    """What a program is made for: equal graphs are one program only where this is equal."""
    chosen = process.float32_precision
    return tuple(f"{kind} {getattr(chosen, kind)}" for kind in settings_of(graph))


def _with_bodies(graph: Graph) -> Iterator[Any]:
    for node in graph.nodes:
        yield node
        for body in node.bodies.values():
            yield from _with_bodies(body)


def _follow() -> None:
    """Let ``process.float32_precision`` be what follows from the settings."""
    products, convolutions = precision_for("matmul"), precision_for("conv")
    process.float32_precision = float32_precision(
        "tf32" if products == "tf32" else "tf32x3",
        "tf32" if convolutions == "tf32" else "tf32x3",
    )
