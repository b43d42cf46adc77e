"""The text of a tensor, as PyTorch prints it.

In: a concrete tensor and the print options. Out: its values in columns, with sizes,
dtype and autograd facts behind them where they cannot be seen from the values. Only
the elements that are shown decide the format. While a function is compiled it is split
to show values; where that cannot be, a tensor prints its type.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flamec.device_array import DeviceArray
from flamec.errors import DataDependentError, OperationError
from flamec.gpu import gpu_of
from flamec.ir.graph import Value
from flamec.ir.shape import format_shape
from flamec.ir.types import bool_, int64
from flamec.state import process, thread
from flamec.tape import tape_value
from flamec.tensor import Tensor
from flamec.values import concrete_array


@dataclass(frozen=True)
class PrintOptions:
    """``precision``: digits after the point; ``threshold``: more elements are summarised, with
    ``edgeitems`` at each end; ``linewidth`` in characters; ``sci_mode``: always or never (None: as
    the values need)."""

    precision: int = 4
    threshold: float = 1000
    edgeitems: int = 3
    linewidth: int = 80
    sci_mode: bool | None = None


_PROFILES = {
    "default": PrintOptions(),
    "short": PrintOptions(precision=2, edgeitems=2),
    "full": PrintOptions(threshold=math.inf),
}
_options = PrintOptions()


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Set how tensors are printed; ``profile`` is ``"default"``, ``"short"`` or ``"full"``."""
    global _options
    chosen = _options
    if profile is not None:
        if profile not in _PROFILES:
            raise ValueError(f"unknown profile {profile!r}; known: {', '.join(_PROFILES)}")
        chosen = _PROFILES[profile]
    given: dict[str, Any] = {
        "precision": precision,
        "threshold": threshold,
        "edgeitems": edgeitems,
        "linewidth": linewidth,
    }
    given = {name: value for name, value in given.items() if value is not None}
    _options = replace(chosen, sci_mode=sci_mode, **given)


class ElementFormat:
    """How one element is written, found from all elements that are shown."""

    def __init__(self, shown: np.ndarray, options: PrintOptions) -> None:
        self.is_float = shown.dtype.kind == "f"
        self.precision = options.precision
        self.integral = True
        self.scientific = False
        self.width = 1
        if not self.is_float:
            self.width = max((len(str(v)) for v in shown.ravel().tolist()), default=1)
            return
        values = shown.astype(np.float64).ravel()
        values = values[np.isfinite(values) & (values != 0)]
        if values.size:
            self._fit(values, options.sci_mode)

    def _fit(self, values: np.ndarray, scientific: bool | None) -> None:
        self.integral = bool(np.all(values == np.ceil(values)))
        sizes = np.abs(values)
        smallest, largest = float(sizes.min()), float(sizes.max())
        if scientific is None:
            scientific = largest / smallest > 1000.0 or largest > 1e8 or smallest < 1e-4
        self.scientific = scientific
        if self.scientific:
            texts = [f"{v:.{self.precision}e}" for v in values.tolist()]
        elif self.integral:
            texts = [f"{v:.0f}." for v in values.tolist()]
        else:
            texts = [f"{v:.{self.precision}f}" for v in values.tolist()]
        self.width = max(map(len, texts))

    def text(self, value: bool | int | float) -> str:
        if not self.is_float:
            text = str(value)
        elif self.scientific:
            text = f"{value:.{self.precision}e}"
        elif self.integral:
            text = f"{value:.0f}" + ("." if math.isfinite(value) else "")
        else:
            text = f"{value:.{self.precision}f}"
        return text.rjust(self.width)


def _edges(array: np.ndarray, count: int) -> np.ndarray:
    """The elements that a summary shows."""
    for axis, extent in enumerate(array.shape):
        if extent > 2 * count:
            kept = [*range(count), *range(extent - count, extent)]
            array = array.take(kept, axis=axis)
    return array


def _rows(
    array: np.ndarray, indent: int, summarize: bool, element: ElementFormat, options: PrintOptions
) -> str:
    if array.ndim == 0:
        return element.text(array.item())
    edge = options.edgeitems
    shortened = summarize and array.shape[0] > 2 * edge
    if array.ndim == 1:
        values = array.tolist()
        if shortened:
            last = values[-edge:] if edge else []
            texts = [*map(element.text, values[:edge]), " ...", *map(element.text, last)]
        else:
            texts = [element.text(v) for v in values]
        per_line = max(1, (options.linewidth - indent) // (element.width + 2))
        lines = [", ".join(texts[i : i + per_line]) for i in range(0, len(texts), per_line)]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    positions: Sequence[int | None] = range(array.shape[0])
    if shortened:
        positions = [*range(edge), None, *range(array.shape[0] - edge, array.shape[0])]
    parts = [
        "..." if i is None else _rows(array[i], indent + 1, summarize, element, options)
        for i in positions
    ]
    return "[" + ("," + "\n" * (array.ndim - 1) + " " * (indent + 1)).join(parts) + "]"


def _with_suffixes(text: str, suffixes: Sequence[str], indent: int, linewidth: int) -> str:
    length = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        if length + len(suffix) + 2 > linewidth:
            text += ",\n" + " " * indent + suffix
            length = indent + len(suffix)
        else:
            text += ", " + suffix
            length += len(suffix) + 2
    return text + ")"


def _maker(value: Value | None) -> str | None:
    """The name of the operation that made an autograd value, behind copies of it."""
    node = None if value is None else value.node
    if value is None or node is None:
        return None
    source = node.inputs[0] if node.inputs else None
    if node.op.name == "convert" and source is not None and source.type.dtype is value.type.dtype:
        return _maker(source) or "clone"
    return node.op.name


def format_tensor(self: Tensor) -> str:
    """The text of a tensor: ``tensor([[1., 2.], [3., 4.]])``."""
    array, dtype = self._array, self._type.dtype
    if array is None or thread.trace is not None:
        try:
            array = concrete_array(self, "printing")
        except (DataDependentError, OperationError):  # debuggers print what has no value, too
            state = "traced" if self._array is None else "captured"
            return f"Tensor({dtype.name}{format_shape(self._type.shape)}, {state})"
    options = _options
    suffixes = []
    if self._type.device.type != "cpu":
        suffixes.append(f"device='{self._type.device}'")
    if isinstance(array, DeviceArray):
        array = gpu_of(array).download(array)
    if array.size == 0:
        text = "[]"
        if array.ndim != 1:
            suffixes.append(f"size={tuple(array.shape)}")
        if dtype is not process.default_dtype:
            suffixes.append(f"dtype={dtype!r}")
    else:
        if dtype not in (process.default_dtype, int64, bool_):
            suffixes.append(f"dtype={dtype!r}")
        if dtype.is_half:
            array = array.astype(np.float32)
        summarize = array.size > options.threshold
        shown = _edges(array, options.edgeitems) if summarize else array
        prefix = len("tensor(")
        text = _rows(array, prefix, summarize, ElementFormat(shown, options), options)
    if self.requires_grad:
        trace = thread.trace
        value = tape_value(self) if trace is None else trace.value_of(self)
        maker = None if self._requires_grad else _maker(value)
        suffixes.append("requires_grad=True" if maker is None else f"grad_fn=<{maker}>")
    return _with_suffixes("tensor(" + text, suffixes, len("tensor("), options.linewidth)


TENSOR_METHODS = {"__repr__": format_tensor, "__str__": format_tensor}
