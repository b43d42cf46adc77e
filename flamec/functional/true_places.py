"""Elements under a mask, found on the device that holds it: the host reads one number.

In: a mask on a GPU, or of a trace, whose program is split where the number is read
(``Execution.read_size``). Out: the places of its True elements, or the elements of a tensor there,
in order. On a GPU they are numbered within lines, whose counts are added up; that gives each its
number, and it is put there (Blelloch 1990, "Prefix Sums and Their Applications", section 1.5.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from flamec.device_array import DeviceArray
from flamec.functional.primitives import is_empty_size, ops
from flamec.functional.shape import window
from flamec.fusing import fused
from flamec.gpu import gpu
from flamec.ir.shape import Dim, equal, product
from flamec.ir.types import TensorType, int16, int32, int64
from flamec.state import thread
from flamec.tape import tape_value
from flamec.tensor import Tensor

LEAST_ELEMENTS = 1 << 14  # below, the host has found them before so many launches are done
_LINE, _LONG_LINE = 1024, 4096  # elements of a line
_MANY = 1 << 12  # lines, of a mask that has long ones instead
_MOST_TYPES = 4096
_types: dict[Any, TensorType] = {}  # by number of the type that had another shape, and the shape


def is_large_mask(tensor: Tensor) -> bool:
    """Whether what is True is found where the tensor is, rather than by the host."""
    if thread.trace is not None or tensor._array is None or tensor._type.device.type == "cpu":
        return False
    return math.prod(tensor._array.shape) >= LEAST_ELEMENTS


def finds_places(tensor: Tensor) -> bool:
    """Whether places are found where the tensor is: those of large masks, and in programs."""
    trace = thread.trace
    return is_large_mask(tensor) if trace is None else trace.can_read()


def unravelled(places: Tensor, shape: tuple[Dim, ...]) -> tuple[Tensor, ...]:
    """The indices of places that are counted through all dimensions."""
    return (places,) if len(shape) == 1 else _unravelled(places, shape)


@fused("shape")
def _unravelled(places: Tensor, shape: tuple[Dim, ...]) -> tuple[Tensor, ...]:
    found: list[Tensor] = []
    for size in reversed(shape[1:]):
        found.insert(0, ops.remainder(places, size))
        places = ops.floor_divide(places, size)
    return (places, *found)


def unravelled_rows(places: Tensor, shape: tuple[Dim, ...]) -> Tensor:
    """The same as rows: [places, dimensions]."""
    return _as_column(places) if len(shape) == 1 else _rows(places, shape)


@fused("shape")
def _rows(places: Tensor, shape: tuple[Dim, ...]) -> Tensor:
    rows: Tensor = ops.concatenate(*map(_as_column, unravelled(places, shape)), axis=1)
    return rows


def _as_column(index: Tensor) -> Tensor:
    return _reshaped(index, (*index._type.shape, 1))


def true_places(mask: Tensor) -> Tensor:
    """The places of a mask's True elements, counted through all dimensions: int64 [count]."""
    if any(map(is_empty_size, mask._type.shape)):
        return _no_places(mask)
    trace = thread.trace
    if trace is not None and trace.execution is not None:
        found: Tensor = trace.execution.places_of(mask, _places_in_program)
        return found
    return _places_on_gpu(mask, None)


def _places_in_program(mask: Tensor, read_size: Callable[[Tensor], Dim]) -> Tensor:
    ones = ops.cast(mask, int64)
    return known_places(mask, read_size(ops.sum(ones, axes=tuple(range(len(mask._type.shape))))))


def known_places(mask: Tensor, count: Dim) -> Tensor:
    """As ``true_places``, within a program that knows how many there are."""
    if mask._type.device.type != "cpu":
        return _places_on_gpu(mask, count)
    found: Tensor = ops.true_places(mask, count=count)
    return found


def _places_on_gpu(mask: Tensor, count: Dim | None) -> Tensor:
    """``count``: of True elements, None if it is to be read."""
    number, before = numbered(mask)
    return put_places(number, before, count_of(before) if count is None else count)


