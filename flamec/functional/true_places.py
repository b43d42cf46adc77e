"""Elements under a mask, found on the device that holds it: the host reads one number.

In: a mask on a GPU, or of a trace, whose program is split where the number is read
(``Execution.read_size``). Out: the places of its True elements, or the elements of a tensor there,
in order. On a GPU they are counted in lines, whose counts are added up; that gives each its number,
and it is put there (Blelloch 1990, "Prefix Sums and Their Applications", section 1.5.1). Other
elements are put behind the results, where nobody reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from flamec.device_array import DeviceArray
from flamec.functional.primitives import ops
from flamec.functional.shape import window
from flamec.fusing import fused
from flamec.gpu import gpu
from flamec.ir.shape import Dim, equal, product
from flamec.ir.types import TensorType, int16, int32, int64
from flamec.state import thread
from flamec.tape import set_tape_value, tape_value
from flamec.tensor import Tensor

LEAST_ELEMENTS = 1 << 17  # below, the host has found them before so many launches are done
_LINE, _LONG_LINE, _MANY = 1024, 4096, 1 << 22  # elements of a line, and of a mask with long lines
_MOST_TYPES = 4096
_types: dict[Any, TensorType] = {}  # by number of the type that had another shape, and the shape
_BEHIND = 16  # lines of room, so that those which nobody reads are not all put in few places


def is_large_mask(tensor: Tensor) -> bool:
    """Whether what is True is found where the tensor is, rather than by the host."""
    if thread.trace is not None or tensor._array is None or tensor._type.device.type == "cpu":
        return False
    return math.prod(tensor._array.shape) >= LEAST_ELEMENTS


def finds_places(tensor: Tensor) -> bool:
    """Whether places are found where the tensor is: those of large masks, and in programs."""
    trace = thread.trace
    return is_large_mask(tensor) if trace is None else trace.can_read()


def unravelled(places: Tensor, shape: Sequence[Dim]) -> tuple[Tensor, ...]:
    """The indices of places that are counted through all dimensions."""
    found: list[Tensor] = []
    for size in reversed(shape[1:]):
        found.insert(0, ops.remainder(places, size))
        places = ops.floor_divide(places, size)
    return (places, *found)


def true_places(mask: Tensor) -> Tensor:
    """The places of a mask's True elements, counted through all dimensions: int64 [count]."""
    trace = thread.trace
    if trace is not None and trace.execution is not None:
        found: Tensor = trace.execution.places_of(mask, _places_in_program)
        return found
    if 0 in mask._type.shape:
        return ops.full(value=0, shape=(0,), dtype=int64, device=mask._type.device)
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
    lines, counts = counted_lines(mask)
    count = count_of(counts) if count is None else count
    return _beginning(_put_places(lines, counts, count), count)


def counted_lines(mask: Tensor) -> tuple[Tensor, Tensor]:
    """A mask in lines, and how many of its elements are True up to the end of each."""
    lines = _lines(mask, False)
    return lines, _counts(lines)


def count_of(counts: Tensor) -> int:
    """How many elements are True, read by the host from what ``counted_lines`` has counted."""
    array = counts._array
    if array.__class__ is DeviceArray:  # without a tensor for the last of them
        return gpu(array.device).read_last(array)
    return int(counts[-1].item())


def places_in_lines(lines: Tensor, counts: Tensor, count: Dim) -> Tensor:
    """The places of ``count`` True elements of ``counted_lines``, within a program."""
    return window(_put_places(lines, counts, count), 0, 0, count)


def true_elements(x: Tensor, mask: Tensor) -> Tensor:
    """The elements of x where a mask of its shape is True: [count]."""
    if 0 in mask._type.shape:
        nothing: Tensor = ops.index(ops.reshape(x, shape=(0,)), true_places(mask))
        return nothing
    lines, counts = counted_lines(mask)
    count = count_of(counts)
    return _beginning(_put_elements(_lines(x, 0), lines, counts, count), count)


def _lines(x: Tensor, filling: bool | int) -> Tensor:
    """The elements of x in lines, the last of which is filled up."""
    size = product(x._type.shape)
    line = _LONG_LINE if isinstance(size, int) and size >= _MANY else _LINE
    missing = -size % line
    if missing.__class__ is int and not missing:
        made = laid_out(x, (size // line, line))
        if made is not None:
            return made
    flat = ops.reshape(x, shape=(size,))
    if not equal(missing, 0):
        rest = ops.full(value=filling, shape=(), dtype=x._type.dtype, device=x._type.device)
        flat = ops.pad(flat, rest, low=(0,), high=(missing,))
    lines: Tensor = ops.reshape(flat, shape=((size + missing) // line, line))
    return lines


def laid_out(x: Tensor, shape: tuple[Dim, ...]) -> Tensor | None:
    """The first elements of x in another shape, as a tensor that has the memory to itself; None
    where they do not lie in order on a GPU, or are recorded.

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
def _counts(lines: Tensor) -> Tensor:
    """How many True elements there are up to the end of each line."""
    counts = ops.sum(ops.cast(lines, int32), axes=(1,))
    result: Tensor = ops.cumsum(ops.cast(counts, int64), axis=0)
    return result


@fused("count")
def _put_places(lines: Tensor, counts: Tensor, count: Dim) -> Tensor:
    """The places of so many True elements; others behind them."""
    height, width = lines._type.shape
    where: Any = {"dtype": int64, "device": lines._type.device}
    place = ops.iota(shape=(height * width,), axis=0, **where)
    return _put(ops.reshape(place, shape=(height, width)), lines, counts, count)


@fused("count")
def _put_elements(x: Tensor, lines: Tensor, counts: Tensor, count: Dim) -> Tensor:
    """So many elements of x where lines are True; others behind them."""
    return _put(x, lines, counts, count)


def _beginning(room: Tensor, count: Dim) -> Tensor:
    """So many elements, as a tensor of its own: nothing else refers to what is behind them."""
    made = laid_out(room, (count,))
    if made is not None:
        return made
    kept = window(room, 0, 0, count)
    if kept._array is None:  # traces give values memory of their own
        return kept
    result = Tensor._from_array(kept._array, kept._type)
    set_tape_value(result, tape_value(kept))
    return result


def _put(x: Tensor, lines: Tensor, counts: Tensor, count: Dim) -> Tensor:
    shape = lines._type.shape
    height, width = shape
    where: Any = {"dtype": int64, "device": lines._type.device}
    if isinstance(height, int) and height:
        none = ops.full(value=0, shape=(), **where)
        earlier = ops.pad(window(counts, 0, 0, height - 1), none, low=(1,), high=(0,))
    else:  # there may be no line, or is none
        own = ops.sum(ops.cast(lines, int32), axes=(1,))
        earlier = ops.sub(counts, ops.cast(own, int64))
    earlier = ops.expand(ops.reshape(earlier, shape=(height, 1)), shape=shape)
    within = ops.cast(ops.cumsum(ops.cast(lines, int16), axis=1), int64)
    number = ops.sub(ops.add(within, earlier), 1)
    behind = ops.mul(ops.remainder(ops.iota(shape=shape, axis=0, **where), _BEHIND), width)
    behind = ops.add(ops.add(behind, ops.iota(shape=shape, axis=1, **where)), count)
    place = ops.where(lines, number, behind)
    room = ops.full(
        value=0, shape=(count + _BEHIND * width,), dtype=x._type.dtype, device=x._type.device
    )
    put: Tensor = ops.index_put(room, x, place, mode="over")
    return put
