"""What Python makes of indices and of the bounds of slices: places and numbers of elements.

In: whole numbers as the user gives them, which may count from the end of a dimension or lie beyond
it, and the dimension's ``extent``. Each call computes these (``host_sizes.py``), as does a loaded
program (``deployment/formulas.py``).
"""

from __future__ import annotations

import math


def is_inside(index: int, extent: int) -> bool:
    return -extent <= index < extent


def are_inside(start: int, stop: int, extent: int) -> bool:
    """Whether both bounds are counted from one end and clamped to nothing."""
    return 0 <= start <= stop <= extent if start >= 0 else -extent <= start <= stop < 0


def fits(start: int, length: int, extent: int) -> bool:
    return length >= 0 and -extent <= start and place(start, extent) + length <= extent


def place(index: int, extent: int) -> int:
    return index + extent if index < 0 else index


def count(start: int | None, stop: int | None, step: int, extent: int) -> int:
    return len(range(*slice(start, stop, step).indices(extent)))


def count_of_range(start: float, end: float, step: float) -> int:
    """How many numbers there are from ``start`` up to, without, ``end``; -1 if they lead away."""
    if (end - start) * (1 if step > 0 else -1) < 0:
        return -1
    return math.ceil((end - start) / step)


def first(start: int, extent: int) -> int:
    return slice(start, None).indices(extent)[0]
