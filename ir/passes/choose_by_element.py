"""Branches of little work, computed both and chosen element by element: on a GPU.

In: any graph. Out: one in which ``cond`` of branches that are elementwise, have a value for all
operands and move few bytes is both branches and a ``where`` for each result, which takes over
nothing from the other. A GPU takes longer to turn to a branch than to do that, and what is around
shares kernels with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from flamec.ir.estimates import value_bytes
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import OpKind
from flamec.ir.passes.rewrite import Replacement, RewriteBuilder, rewrite

MOST_BYTES = 1 << 20  # that both branches read and write
MOST_NODES = 64
_KINDS = (OpKind.ELEMENTWISE, OpKind.VIEW, OpKind.CREATION)
_DIVISIONS = ("floor_divide", "remainder", "fmod")  # of integers: undefined by 0


def choose_by_element(graph: Graph) -> Graph:
    """The graph without branches of little work; itself if it has none."""
    return rewrite(graph, _chosen, applies=lambda op: op.kind is OpKind.BRANCH)


def _chosen(b: RewriteBuilder, node: Node) -> Replacement:
    if node.op.kind is not OpKind.BRANCH or not _is_little(node):
        return None
    predicate, *operands = node.inputs
    first, second = (_copied(b, body, operands) for body in _branches(node))
    found = [b.where(predicate, x, y) for x, y in zip(first, second, strict=True)]
    return found[0] if len(found) == 1 else tuple(found)


def _copied(b: RewriteBuilder, body: Graph, operands: Sequence[Value]) -> list[Value]:
    """What a branch gives. Shape rules are not asked: their questions, guards have settled."""
    known = dict(zip(body.inputs, operands, strict=True))
    for node in body.nodes:
        b.locate(node)
        made = b.rewritten(node.on([known[v] for v in node.inputs]))
        known.update(zip(node.outputs, made, strict=True))
    return [known[v] for v in body.outputs]


def _branches(node: Node) -> tuple[Graph, Graph]:
    return node.attributes["true_body"], node.attributes["false_body"]


def _is_little(node: Node) -> bool:
    values = (*node.inputs, *node.outputs)
    if sum(map(value_bytes, values)) > MOST_BYTES:
        return False
    nodes = _nodes_of(node)
    return len(nodes) <= MOST_NODES and all(map(_is_safe, nodes))


def _is_safe(node: Node) -> bool:
    """Whether it may be computed for nothing. A view may spread a value over many places."""
    if node.op.kind not in _KINDS or sum(map(value_bytes, node.outputs)) > MOST_BYTES:
        return False
    return node.op.name not in _DIVISIONS or node.output.type.dtype.kind == "float"


def _nodes_of(node: Node) -> list[Node]:
    """What both branches compute, those of branches inside included."""
    found: list[Node] = []
    for body in _branches(node):
        for inner in body.nodes:
            found += _nodes_of(inner) if inner.op.kind is OpKind.BRANCH else [inner]
    return found
