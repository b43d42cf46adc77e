"""Compute at compile time what depends on constants alone.

In: any graph. Out: elementwise operations and views of ``full`` values are ``full``
values themselves, so no array is ever made here: one number is computed, by the
operation's own NumPy meaning and with the rounding of its dtype. Sizes that are
known (``dim_size`` of an int) become constants too. So does what has no elements and
reads none: no kernel computes, divides or looks up for it what no element asks for.
"""

from __future__ import annotations

import numpy as np

from flamec.ir.evaluate import run_op
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import Op, OpKind
from flamec.ir.passes.rewrite import RewriteBuilder, rewrite
from flamec.ir.shape import SymbolicDim, structurally_equal


def fold_constants(graph: Graph, settled: set[Node] | None = None) -> Graph:
    """The same program with constant subexpressions replaced by their values.

    ``settled``: see ``rewrite``.
    """
    return rewrite(graph, _fold, applies=_may_fold, settled=settled)


_OF_PLACES = (OpKind.GATHER, OpKind.SCATTER)  # at indices, which are checked if there are any
_NOTHING_FROM_NOTHING = (OpKind.ELEMENTWISE, OpKind.VIEW, OpKind.ASSEMBLE, OpKind.CREATION)
_FOLDED = (*_NOTHING_FROM_NOTHING, *_OF_PLACES)


def _may_fold(op: Op) -> bool:
    return op.kind in _FOLDED


def constant_value(value: Value) -> np.ndarray | None:
    """The element, of shape () and the value's dtype, if ``value`` is a ``full``; else None."""
    node = value.node
    if node is None or node.op.name != "full":
        return None
    return np.asarray(node.attributes["value"]).astype(value.type.dtype.numpy)


def _is_empty(value: Value) -> bool:
    """Whether a value has no elements, of whatever sizes its symbols stand for."""
    return any(structurally_equal(size, 0) for size in value.type.shape)


def _may_fail(value: Value) -> bool:
    """Whether an error that the run is to find hides behind a value without elements: of what is
    not folded, though operations of its kind are."""
    node = value.node
    if node is None or node.op.name == "full" or not _is_empty(value):
        return False
    return node.op.kind in _FOLDED or node.op.kind is OpKind.REQUIREMENT


def _fold_empty(b: RewriteBuilder, node: Node) -> Value | None:
    """What is computed of no elements, or the table that nothing is put into."""
    if node.op.kind in _OF_PLACES and not _is_empty(node.inputs[-1]):
        return None
    if node.op.kind is OpKind.SCATTER:
        return node.inputs[0]
    if node.op.name == "full" or not _is_empty(node.output) or any(map(_may_fail, node.inputs)):
        return None
    return _full(b, np.zeros((), node.output.type.dtype.numpy), node.output)


def _fold(b: RewriteBuilder, node: Node) -> Value | None:
    empty = _fold_empty(b, node)
    if empty is not None:
        return empty
    if node.op.kind is OpKind.ELEMENTWISE:
        return _fold_elementwise(b, node)
    if node.op.kind is OpKind.VIEW:
        element = constant_value(node.inputs[0])
        return None if element is None else _full(b, element, node.output)
    if node.op.kind is OpKind.CREATION and node.op.name != "full" and not node.output.type.shape:
        if any(isinstance(a, SymbolicDim) for a in node.attributes.values()):
            return None
        (element,) = run_op(node.op, node.attributes, (), (node.output.type,))
        return _full(b, element, node.output)
    return None


def _fold_elementwise(b: RewriteBuilder, node: Node) -> Value | None:
    elements = []
    for value in node.inputs:
        element = constant_value(value)
        if element is None:
            return None
        elements.append(element)
    try:
        (result,) = run_op(node.op, node.attributes, elements, (node.output.type.with_shape(()),))
    except ZeroDivisionError:
        return None  # an integer division by zero is an error of the run, not of the compiler
    return _full(b, result, node.output)


def _full(b: RewriteBuilder, element: np.ndarray, like: Value) -> Value:
    type = like.type
    return b.full(value=element.item(), shape=type.shape, dtype=type.dtype, device=type.device)
