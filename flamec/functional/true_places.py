"""Where a mask is True, found on the device that holds it: the host reads one number.

In: a mask on a GPU. Out: the places of its True elements, in order. The elements are counted in
lines, whose counts are added up (Blelloch 1990, "Prefix Sums and Their Applications", section
1.5.1); each True one then puts its place where its number says.
"""

from __future__ import annotations

from typing import Any

from flamec.functional.primitives import ops
from flamec.fusing import fused
from flamec.ir.shape import Dim
from flamec.ir.types import int64
from flamec.tensor import Tensor

LEAST_ELEMENTS = 1 << 17  # below, the host has found them before so many launches are done
_LINE = 1024
_SPARE = 1024  # places that take what no True element puts, so that few meet in one


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
    found: Tensor = _collected(lines, numbers, int(counts[-1].item()))
    return found


@fused()
def _numbers(lines: Tensor) -> Any:
    """How many True elements there are up to each in its line, and up to the end of each line."""
    flags = ops.cast(lines, int64)
    return ops.cumsum(flags, axis=1), ops.cumsum(ops.sum(flags, axes=(1,)), axis=0)


@fused("count")
def _collected(lines: Tensor, numbers: Tensor, count: Dim) -> Tensor:
    height, width = lines._type.shape
    where: Any = {"dtype": int64, "device": lines._type.device}
    own = ops.sum(ops.cast(lines, int64), axes=(1,))
    before = ops.reshape(ops.sub(ops.cumsum(own, axis=0), own), shape=(height, 1))
    row, column = (ops.iota(shape=(height, width), axis=axis, **where) for axis in range(2))
    place = ops.add(ops.mul(row, width), column)
    spare = ops.add(ops.remainder(place, _SPARE), count)
    target = ops.where(lines, ops.sub(ops.add(numbers, before), 1), spare)
    start = ops.full(value=0, shape=(count + _SPARE,), **where)
    placed = ops.index_put(start, ops.where(lines, place, 0), target, mode="add")
    result: Tensor = ops.slice(placed, starts=(0,), sizes=(count,), steps=(1,))
    return result
