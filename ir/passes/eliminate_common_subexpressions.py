"""Compute equal things once.

In: any graph. Out: the graph in which no two nodes apply the same operation with
the same attributes to the same values; the operands of commutative operations
count in any order. Random bits are a function of their state, so they are no
exception.
"""

from __future__ import annotations

from typing import Any

from flamec.ir.graph import Graph, Node, Value
from flamec.ir.passes.visits import count_visits


def eliminate_common_subexpressions(graph: Graph) -> Graph:
    """The same program in which each node is the first of its kind."""
    count_visits(len(graph.nodes))
    first: dict[Any, Node] = {}
    same: dict[Value, Value] = {}
    nodes: list[Node] = []
    unchanged, now = same.keys().isdisjoint, same.get
    for node in graph.nodes:
        read = node.inputs
        candidate = node if unchanged(read) else node.on([now(v, v) for v in read])
        operands = [id(v) for v in candidate.inputs]
        if node.op.commutative:
            operands.sort()
        kept = first.setdefault((node.op.name, *operands, *node.attributes_key), candidate)
        if kept is candidate:
            nodes.append(candidate)
        if kept is not node:
            same.update(zip(node.outputs, kept.outputs, strict=True))
    if not same:
        return graph
    return graph.with_nodes(nodes, same)
