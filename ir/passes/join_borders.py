"""Sums of arrays that lie side by side, with zeros around each, as one array that is put together.

In: any graph. Out: one in which such a sum is a ``concatenate``, so that each array is written
where it belongs by what computes it. The derivative of cutting an array into pieces (the gates of a
recurrent layer, the halves of a gated one) is this sum, which reads every piece for each element.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flamec.ir.graph import Graph, Node, Value
from flamec.ir.passes.fold_constants import constant_value
from flamec.ir.passes.rewrite import Replacement, RewriteBuilder, rewrite
from flamec.ir.passes.simplify_broadcasts import same_shape
from flamec.ir.shape import Dim, structurally_equal


@dataclass(frozen=True)
class _Piece:
    """An array, and where it is along the only axis that it does not fill."""

    value: Value
    axis: int
    low: Dim
    high: Dim


def join_borders(graph: Graph) -> Graph:
    """The graph without sums of arrays that lie side by side; itself if there are none."""
    return rewrite(graph, _joined, applies=lambda op: op.name == "add")


def _joined(b: RewriteBuilder, node: Node) -> Replacement:
    if node.op.name != "add" or not node.output.type.dtype.is_floating_point:
        return None
    if not same_shape(*(value.type.shape for value in node.inputs)):
        return None
    left, right = map(_piece, node.inputs)
    if left is None or right is None or left.axis != right.axis:
        return None
    if not _is_before(left, right):
        left, right = right, left
        if not _is_before(left, right):
            return None
    parts = [part for piece in (left, right) for part in _parts(b, piece)]
    both: Value = b.concatenate(*parts, axis=left.axis)
    if structurally_equal(left.low, 0) and structurally_equal(right.high, 0):
        return both
    rank = both.type.ndim
    low = tuple(left.low if i == left.axis else 0 for i in range(rank))
    high = tuple(right.high if i == left.axis else 0 for i in range(rank))
    return b.pad(both, b.constant(0.0, both.type.with_shape(())), low=low, high=high)


def _is_before(first: _Piece, second: _Piece) -> bool:
    """Whether one piece begins where the other ends."""
    size = first.value.type.shape[first.axis]
    return structurally_equal(first.low + size, second.low)


def _piece(value: Value) -> _Piece | None:
    """What has zeros before and behind it along one axis, and nothing else."""
    pad = value.node
    if pad is None or pad.op.name != "pad":
        return None
    if not _is_zero(pad.inputs[1]):
        return None
    low, high = pad.attributes["low"], pad.attributes["high"]
    borders = list(zip(low, high, strict=True))
    wide = [n for n, pair in enumerate(borders) if not all(structurally_equal(d, 0) for d in pair)]
    if len(wide) != 1:
        return None
    (axis,) = wide
    return _Piece(pad.inputs[0], axis, low[axis], high[axis])


def _parts(b: RewriteBuilder, piece: _Piece) -> list[Value]:
    """The arrays that a piece was put together from, or it alone; each plus a zero, because no sum
    with one is -0.0."""
    node = piece.value.node
    together = node is not None and node.op.name == "concatenate"
    if node is None or not together or node.attributes["axis"] != piece.axis:
        return [_with_zero(b, piece.value)]
    return [_with_zero(b, part) for part in node.inputs]


def _with_zero(b: RewriteBuilder, value: Value) -> Value:
    node = value.node
    if node is not None and node.op.name == "add" and _is_zero(node.inputs[1]):
        return value
    result: Value = b.add(value, b.constant(0.0, value.type))
    return result


def _is_zero(value: Value) -> bool:
    """Whether a value is 0 everywhere, not -0: a sum with that one may be -0."""
    number = constant_value(value)
    return number is not None and number == 0 and not np.signbit(number)
