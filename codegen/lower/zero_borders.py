"""Where an operand of a product is known to be 0: around an image that was given borders.

In: an operand whose steps through memory are known, and the array that it lies in. Out: for each
axis of the array with borders of zeros at which index along the rows and which along the depth an
element is in them. Invariant: an address says which element of the array it is only if no step
carries from one axis into the next; where one may, nothing is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from flamec.ir.graph import Value
from flamec.ir.kernel import Border, MatrixOperand
from flamec.ir.tasks import TaskGraph

MOST_BORDERS = 3  # of a product
# Rows' worth of zeros from which leaving them out is worth it: the other operand is then copied in
# the steps of the first one's depth, an element of it as long as some 20 to 60 products.
WORTH = 64


@dataclass
class _Axis:
    """An axis of an array, or several beside each other without borders; ``low``: the first place
    inside; ``inside``: how many there are. The loops along it are (position, step)."""

    size: int
    stride: int
    low: int
    inside: int
    last: int = 0  # the last place that loops reach
    rows: list[tuple[int, int]] = field(default_factory=list)
    depth: list[tuple[int, int]] = field(default_factory=list)

    @property
    def is_bordered(self) -> bool:
        return self.low != 0 or self.inside != self.size


def with_borders(operand: MatrixOperand, root: Value, context: TaskGraph) -> MatrixOperand:
    """The operand, which lies in ``root``, with what is known of its zeros."""
    return replace(operand, borders=_borders(operand, root, context))


def _borders(operand: MatrixOperand, root: Value, context: TaskGraph) -> tuple[Border, ...]:
    axes = _axes_of(root, context)
    steps = operand.uneven
    if axes is None or steps is None or not isinstance(operand.offset, int):
        return ()
    rest, starts = operand.offset, []
    for axis in axes:
        start, rest = divmod(rest, axis.stride)
        axis.last = start
        starts.append(start)
    loops = (
        *(("rows", i, size, stride) for i, (size, stride) in enumerate(steps.free)),
        *(("depth", i, size, stride) for i, (size, stride) in enumerate(steps.contracted)),
        *(("batch", i, size, stride) for i, (size, stride) in enumerate(operand.batch)),
    )
    for kind, position, size, stride in loops:
        if not isinstance(size, int) or not isinstance(stride, int) or stride < 0:
            return ()
        if size == 1 or stride == 0:
            continue
        axis = next(a for a in axes if a.stride <= stride)
        step, rest = divmod(stride, axis.stride)
        if rest or (kind == "batch" and axis.is_bordered):
            return ()
        axis.last += step * (size - 1)
        if kind != "batch":
            (axis.rows if kind == "rows" else axis.depth).append((position, step))
    if any(axis.last >= axis.size for axis in axes):
        return ()
    found: list[Border] = []
    free, contracted = ([n for n, _ in loops] for loops in (steps.free, steps.contracted))
    other = 1.0  # share of elements that no border has
    for axis, start in zip(axes, starts, strict=True):
        met = start < axis.low or axis.last >= axis.low + axis.inside
        if not (axis.is_bordered and met and len(axis.rows) == len(axis.depth) == 1):
            continue
        (row, row_step), (along, step) = axis.rows[0], axis.depth[0]
        low = axis.low - start
        found.append(Border(row, along, row_step, step, low, low + axis.inside))
        other *= _share_inside(found[-1], int(free[row]), int(contracted[along]))
    if (1 - other) * math.prod(map(int, free)) < WORTH:
        return ()
    return tuple(found[:MOST_BORDERS])


def _share_inside(b: Border, rows: int, depth: int) -> float:
    places = (i * b.row_step + j * b.step for i in range(rows) for j in range(depth))
    return sum(b.low <= place < b.high for place in places) / (rows * depth)


def _axes_of(root: Value, context: TaskGraph) -> list[_Axis] | None:
    """The axes of an array that was given borders of zeros; None of others."""
    node, shape = context.zeros_around(root), root.type.shape
    if node is None:
        return None
    inner = node.inputs[0].type.shape
    lows: Sequence[object] = node.attributes["low"]
    axes: list[_Axis] = []
    stride = 1
    for size, inside, low in reversed(list(zip(shape, inner, lows, strict=True))):
        if not (isinstance(size, int) and isinstance(inside, int) and isinstance(low, int)):
            return None
        if size < 1 or inside < 1:
            return None
        axis = _Axis(size, stride, low, inside)
        if axes and not axis.is_bordered and not axes[0].is_bordered:
            axes[0] = _Axis(size * axes[0].size, axes[0].stride, 0, size * axes[0].size)
        else:
            axes.insert(0, axis)
        stride *= size
    return axes
