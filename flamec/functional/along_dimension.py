"""Reads and writes along one dimension, each of which is one program in eager mode on a GPU.

In: arguments that have been checked (``gathering``). Out: tensors. A negative index is an error: it
is looked for before anything is computed on a CPU, else by the program.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flamec.dispatch import apply_named, tensor_builder
from flamec.errors import OutOfRangeError, user_location
from flamec.functional.primitives import ops
from flamec.functional.scatter_reduction import scatter_into
from flamec.functional.shape import owned
from flamec.fusing import fused
from flamec.ir.shape import OUT_OF_ALL, Dim
from flamec.ir.types import int64
from flamec.state import thread
from flamec.tensor import Tensor


def on_device(function: Any, x: Tensor, *arguments: Any, whole: bool = True) -> Tensor:
    """What a composite gives: one program on a GPU if it may be a ``whole``. A CPU looks at indices
    before it runs."""
    if not whole or x._type.device.type == "cpu":
        function = function.__wrapped__
    result: Tensor = function(x, *arguments)
    return result


def nonnegative(name: str, index: Tensor, extent: Dim) -> Tensor:
    """``index`` such that a negative entry is out of range instead of counted from the end."""
    array = index._array
    if thread.trace is None and isinstance(array, np.ndarray):
        if array.size and array.min() < 0:
            raise OutOfRangeError(
                f"{name}(): index {array.min()} is out of bounds for a dimension of size {extent} "
                f"(at {user_location()})"
            )
        return index
    index = ops.cast(index, int64)
    result: Tensor = ops.where(ops.lt(index, 0), ops.sub(index, OUT_OF_ALL), index)
    return result


def _along(name: str, x: Tensor, dim: int, index: Tensor) -> list[Tensor]:
    """Index tensors for all dimensions: ``index`` along ``dim``, elsewhere the own position."""
    index = nonnegative(name, index, x._type.shape[dim])
    shape = index._type.shape
    return [
        index
        if axis == dim
        else tensor_builder.iota(shape=shape, axis=axis, dtype=int64, device=index._type.device)
        for axis in range(len(shape))
    ]


@fused()
def gathered_along(x: Tensor, index: Tensor, axis: int) -> Tensor:
    """``index`` of x, by a tensor that counts along ``axis``."""
    result: Tensor = apply_named("index", x, *_along("gather", x, axis, index))
    return result


@fused()
def put_along(
    x: Tensor, values: Tensor, index: Tensor, name: str, axis: int, mode: str, include_self: bool
) -> Tensor:
    """x with values at places that ``index`` gives along ``axis``."""
    return scatter_into(x, values, _along(name, x, axis, index), mode, include_self)


def _to_front(x: Tensor, axis: int) -> Tensor:
    if axis == 0:
        return x
    rest = [i for i in range(len(x._type.shape)) if i != axis]
    front: Tensor = apply_named("permute", x, axes=(axis, *rest))
    return front


def _from_front(x: Tensor, axis: int) -> Tensor:
    if axis == 0:
        return x
    axes = list(range(1, len(x._type.shape)))
    axes.insert(axis, 0)
    return owned(apply_named("permute", x, axes=tuple(axes)))


@fused()
def selected_slices(x: Tensor, line: Tensor, axis: int) -> Tensor:
    """The slices of x along ``axis`` that ``line`` names."""
    line = nonnegative("index_select", line, x._type.shape[axis])
    return _from_front(apply_named("index", _to_front(x, axis), line), axis)


@fused()
def put_slices(
    x: Tensor, values: Tensor, line: Tensor, name: str, axis: int, mode: str, include_self: bool
) -> Tensor:
    """x with values in the slices along ``axis`` that ``line`` names."""
    line = nonnegative(name, line, x._type.shape[axis])
    target, values = _to_front(x, axis), _to_front(values, axis)
    return _from_front(scatter_into(target, values, (line,), mode, include_self), axis)
