"""Work whose speed is that of memory, as functions of a PyTorch-like framework.

In: ``flamec`` or ``torch``. Out: a ``Row``'s function, to be run by either, and how many bytes it
must move: each input read once, each output written once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Make = Callable[[Any], Callable[..., Any]]
ROWS, COLUMNS = 16384, 4096
CLASSES = 50304


@dataclass(frozen=True)
class Operand:
    """An input: shape and dtype name; ``below``: integers under it, else normal numbers."""

    shape: tuple[int, ...]
    dtype: str
    below: int = 0

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape))

    @property
    def itemsize(self) -> int:
        return {"float32": 4, "bfloat16": 2, "int64": 8}[self.dtype]


@dataclass(frozen=True)
class Row:
    """``wrt``: the inputs whose gradients are computed.

    ``part``: what is timed: the "forward" program, the "backward" program, or "both" in one.
    ``passes`` are over the first operand; ``random``: results differ between frameworks.
    """

    name: str
    operands: tuple[Operand, ...]
    make: Make
    passes: int
    part: str = "forward"
    wrt: tuple[int, ...] = ()
    random: bool = False
    tolerance: float = 2e-2

    @property
    def bytes(self) -> int:
        return self.passes * self.operands[0].elements * self.operands[0].itemsize


def _chain(framework: Any) -> Callable[..., Any]:
    F = framework.nn.functional

    def chain(x: Any, a: Any, b: Any, y: Any, z: Any) -> Any:
        return F.gelu(x * a + b) * framework.sigmoid(y) + z

    return chain


def _softmax(framework: Any) -> Callable[..., Any]:
    return lambda x: framework.nn.functional.softmax(x, -1)


def _layer_norm(framework: Any) -> Callable[..., Any]:
    return lambda x, w, b: framework.nn.functional.layer_norm(x, (COLUMNS,), w, b)


def _rms_norm(framework: Any) -> Callable[..., Any]:
    return lambda x, w: framework.nn.functional.rms_norm(x, (COLUMNS,), w)


def _dropped(framework: Any) -> Callable[..., Any]:
    F = framework.nn.functional

    def dropped(x: Any, y: Any, w: Any, b: Any) -> Any:
        return F.layer_norm(x + F.dropout(y, 0.1), (COLUMNS,), w, b)

    return dropped


def _sum(axis: int) -> Make:
    return lambda framework: lambda x: x.sum(axis)


def _cross_entropy(framework: Any) -> Callable[..., Any]:
    return lambda x, target: framework.nn.functional.cross_entropy(x.float(), target)


def _transposed(framework: Any) -> Callable[..., Any]:
    return lambda x: x.t().contiguous()


def _rows(dtype: str) -> tuple[Row, ...]:
    x, w = Operand((ROWS, COLUMNS), dtype), Operand((COLUMNS,), dtype)
    size = f"{ROWS}x{COLUMNS} {dtype}"
    return (
        Row(f"softmax forward {size}", (x,), _softmax, 2),
        Row(f"softmax backward {size}", (x,), _softmax, 3, "backward", (0,)),
        Row(f"layer_norm forward {size}", (x, w, w), _layer_norm, 2),
        Row(f"layer_norm backward {size}", (x, w, w), _layer_norm, 3, "backward", (0, 1, 2)),
        Row(f"rms_norm forward {size}", (x, w), _rms_norm, 2),
        Row(f"rms_norm backward {size}", (x, w), _rms_norm, 3, "backward", (0, 1)),
        Row(f"dropout+add+layer_norm {size}", (x, x, w, w), _dropped, 3, random=True),
        Row(f"sum axis 0 {size}", (x,), _sum(0), 1),
        Row(f"sum axis 1 {size}", (x,), _sum(1), 1),
    )


def _all() -> dict[str, Row]:
    rows: list[Row] = []
    for dtype in ("float32", "bfloat16"):
        flat = Operand((1 << 26,), dtype)
        rows.append(Row(f"gelu chain 64M {dtype}", (flat,) * 5, _chain, 6))
    for dtype in ("bfloat16", "float32"):
        rows += _rows(dtype)
    square = Operand((16384, 16384), "float32")
    rows += [
        Row(f"sum axis {axis} 16384x16384 float32", (square,), _sum(axis), 1) for axis in (0, 1)
    ]
    logits, target = Operand((8192, CLASSES), "bfloat16"), Operand((8192,), "int64", CLASSES)
    name = f"cross_entropy forward+backward 8192x{CLASSES} bfloat16"
    rows.append(Row(name, (logits, target), _cross_entropy, 3, "both", (0,)))
    matrix = Operand((8192, 8192), "bfloat16")
    rows.append(Row("transposed copy 8192x8192 bfloat16", (matrix,), _transposed, 2))
    return {row.name: row for row in rows}


WORK = _all()
