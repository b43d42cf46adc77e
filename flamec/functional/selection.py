"""What a user writes between the brackets, read: a view and the index tensors that remain.

In: a tensor and the index of ``x[...]``. Out: a ``Selection``. Ints, slices, None and Ellipsis
make the view by one ``slice`` and one ``reshape``; they are applied before index tensors, as
PyTorch does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.conversion import as_tensor, on_device, tensor
from flamec.dispatch import apply_named, tensor_builder
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.places import is_python_int, place_of, shown, window_of
from flamec.functional.shape import regroup
from flamec.ir.shape import (
    Dim,
    SymbolicDim,
    equal,
    format_shape,
    less,
    maximum,
    minimum,
    structurally_equal,
)
from flamec.ir.types import CPU, bool_, int64, uint8
from flamec.state import thread
from flamec.tensor import Tensor
from flamec.values import as_size, concrete_array

if TYPE_CHECKING:
    from flamec.trace import Trace


@dataclass
class Selection:
    """A view of the indexed tensor, and the index tensors that remain.

    ``indices[i]`` belongs to dimension i of ``view``: an int64 tensor, a bool mask that covers
    as many dimensions as it has (the following entries are absent), or None.
    """

    view: Tensor
    indices: list[Tensor | None]

    @property
    def is_basic(self) -> bool:
        return all(i is None for i in self.indices)


# reading the brackets -----------------------------------------------------------------
def _items(index: Any) -> list[Any]:
    return list(index) if isinstance(index, tuple) else [index]


def _is_int(item: Any) -> bool:
    return isinstance(item, (int, np.integer, SymbolicDim)) and not isinstance(item, bool)


def _as_index_tensor(item: Any) -> Tensor:
    """An item that is a tensor, array or sequence, as an int64 or bool tensor."""
    if isinstance(item, Tensor):
        result = item
    elif isinstance(item, (bool, np.bool_)):
        result = tensor_builder.full(value=bool(item), shape=(), dtype=bool_)
    elif isinstance(item, np.ndarray):
        result = as_tensor(item, device=CPU)
    elif isinstance(item, (list, tuple, range)):
        result = tensor(item, dtype=None if _holds_values(item) else int64, device=CPU)
    else:
        raise IndexError(
            "only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are "
            f"valid indices (got {type(item).__name__}) (at {user_location()})"
        )
    dtype = result._type.dtype
    if dtype.is_floating_point:
        raise IndexError(
            f"tensors used as indices must be long, int, byte or bool tensors, not {dtype.name} "
            f"(at {user_location()})"
        )
    if dtype is uint8:
        return tensor_builder.cast(result, bool_)
    if dtype is not bool_:
        return tensor_builder.cast(result, int64)
    return result


def _holds_values(items: Sequence[Any]) -> bool:
    return any(_holds_values(i) if isinstance(i, (list, tuple)) else True for i in items)


def require_indices_here(x: Tensor, index: Any) -> None:
    """OperationError for an index tensor on a GPU where ``x`` is read that is not there.

    As in PyTorch, those on the CPU go where x is, a place without dimensions is a number, and an
    assignment takes them from anywhere.
    """
    here = x._type.device
    for item in _items(index):
        if isinstance(item, Tensor) and item._type.shape:
            there = item._type.device
            if there != here and there != CPU:
                raise OperationError(
                    "indices must be on the CPU or on the device of the indexed tensor, which is "
                    f"{here}; this one is on {there} (at {user_location()})"
                )


def select(x: Tensor, index: Any) -> Selection:
    """Apply the basic part of ``index`` to ``x``; IndexError as PyTorch for what does not fit."""
    items = [
        item
        if item is None
        or item is Ellipsis
        or isinstance(item, slice)
        or _is_int(item)
        or is_python_int(item)
        else _as_index_tensor(item)
        for item in _items(index)
    ]
    shape = x._type.shape
    consumed = sum(map(_dimensions_consumed, items))
    if consumed > len(shape):
        if not shape:
            raise IndexError(
                "invalid index of a 0-dim tensor. Use `tensor.item()` to convert a 0-dim tensor "
                f"to a number (at {user_location()})"
            )
        raise IndexError(
            f"too many indices for tensor of dimension {len(shape)} (at {user_location()})"
        )
    reading = _Reader(x)
    for item in items:
        reading.take(item, len(shape) - consumed)
    while reading.axis < len(shape):
        reading.keep()
    return reading.finish()


def _dimensions_consumed(item: Any) -> int:
    if item is None or item is Ellipsis:
        return 0
    if isinstance(item, Tensor) and item._type.dtype is bool_:
        return len(item._type.shape)
    return 1


class _Reader:
    """Collects the window into each dimension, the new shape, and the index tensors."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.axis = 0
        self.starts: list[Dim] = []
        self.sizes: list[Dim] = []
        self.steps: list[int] = []
        self.shape: list[Dim] = []
        self.indices: list[Tensor | None] = []
        self.filled = False

    def take(self, item: Any, missing: int) -> None:
        if item is None:
            self.shape.append(1)
            self.indices.append(None)
        elif item is Ellipsis:
            for _ in range(0 if self.filled else missing):
                self.keep()
            self.filled = True
        elif isinstance(item, slice):
            self._slice(item)
        elif not isinstance(item, Tensor) or is_python_int(item):
            self._position(item)
        elif item._type.shape == () and item._type.dtype is bool_:
            self.shape.append(1)
            self.indices.append(regroup(item, (1,)))
        elif item._type.shape == () and thread.trace is None:
            self._position(int(concrete_array(item, "an index")))
        elif thread.trace is not None and item._type.shape == () and _reads_place(thread.trace):
            self._position(as_size(item, "an index"))
        else:
            self._index(item)

    def keep(self) -> None:
        """A whole dimension."""
        extent = self.x._type.shape[self.axis]
        self._window(0, extent, 1)
        self.shape.append(extent)
        self.indices.append(None)

    def _window(self, start: Dim, count: Dim, step: int) -> None:
        self.starts.append(start)
        self.sizes.append(count)
        self.steps.append(step)
        self.axis += 1

    def _position(self, item: Any) -> None:
        extent = self.x._type.shape[self.axis]
        place = place_of(item, extent)
        if place is None:
            raise IndexError(
                f"index {shown(item)} is out of bounds for dimension {self.axis} with size "
                f"{extent} (shape {format_shape(self.x._type.shape)}) (at {user_location()})"
            )
        self._window(place, 1, 1)

    def _slice(self, item: slice) -> None:
        extent = self.x._type.shape[self.axis]
        step = 1 if item.step is None else _bound(item.step)
        if not isinstance(step, int):
            step = int(step)
        if step <= 0:
            raise ValueError(f"slice step must be positive, not {step} (at {user_location()})")
        varying = window_of(item.start, item.stop, step, extent)
        if varying is not None:
            self._window(*varying, step)
            self.shape.append(varying[1])
            self.indices.append(None)
            return
        start, span = _span(item.start, item.stop, extent)
        count = span if step == 1 else (span + (step - 1)) // step
        self._window(start, count, step)
        self.shape.append(count)
        self.indices.append(None)

    def _index(self, item: Tensor) -> None:
        covered = _dimensions_consumed(item)
        if item._type.dtype is bool_:
            have = self.x._type.shape[self.axis : self.axis + covered]
            if not all(map(equal, have, item._type.shape)):
                raise IndexError(
                    f"The shape of the mask {format_shape(item._type.shape)} at index {self.axis} "
                    f"does not match the shape of the indexed tensor "
                    f"{format_shape(self.x._type.shape)} at index {self.axis} "
                    f"(at {user_location()})"
                )
        for i in range(covered):
            extent = self.x._type.shape[self.axis]
            self._window(0, extent, 1)
            self.shape.append(extent)
            if i == 0:
                self.indices.append(on_device(item, self.x._type.device))

    def finish(self) -> Selection:
        view = self.x
        shape = view._type.shape
        if any(
            s != 1 or not structurally_equal(a, 0) or not structurally_equal(n, d)
            for a, n, s, d in zip(self.starts, self.sizes, self.steps, shape, strict=True)
        ):
            view = apply_named(
                "slice",
                view,
                starts=tuple(self.starts),
                sizes=tuple(self.sizes),
                steps=tuple(self.steps),
            )
        if len(self.shape) != len(view._type.shape) or not all(
            map(structurally_equal, self.shape, view._type.shape)
        ):
            view = regroup(view, self.shape)
        return Selection(view, self.indices)


