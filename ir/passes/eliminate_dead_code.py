"""Drop nodes that neither an output nor an update depends on.

In: any graph. Out: the graph without them; inputs stay, used or not.
"""

from __future__ import annotations

from flamec.ir.graph import Graph, Node, Value
from flamec.ir.passes.visits import count_visits


def eliminate_dead_code(graph: Graph) -> Graph:
    """The same program with only the nodes that its results need."""
    count_visits(len(graph.nodes))
    live: set[Value] = set(graph.results)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if not live.isdisjoint(node.outputs):
            kept.append(node)
            live.update(node.inputs)
    if len(kept) == len(graph.nodes):
        return graph
    return Graph(graph.inputs, tuple(reversed(kept)), graph.outputs, graph.updates, graph.name)
