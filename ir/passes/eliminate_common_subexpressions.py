"""Compute equal things once.

In: any graph. Out: the graph in which no two nodes apply the same operation with
the same attributes to the same values; the operands of commutative operations
count in any order. Random bits are a function of their state, so they are no
exception.
"""

from __future__ import annotations

from typing import Any

from flamec.ir.graph import Graph, Node, Value
from flamec.ir.passes.rewrite import RewriteBuilder, rewrite


def eliminate_common_subexpressions(graph: Graph) -> Graph:
    """The same program in which each node is the first of its kind."""
    first: dict[Any, Node] = {}

    def share(builder: RewriteBuilder, node: Node) -> tuple[Value, ...] | None:
        known = first.setdefault(_key(node), node)
        return None if known is node else known.outputs

    return rewrite(graph, share)


def _key(node: Node) -> Any:
    operands = [id(v) for v in node.inputs]
    if node.op.commutative:
        operands.sort()
    return (node.op.name, *operands, *node.attributes_key)
