"""The order in which a product goes through its depth.

In: two operands of which some is uneven. Out: the same with their contracted dimensions in one
other order. Any order is right if both have the same. The right operand is copied into panels, so
it is read in the order in which it lies in memory: a convolution's kernel as it is stored.
"""

from __future__ import annotations

from dataclasses import replace

from flamec.ir.kernel import MatrixOperand, Steps, UnevenSteps
from flamec.ir.matrix_layout import MOST_STEPS
from flamec.ir.shape import Dim


def in_one_order(
    left: MatrixOperand, right: MatrixOperand, rows: Dim, columns: Dim, depth: Dim
) -> tuple[MatrixOperand, MatrixOperand]:
    """Both operands as steps, with their depth in the order of the right one's memory.

    The order stays where the right one's columns are next to each other, and where the loops of
    the two cannot be divided into the same ones. Two even operands stay as they are.
    """
    if left.uneven is None and right.uneven is None:
        return left, right
    first, second = _steps(left, rows, depth), _steps(right, columns, depth)
    divided = _divided(first.contracted, second.contracted)
    if not any(stride == 1 for _, stride in second.free) and divided is not None:
        ordered = sorted(divided, key=lambda step: -abs(step[2]))
        if len(ordered) <= MOST_STEPS:
            first = replace(first, contracted=tuple((size, a) for size, a, _ in ordered))
            second = replace(second, contracted=tuple((size, b) for size, _, b in ordered))
    return replace(left, uneven=first), replace(right, uneven=second)


def _steps(operand: MatrixOperand, size: Dim, depth: Dim) -> UnevenSteps:
    if operand.uneven is not None:
        return operand.uneven
    return UnevenSteps(((size, operand.free),), ((depth, operand.contracted),))


def _divided(left: Steps, right: Steps) -> list[tuple[int, int, int]] | None:
    """Loops over the same indices with the steps of both, outermost first; None if sizes or steps
    are not known or do not divide each other."""
    queues: list[list[tuple[int, int]]] = []
    for steps in (left, right):
        queue = [(n, s) for n, s in steps if isinstance(n, int) and isinstance(s, int)]
        if len(queue) < len(steps):
            return None
        queues.append([step for step in queue if step[0] != 1])
    found: list[tuple[int, int, int]] = []
    first, second = queues
    while first and second:
        (n, a), (m, b) = first.pop(), second.pop()
        size = min(n, m)
        if size == 0 or n % size or m % size:
            return None
        found.append((size, a, b))
        if n > size:
            first.append((n // size, a * size))
        if m > size:
            second.append((m // size, b * size))
    return None if first or second else found[::-1]
