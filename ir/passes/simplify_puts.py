"""Exact rule of ``simplify`` about values that are put into zeros, one into each row."""

from __future__ import annotations

from flamec.ir.graph import Node, Value
from flamec.ir.passes.fold_constants import constant_value
from flamec.ir.passes.rewrite import RewriteBuilder
from flamec.ir.shape import structurally_equal

_PUT = ("add", "set")


def sum_of_placed(b: RewriteBuilder, node: Node) -> Value | None:
    """The sum of each row of a matrix that has one value in a row, and zeros: that value.

    Sums start from 0.0, so that a value of -0.0 becomes 0.0. The matrix may be negated.
    """
    if node.op.name != "sum" or tuple(node.attributes["axes"]) != (1,):
        return None
    made = node.inputs[0].node
    negated = made is not None and made.op.name == "neg"
    if negated:
        assert made is not None
        made = made.inputs[0].node
    if made is None or made.op.name != "index_put" or made.attributes["mode"] not in _PUT:
        return None
    zeros, values, rows, *columns = made.inputs
    element = constant_value(zeros)
    if element is None or element != 0 or len(columns) != 1 or len(zeros.type.shape) != 2:
        return None
    counter = rows.node
    if counter is None or counter.op.name != "iota" or len(rows.type.shape) != 1:
        return None
    if not structurally_equal(rows.type.shape[0], zeros.type.shape[0]):
        return None
    if not values.type.dtype.is_floating_point:
        return None
    placed = b.neg(values) if negated else values
    return b.add(placed, b.constant(0.0, placed.type))
