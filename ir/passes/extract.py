"""The part of a program that computes some of its values from others.

In: nodes in topological order, the values that are given, those that are wanted. Out: a graph
of the nodes between them, and which values its inputs stand for. Nothing is computed twice
in it, and nothing that is not needed; what is given is never computed again.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flamec.ir.graph import Graph, Node, Value


@dataclass(frozen=True, eq=False)
class Extract:
    """``inputs[i]`` is the value of the whole program that input i of ``graph`` stands for."""

    graph: Graph
    inputs: tuple[Value, ...]


def needed_nodes(wanted: Iterable[Value], given: Container[Value]) -> set[Node]:
    """The nodes that compute ``wanted`` from ``given`` and from inputs of the program."""
    needed: set[Node] = set()
    pending = [v for v in wanted if v not in given]
    while pending:
        node = pending.pop().node
        if node is not None and node not in needed:
            needed.add(node)
            pending.extend(v for v in node.inputs if v not in given)
    return needed


def extract(
    nodes: Sequence[Node],
    given: Container[Value],
    outputs: Sequence[Value],
    updates: Mapping[Value, Value],
    name: str,
    first: Sequence[Value] = (),
) -> Extract:
    """The graph with these ``outputs``, and ``updates`` (input of the program -> new value).

    ``first``: what its inputs begin with, whether they are read or not.
    """
    needed = needed_nodes((*outputs, *updates.values()), given)
    inputs: list[Value] = []
    mapped: dict[Value, Value] = {}

    def found(value: Value) -> Value:
        known = mapped.get(value)
        if known is None:  # given, or an input of the program
            known = mapped[value] = Value(value.type, None, len(inputs), value.name)
            inputs.append(value)
        return known

    for value in first:
        found(value)
    copies: list[Node] = []
    for node in nodes:
        if node in needed:
            copy = Node(
                node.op,
                [found(v) for v in node.inputs],
                node.attributes,
                node.location,
                node.scope,
                tuple(v.type for v in node.outputs),
            )
            copies.append(copy)
            for old, new in zip(node.outputs, copy.outputs, strict=True):
                if old not in given:
                    mapped[old] = new
    results = tuple(found(v) for v in outputs)
    written = {found(target): found(value) for target, value in updates.items()}
    graph = Graph(
        tuple(mapped[v] for v in inputs),
        tuple(copies),
        results,
        {target.index: value for target, value in written.items()},
        name,
    )
    return Extract(graph, tuple(inputs))


def with_given(
    graph: Graph, given: Container[Value], position: int
) -> tuple[Graph, tuple[Value, ...]]:
    """The graph that takes what it needs of the values ``given`` as inputs, from ``position`` on,
    and its own inputs around them; and what it needs."""
    needed = needed_nodes(graph.results, given)
    read = [*(v for n in graph.nodes if n in needed for v in n.inputs), *graph.results]
    taken = tuple(dict.fromkeys(v for v in read if v in given and v.node is not None))
    inputs = (*graph.inputs[:position], *taken, *graph.inputs[position:])
    updates = {graph.inputs[i]: value for i, value in graph.updates.items()}
    part = extract(graph.nodes, given, graph.outputs, updates, graph.name, inputs)
    return part.graph, taken
