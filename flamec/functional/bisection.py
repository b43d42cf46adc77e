"""Counting what stands before a value, by bisection.

In: whether the element at a place does not stand before what is sought, elements in order. Out: how
many do. Every place that is asked for exists, so that nothing needs to be checked where it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flamec.functional.primitives import ops
from flamec.ir.shape import Dim, SymbolicDim
from flamec.ir.types import Device, int32, int64
from flamec.tensor import Tensor

_NARROW_STEPS = 30  # numbers that so many halvings may give fit in 32 bits


def counted_before(
    stands_after: Callable[[Tensor, int], Tensor],
    size: Dim,
    steps: int,
    shape: Sequence[Dim],
    device: Device,
) -> Tensor:
    """How many of ``size`` elements stand before what is sought at each place of ``shape``: int64.

    ``stands_after`` is given a place and how far behind it the element is that is asked for, which
    exists. A size that is a number is halved as often as it must be; of a symbol, which is at least
    1, it is known that it is less than 2 to the power of ``steps``. (Knuth, The Art of Computer
    Programming 3, section 6.2.1, "uniform binary search": steps depend on nothing but the size.)
    """
    kind = int32 if steps <= _NARROW_STEPS else int64
    low: Any = ops.full(value=0, shape=tuple(shape), dtype=kind, device=device)
    if isinstance(size, SymbolicDim):
        for step in (1 << n for n in reversed(range(steps))):
            reached = ops.add(low, step)
            place = ops.sub(ops.minimum(reached, size), 1)
            after = ops.bitwise_or(ops.gt(reached, size), stands_after(place, 0))
            low = ops.where(after, low, reached)
    else:
        left = size + 1  # counts that are still possible, from ``low`` on
        while left > 1:
            half = left // 2
            low = ops.where(stands_after(low, half - 1), low, ops.add(low, half))
            left -= half
    count: Tensor = ops.cast(low, int64)
    return count