def _reads_place(trace: Trace) -> bool:
    """Whether the values of index tensors are read, so that ``x[i]`` is a view."""
    return trace.picked.reads_places and trace.can_read()


def _bound(value: Any) -> Dim:
    if isinstance(value, SymbolicDim):
        return value
    if isinstance(value, Tensor):
        if value._type.dtype.kind in ("int", "uint") and not value._type.shape:
            return as_size(value, "a slice")
        return int(value.__index__())
    try:
        return int(value.__index__())
    except AttributeError:
        raise OperationTypeError(
            f"slice indices must be integers or None, not {type(value).__name__} "
            f"(at {user_location()})"
        ) from None


def _span(first: Any, last: Any, extent: Dim) -> tuple[Dim, Dim]:
    """Where a slice begins, and how far it reaches.

    What is left when elements at both ends are not taken depends on a symbolic size anyway, so it
    is a size without conditions, which is 0 where there is nothing left. All else is as long as
    Python's clamping at hand makes it, on conditions.
    """
    start = 0 if first is None else _bound(first)
    behind = 0 if last is None else -_bound(last)
    known = isinstance(start, int) and isinstance(behind, int)
    if isinstance(extent, SymbolicDim) and known and start >= 0 and (behind > 0 or last is None):
        return minimum(start, extent), maximum(extent - start - behind, 0)
    start = _clamped(start, extent)
    stop = extent if last is None else _clamped(-behind, extent)
    whole = structurally_equal(start, 0) and structurally_equal(stop, extent)
    span = stop - start
    if not whole and less(span, 0):
        return stop, 0
    return start, span


def _clamped(bound: Dim, extent: Dim) -> Dim:
    if structurally_equal(bound, extent):
        return extent
    if less(bound, 0):
        bound = bound + extent
        return 0 if less(bound, 0) else bound
    return extent if less(extent, bound) else bound
