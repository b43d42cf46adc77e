"""Where a mask is True, found on the device that holds it: the host reads one number.

In: a mask on a GPU. Out: the places of its True elements, in order. The elements are counted in
lines, whose counts are added up (Blelloch 1990, "Prefix Sums and Their Applications", section
1.5.1); each result then looks for its line, and for its place in the line, by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flamec.functional.primitives import ops
from flamec.fusing import fused
from flamec.ir.shape import Dim
from flamec.ir.types import int32, int64
from flamec.state import thread
from flamec.tensor import Tensor

LEAST_ELEMENTS = 1 << 17  # below, the host has found them before so many launches are done
_LINE = 1024


def is_large_mask(tensor: Tensor) -> bool:
    """Whether what is True is found where the tensor is, rather than by the host."""
    if thread.trace is not None or tensor._array is None or tensor._type.device.type == "cpu":
        return False
    return tensor.numel() >= LEAST_ELEMENTS


def unravelled(places: Tensor, shape: Sequence[Dim]) -> tuple[Tensor, ...]:
    """The indices of places that are counted through all dimensions."""
    found: list[Tensor] = []
    for size in reversed(shape[1:]):
        found.insert(0, ops.remainder(places, size))
        places = ops.floor_divide(places, size)
    return (places, *found)


def true_places(mask: Tensor) -> Tensor:
    """The places of a mask's True elements, counted through all dimensions: int64 [count]."""
    size = mask.numel()
    if not size:
        return ops.full(value=0, shape=(0,), dtype=int64, device=mask._type.device)  # type: ignore[no-any-return]
    flat = ops.reshape(mask, shape=(size,))
    missing = -size % _LINE
    if missing:
        false = ops.full(value=False, shape=(), dtype=mask._type.dtype, device=mask._type.device)
        flat = ops.pad(flat, false, low=(0,), high=(missing,))
    lines = ops.reshape(flat, shape=((size + missing) // _LINE, _LINE))
    numbers, counts = _numbers(lines)
    found: Tensor = _collected(
        numbers, counts, int(counts[-1].item()), counts.numel().bit_length(), _LINE.bit_length()
    )
    return found


@fused()
def _numbers(lines: Tensor) -> Any:
    """How many True elements there are up to each in its line, and up to the end of each line."""
    flags = ops.cast(lines, int32)
    counts = ops.sum(ops.cast(lines, int64), axes=(1,))
    return ops.cumsum(flags, axis=1), ops.cumsum(counts, axis=0)


@fused("count")
def _collected(numbers: Tensor, counts: Tensor, count: Dim, steps: int, line_steps: int) -> Tensor:
    """The places of so many True elements; ``steps`` halve the lines, ``line_steps`` a line."""
    height, width = numbers._type.shape
    where: Any = {"dtype": int64, "device": numbers._type.device}
    number = ops.iota(shape=(count,), axis=0, **where)
    none = ops.mul(number, 0)
    line = _not_greater(lambda at: ops.index(counts, at), number, none, height, steps)
    earlier = ops.pad(counts, ops.full(value=0, shape=(), **where), low=(1,), high=(0,))
    rank = ops.sub(number, ops.index(earlier, line))
    column = _not_greater(lambda at: ops.index(numbers, line, at), rank, none, width, line_steps)
    place: Tensor = ops.add(ops.mul(line, width), column)
    return place


def _not_greater(
    element: Callable[[Tensor], Tensor], values: Tensor, low: Tensor, size: Dim, steps: int
) -> Tensor:
    """How many of ``size`` elements in order are not greater than each value. One is greater."""
    high = ops.add(low, size)
    for _ in range(steps):
        middle = ops.floor_divide(ops.add(low, high), 2)
        before = ops.le(ops.cast(element(ops.minimum(middle, size - 1)), int64), values)
        before = ops.bitwise_and(ops.lt(low, high), before)
        low, high = ops.where(before, ops.add(middle, 1), low), ops.where(before, high, middle)
    return low
