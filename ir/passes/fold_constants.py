"""Compute at compile time what depends on constants alone.

In: any graph. Out: elementwise operations and views of ``full`` values are ``full``
values themselves, so no array is ever made here: one number is computed, by the
operation's own NumPy meaning and with the rounding of its dtype. Sizes that are
known (``dim_size`` of an int) become constants too.
"""

from __future__ import annotations

import numpy as np

from flamec.ir.evaluate import run_op
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import Op, OpKind
from flamec.ir.passes.rewrite import RewriteBuilder, rewrite
from flamec.ir.shape import SymbolicDim


def fold_constants(graph: Graph, settled: set[Node] | None = None) -> Graph:
    """The same program with constant subexpressions replaced by their values.

    ``settled``: see ``rewrite``.
    """
    return rewrite(graph, _fold, applies=_may_fold, settled=settled)


def _may_fold(op: Op) -> bool:
    return op.kind in (OpKind.ELEMENTWISE, OpKind.VIEW, OpKind.CREATION)


def constant_value(value: Value) -> np.ndarray | None:
    """The element, of shape () and the value's dtype, if ``value`` is a ``full``; else None."""
    node = value.node
    if node is None or node.op.name != "full":
        return None
    return np.asarray(node.attributes["value"]).astype(value.type.dtype.numpy)


def _fold(b: RewriteBuilder, node: Node) -> Value | None:
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