def numbered(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The number of each True element of a mask in its line, from 1 (int16, 0: is not True), up to
    the end of the last line; and how many are True before each line, and last in all."""
    flat = _flat(mask)
    found: tuple[Tensor, Tensor] = _numbered(flat, _length(flat._type.shape[0]))
    return found


def count_of(before: Tensor) -> int:
    """How many elements are True, read by the host from what ``numbered`` has counted."""
    array = before._array
    if array.__class__ is DeviceArray:  # without a tensor for the last of them
        return gpu(array.device).read_last(array)
    return int(before[-1].item())


def put_places(number: Tensor, before: Tensor, count: Dim) -> Tensor:
    """The places of the ``count`` True elements of ``numbered``."""
    if is_empty_size(count):
        return _no_places(number)
    found: Tensor = _put_places(number, before, count, _length(number._type.shape[0]))
    return found


def true_elements(x: Tensor, mask: Tensor) -> Tensor:
    """The elements of x where a mask of its shape is True: [count]."""
    flat, count = _flat(x), 0
    size = flat._type.shape[0]
    if not is_empty_size(size):
        number, before = numbered(mask)
        count = count_of(before)
    elements: Tensor
    if count:
        elements = _put_elements(flat, number, before, count, _length(size))
    else:
        elements = ops.index(flat, _no_places(mask))
    return elements


def _length(size: Dim) -> int:
    """Of the lines that so many elements are numbered in; the same when the last is filled up."""
    return _LONG_LINE if isinstance(size, int) and -(-size // _LINE) >= _MANY else _LINE


def _no_places(x: Tensor) -> Tensor:
    none: Tensor = ops.full(value=0, shape=(0,), dtype=int64, device=x._type.device)
    return none


def _flat(x: Tensor) -> Tensor:
    """x in one dimension."""
    shape = x._type.shape
    if len(shape) == 1:
        return x
    return _reshaped(x, (product(shape),))


def _reshaped(x: Tensor, shape: tuple[Dim, ...]) -> Tensor:
    """x in another shape, by the short way if there is one."""
    made = laid_out(x, shape)
    reshaped: Tensor = ops.reshape(x, shape=shape) if made is None else made
    return reshaped


def laid_out(x: Tensor, shape: tuple[Dim, ...]) -> Tensor | None:
    """The elements of x in another shape, as a tensor that has the memory to itself; None where
    they do not lie in order on a GPU, or are recorded.

    What views would do by several operations, where nothing is recorded and nobody sees them.
    """
    array = x._array
    if array.__class__ is not DeviceArray or thread.trace is not None or not array.c_contiguous:
        return None
    if x._type.dtype.is_floating_point and (tape_value(x) is not None or x._requires_grad):
        return None
    known = _types.get((x._type.number, shape))
    if known is None:
        if len(_types) >= _MOST_TYPES:
            _types.clear()
        known = _types[x._type.number, shape] = x._type.with_shape(shape)
    made = DeviceArray(array.device, shape, array.dtype, array.address, array.memory)  # type: ignore[arg-type]  # a number
    return Tensor._from_array(made, known)


@fused()
def _numbered(mask: Tensor, line: int) -> tuple[Tensor, Tensor]:
    """``numbered`` in lines of a length."""
    lines = _lines(mask, line)
    counts = ops.cast(ops.sum(ops.cast(lines, int32), axes=(1,)), int64)
    none = ops.full(value=0, shape=(), dtype=int64, device=mask._type.device)
    before = ops.cumsum(ops.pad(counts, none, low=(1,), high=(0,)), axis=0)
    number = ops.cumsum(ops.cast(lines, int16), axis=1)
    number = ops.where(lines, number, ops.full_like(0, number._type))
    return ops.reshape(number, shape=(product(number._type.shape),)), before


def _lines(x: Tensor, line: int) -> Tensor:
    """The elements of x in lines, the last of which is filled up."""
    (size,) = x._type.shape
    missing = -size % line
    if not equal(missing, 0):
        rest = ops.full(value=0, shape=(), dtype=x._type.dtype, device=x._type.device)
        x = ops.pad(x, rest, low=(0,), high=(missing,))
    lines: Tensor = ops.reshape(x, shape=((size + missing) // line, line))
    return lines


@fused("count")
def _put_places(number: Tensor, before: Tensor, count: Dim, line: int) -> Tensor:
    place = ops.iota(shape=number._type.shape, axis=0, dtype=int64, device=number._type.device)
    return _put(place, number, before, count, line)


@fused("count")
def _put_elements(x: Tensor, number: Tensor, before: Tensor, count: Dim, line: int) -> Tensor:
    return _put(x, number, before, count, line)


def _put(x: Tensor, number: Tensor, before: Tensor, count: Dim, line: int) -> Tensor:
    """The elements of x that have a number."""
    x, number = _lines(x, line), _lines(number, line)
    shape = number._type.shape
    before = ops.reshape(window(before, 0, 0, shape[0]), shape=(shape[0], 1))
    place = ops.add(ops.expand(before, shape=shape), ops.cast(number, int64))
    place = ops.sub(place, 1)
    place = ops.where(ops.gt(number, 0), place, ops.full_like(-1, place._type))
    room = ops.full(value=0, shape=(count,), dtype=x._type.dtype, device=x._type.device)
    put: Tensor = ops.index_put(room, x, place, mode="over")
    return put
