"""Different values: unique, unique_consecutive.

In: a tensor. Out: its different elements, or slices along a dimension, and on request where each
element went and how often each occurs. The size depends on values, so a compiled function is
split where it is known. Every NaN is different from every other. No derivatives.

Elements on a GPU stay there, and only their number is read; slices are compared by the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flamec.conversion import constant_array
from flamec.device_array import DeviceArray
from flamec.errors import OperationError, user_location
from flamec.functional.dimensions import dimension
from flamec.functional.primitives import is_empty_size, ops
from flamec.functional.promotion import require_tensor
from flamec.functional.shape import window
from flamec.functional.sorting import positions_along, sorted_along
from flamec.functional.true_places import (
    count_of,
    numbered,
    put_places,
    true_places,
)
from flamec.fusing import fused
from flamec.ir.shape import Dim, product
from flamec.ir.types import DType, int64
from flamec.state import thread
from flamec.tensor import Tensor
from flamec.values import concrete_array


def _read(name: str, input: Any, dim: int | None) -> tuple[np.ndarray, int | None]:
    require_tensor(name, "input", input)
    array = concrete_array(input, f"{name}()")
    if dim is None:
        return array, None
    axis = dimension(name, dim, array.ndim)
    if array.shape[axis : axis + 1] == (0,) and array.size == 0:
        return array, axis
    if array.size == 0:
        raise OperationError(
            f"{name}(): There are 0 sized dimensions, and they aren't selected, so unique cannot "
            f"be applied (at {user_location()})"
        )
    return np.atleast_1d(array), axis


def _sortable(array: np.ndarray, dtype: DType) -> np.ndarray:
    return array.astype(np.float32) if dtype.is_half else array


def _results(
    input: Tensor, values: np.ndarray, inverse: Any, counts: Any, wanted: tuple[bool, bool]
) -> Any:
    device = input._type.device
    parts = [np.array(values, input._type.dtype.numpy, order="C")]
    for array, is_wanted in zip((inverse, counts), wanted, strict=True):
        if is_wanted:
            parts.append(np.array(array, np.int64, order="C"))
    tensors = tuple(constant_array(part, device) for part in parts)
    return tensors if len(tensors) > 1 else tensors[0]


def _stays(name: str, input: Any, dim: int | None) -> bool:
    """Whether elements are compared where they are: there are some, on a GPU or in a program."""
    require_tensor(name, "input", input)
    trace = thread.trace
    known = isinstance(input._array, DeviceArray) if trace is None else trace.can_read()
    stays = dim is None and known
    return stays and not is_empty_size(product(input._type.shape))


def _without_history(x: Tensor) -> Tensor:
    """What no gradient flows back from; integers have no history."""
    return ops.detach(x) if x._type.dtype.is_floating_point else x


def _found_in(x: Tensor, in_order: bool, wanted: tuple[bool, bool]) -> Any:
    """Results for elements on a GPU, which are put in order first or are looked at as they stand:
    in eager mode by two programs, between which the number of different ones is read."""
    shape = x._type.shape
    line, places = x, None
    if len(shape) != 1:
        line = ops.reshape(x, shape=(product(shape),))
    if thread.trace is not None:
        if in_order:
            line, places = sorted_along(line, 0)
        is_new = _is_new(line)
        return _numbered(line, shape, places, wanted, is_new, true_places(is_new))
    if in_order:
        line, places, number, before = _new_in_order(line)
    else:
        number, before = _new_in_lines(line)
    found = _parts(line, number, before, count_of(before), places, *wanted)
    if not wanted[0]:
        return found
    values, number, *rest = found
    return (values, number if len(shape) == 1 else ops.reshape(number, shape=shape), *rest)


@fused()
def _new_in_order(line: Tensor) -> tuple[Tensor, ...]:
    line, places = sorted_along(line, 0)
    return (line, places, *_new_in_lines(line))


@fused()
def _new_in_lines(line: Tensor) -> tuple[Tensor, Tensor]:
    """Which elements differ from the one before, ``numbered``."""
    return numbered(_is_new(line))


@fused("count")
def _parts(
    line: Tensor,
    number: Tensor,
    before: Tensor,
    count: Dim,
    places: Tensor | None,
    inverse: bool,
    lengths: bool,
) -> Any:
    """``_numbered``, of which ``count`` elements are new."""
    shape = line._type.shape
    is_new = ops.gt(ops.reshape(number, shape=(product(number._type.shape),)), 0)
    is_new = window(is_new, 0, 0, shape[0])
    starts = put_places(number, before, count)
    return _numbered(line, shape, places, (inverse, lengths), is_new, starts)


def _numbered(
    line: Tensor,
    shape: Any,
    places: Tensor | None,
    wanted: tuple[bool, bool],
    is_new: Tensor,
    starts: Tensor,
) -> Any:
    """Results for a line whose equal elements are neighbours, of which ``is_new`` says and
    ``starts`` lists those that differ from the one before.

    ``places``: where the elements were; None if they are where they were.
    """
    parts = [ops.index(line, starts, inside=True)]
    if wanted[0]:
        number = ops.sub(ops.cumsum(ops.cast(is_new, int64), axis=0), 1)
        if places is not None:
            zeros = ops.full(value=0, shape=line._type.shape, dtype=int64, device=line._type.device)
            number = ops.index_put(zeros, number, places, mode="over")
        parts.append(ops.reshape(number, shape=shape))
    if wanted[1]:
        parts.append(_lengths(starts, line._type.shape[0]))
    return tuple(parts) if len(parts) > 1 else parts[0]


@fused()
def _is_new(line: Tensor) -> Tensor:
    """Whether each element differs from the one before it."""
    at = positions_along(line._type.shape, 0, line)
    before = ops.index(line, ops.maximum(ops.sub(at, 1), 0))
    result: Tensor = ops.bitwise_or(ops.eq(at, 0), ops.ne(line, before))
    return result


@fused("size")
def _lengths(starts: Tensor, size: Dim) -> Tensor:
    """The distances of places in order from one another, and of the last from ``size``."""
    later = window(starts, 0, 1, starts._type.shape[0] - 1)
    end = ops.constant(size, starts._type.with_shape(()))
    result: Tensor = ops.sub(ops.pad(later, end, low=(0,), high=(1,)), starts)
    return result


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The different elements (or slices along ``dim``), in order whether asked for or not.

    With ``return_inverse`` the position of each element among them, with ``return_counts`` how
    often each occurs: (values, inverse, counts).
    """
    if _stays("unique", input, dim):
        return _found_in(_without_history(input), True, (return_inverse, return_counts))
    array, axis = _read("unique", input, dim)
    keys = _sortable(array, input._type.dtype)
    values, inverse, counts = np.unique(
        keys, return_inverse=True, return_counts=True, axis=axis, equal_nan=False
    )
    inverse = inverse.reshape(array.shape if axis is None else (array.shape[axis],))
    return _results(input, values, inverse, counts, (return_inverse, return_counts))


def unique_consecutive(
    input: Tensor,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The elements (or slices along ``dim``) without those equal to the one just before.

    Results as those of ``unique``.
    """
    if _stays("unique_consecutive", input, dim):
        return _found_in(_without_history(input), False, (return_inverse, return_counts))
    array, axis = _read("unique_consecutive", input, dim)
    line = array.reshape(-1) if axis is None else np.moveaxis(array, axis, 0)
    size = line.shape[0]
    rows = line.reshape(size, -1 if line.size else 0)
    first = np.ones(size, bool)
    first[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    values = line[first] if axis is None else np.moveaxis(line[first], 0, axis)
    inverse = np.cumsum(first) - 1
    counts = np.diff(np.append(np.flatnonzero(first), size))
    if axis is None:
        inverse = inverse.reshape(array.shape)
    return _results(input, values, inverse, counts, (return_inverse, return_counts))


__all__ = ["unique", "unique_consecutive"]

TENSOR_METHODS: dict[str, Callable[..., Any]] = {name: globals()[name] for name in __all__}
