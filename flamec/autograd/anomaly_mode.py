"""Anomaly mode: the first NaN of a backward pass is an error that names the forward line.

While it is on, compiled functions run uncompiled, so that every value can be looked at.
"""

from __future__ import annotations

import linecache
import warnings
import weakref
from collections.abc import Sequence
from typing import Any

from flamec.ir.graph import Location, Node, Value
from flamec.ir.passes.differentiate import reachable_nodes
from flamec.state import process, trace_paused
from flamec.tensor import Tensor

__all__ = ["detect_anomaly", "is_anomaly_enabled", "set_detect_anomaly"]

_made_nan: weakref.WeakSet[Value] = weakref.WeakSet()  # first results of such operations


class set_detect_anomaly:
    """Turn anomaly mode on or off at once; as a context manager, for the block only.

    ``check_nan``: whether backward raises RuntimeError where a gradient is NaN. The error names
    the operation and the line of the forward pass, and the line that made the first NaN if
    there was one in the forward pass already.
    """

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._previous = process.anomaly
        self._mode = bool(check_nan) if mode else None
        process.anomaly = self._mode

    def __enter__(self) -> None:
        process.anomaly = self._mode

    def __exit__(self, *_: object) -> None:
        process.anomaly = self._previous


class detect_anomaly(set_detect_anomaly):
    """Anomaly mode for the block; see ``set_detect_anomaly``."""

    def __init__(self, check_nan: bool = True) -> None:
        before = process.anomaly
        super().__init__(True, check_nan)
        process.anomaly = before  # from the beginning of the block on
        warnings.warn(
            "Anomaly Detection has been enabled. This mode will increase the runtime and should "
            "only be enabled for debugging.",
            stacklevel=2,
        )


def is_anomaly_enabled() -> bool:
    """Whether anomaly mode is on."""
    return process.anomaly is not None


def has_nan(tensor: Any) -> bool:
    """Whether a concrete tensor holds a NaN."""
    if not isinstance(tensor, Tensor) or not tensor.dtype.is_floating_point:
        return False
    with trace_paused():
        return bool(tensor.detach().isnan().any().item())


def note_forward(result: Value, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Remember an operation whose result has a NaN that no operand has."""
    if any(map(has_nan, outputs)) and not any(map(has_nan, inputs)):
        _made_nan.add(result)


def check_gradients(node: Node, gradients: Sequence[Any]) -> None:
    """RuntimeError if the rule of ``node`` gave a NaN."""
    for position, gradient in enumerate(gradients):
        if not has_nan(gradient):
            continue
        name = node.op.name
        text = (
            f"Function '{name}' returned nan values in its {position}th output: the gradient by "
            f"operand {position} of {name} in the forward pass\n{_line(node.location)}"
        )
        history = reachable_nodes([*node.inputs, *node.outputs], lambda v: False)
        source = next((n for n in (*history, node) if n.outputs[0] in _made_nan), None)
        if source is not None:
            text += (
                f"\nThe forward pass has a NaN already, which {source.op.name} made first\n"
                f"{_line(source.location)}"
            )
        raise RuntimeError(text)


def _line(location: Location | None) -> str:
    if location is None:
        return "  at an unknown line"
    code = linecache.getline(location.file, location.line).strip()
    return f"  at {location} in {location.function}: {code}"
