"""A line search for the strong Wolfe conditions, with PyTorch's choices where there are any.

Nocedal and Wright, Numerical Optimization (2nd ed.), algorithms 3.5 (bracketing) and
3.6 (zooming); cubic interpolation after equation 3.59.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from flamec.tensor import Tensor

__all__ = ["Point", "search"]

DECREASE, CURVATURE = 1e-4, 0.9  # c1 and c2 of the conditions
SMALLEST_CHANGE = 1e-9


@dataclass
class Point:
    """A step length with the value, the gradient and the slope along the direction there."""

    step: float
    value: float
    gradient: Tensor
    slope: float


def search(
    evaluate: Callable[[float], tuple[float, Tensor]],
    start: Point,
    step: float,
    direction: Tensor,
    limit: int,
) -> tuple[Point, int]:
    """The point that was found, and how often ``evaluate`` was called.

    ``start``: the point at 0. ``step``: the first length to try. ``limit``: the number of
    iterations after which the lowest end of the bracket is taken.
    """
    size = float(direction.abs().max())
    count = 0

    def at(step: float) -> Point:
        nonlocal count
        count += 1
        value, gradient = evaluate(step)
        return Point(step, value, gradient, float(gradient.dot(direction)))

    def is_too_high(point: Point) -> bool:
        return point.value > start.value + DECREASE * point.step * start.slope

    def is_flat(point: Point) -> bool:
        return abs(point.slope) <= -CURVATURE * start.slope

    before, now = start, at(step)
    tries = 0
    ends = [start, now]
    while tries < limit:
        if is_too_high(now) or (tries > 1 and now.value >= before.value):
            ends = [before, now]
            break
        if is_flat(now):
            return now, count
        if now.slope >= 0:
            ends = [before, now]
            break
        least = now.step + 0.01 * (now.step - before.step)
        before, now = now, at(_minimum_of_cubic(before, now, least, now.step * 10))
        tries += 1
        ends = [start, now]
    low, high = (0, 1) if ends[0].value <= ends[1].value else (1, 0)
    was_close = False
    while tries < limit and abs(ends[1].step - ends[0].step) * size >= SMALLEST_CHANGE:
        left, right = sorted(end.step for end in ends)
        step = _minimum_of_cubic(ends[0], ends[1], left, right)
        margin = 0.1 * (right - left)
        if min(right - step, step - left) < margin:
            if was_close or step >= right or step <= left:
                step = right - margin if right - step < step - left else left + margin
                was_close = False
            else:
                was_close = True
        else:
            was_close = False
        now = at(step)
        tries += 1
        if is_too_high(now) or now.value >= ends[low].value:
            ends[high] = now
            low, high = (0, 1) if ends[0].value <= ends[1].value else (1, 0)
            continue
        if is_flat(now):
            return now, count
        if now.slope * (ends[high].step - ends[low].step) >= 0:
            ends[high] = ends[low]
        ends[low] = now
    return ends[low], count


def _minimum_of_cubic(a: Point, b: Point, low: float, high: float) -> float:
    """Where the cubic through two points with their slopes is least, within [low, high]."""
    if a.step > b.step:
        a, b = b, a
    mean = a.slope + b.slope - 3 * (a.value - b.value) / (a.step - b.step)
    square = mean**2 - a.slope * b.slope
    if not square >= 0:
        return (low + high) / 2.0
    root = math.sqrt(square)
    step = b.step - (b.step - a.step) * ((b.slope + root - mean) / (b.slope - a.slope + 2 * root))
    return min(max(step, low), high)
