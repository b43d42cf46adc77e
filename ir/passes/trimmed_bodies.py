"""Bodies of loops and branches with fewer inputs and outputs: what ``trim_loops`` is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Node, Value


def live_values(body: Graph, wanted: Iterable[Value]) -> set[Value]:
    """``wanted`` and what it is computed from."""
    live = set(wanted)
    for node in reversed(body.nodes):
        if not live.isdisjoint(node.outputs):
            live.update(node.inputs)
    return live


def first_equals(
    operands: Sequence[Value], bodies: Sequence[Graph], live: set[Value], positions: range
) -> dict[int, int]:
    """For each input that a body reads, the first one of ``positions`` that is the same array.

    ``operands``: of the node, by the positions of the bodies' inputs.
    """
    first: dict[Value, int] = {}
    found = {}
    for position in positions:
        if any(body.inputs[position] in live for body in bodies):
            found[position] = first.setdefault(operands[position], position)
    return found


def trimmed_body(
    body: Graph, places: Sequence[int], same: Mapping[int, int], outputs: Sequence[Value]
) -> Graph:
    """The body that takes the inputs at ``places`` and gives ``outputs``.

    ``same``: which of these inputs stands for one that is not there, by position.
    """
    builder = GraphBuilder()
    known: dict[Value, Value] = {}
    for position in places:
        value = body.inputs[position]
        known[value] = builder.input(value.type, value.name)
    for position, shared in same.items():
        known[body.inputs[position]] = known[body.inputs[shared]]
    live = live_values(body, outputs)
    for node in body.nodes:
        if live.isdisjoint(node.outputs):
            continue
        types = tuple(v.type for v in node.outputs)
        inputs = [known[v] for v in node.inputs]
        copy = Node(node.op, inputs, node.attributes, node.location, node.scope, types)
        builder.nodes.append(copy)
        known.update(zip(node.outputs, copy.outputs, strict=True))
    return builder.build([known[v] for v in outputs], name=body.name)
