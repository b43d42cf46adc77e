"""Let loops compute and keep only what is read.

In: a graph without dead nodes. Out: the graph in which every loop stacks a value once and only if
somebody reads the stack, carries a value only if a result follows from it, and is given an array
once and only if its body reads it. So what was stacked for a derivative that nobody asked for is
gone.
"""

from __future__ import annotations

from collections.abc import Sequence

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import OpKind


def trim_loops(graph: Graph) -> Graph:
    """The same program with nothing in a loop that no result needs."""
    loops = [node for node in graph.nodes if node.op.kind is OpKind.LOOP]
    if not loops:
        return graph
    replaced: dict[Value, Value] = {}
    live = set(graph.results)
    nodes: list[Node] = []
    trimmed: dict[Node, _Trimmed] = {}
    for node in reversed(graph.nodes):  # readers first: a trimmed loop reads less
        operands: Sequence[Value] = node.inputs
        if node.op.kind is OpKind.LOOP:
            found = trimmed[node] = _Trimmed(node, [v in live for v in node.outputs])
            operands = found.operands
        live.update(operands)
    for node in graph.nodes:
        made = trimmed[node].node(replaced) if node in trimmed else _moved(node, replaced)
        if made is not None:
            nodes.append(made)
    if not replaced:
        return graph
    return Graph(
        graph.inputs,
        tuple(nodes),
        tuple(replaced.get(v, v) for v in graph.outputs),
        {i: replaced.get(v, v) for i, v in graph.updates.items()},
        graph.name,
    )


def _moved(node: Node, replaced: dict[Value, Value]) -> Node:
    operands = tuple(replaced.get(v, v) for v in node.inputs)
    if all(a is b for a, b in zip(operands, node.inputs, strict=True)):
        return node
    types = tuple(v.type for v in node.outputs)
    made = Node(node.op, operands, node.attributes, node.location, node.scope, types)
    replaced.update(zip(node.outputs, made.outputs, strict=True))
    return made


class _Trimmed:
    """What is left of a loop of whose results only some are ``read``."""

    def __init__(self, node: Node, read: Sequence[bool]) -> None:
        self.original = node
        body: Graph = node.attributes["body"]
        carries, split = node.attributes["carries"], node.attributes["sequences"]
        split += carries
        self.body = body
        wanted = {v for v, flag in zip(body.outputs, read, strict=True) if flag}
        state = {i for i in range(carries) if read[i]}
        while True:
            live = _live(body, wanted)
            more = {i for i in range(carries) if body.inputs[i] in live} - state
            if not more:
                break
            state |= more
            wanted |= {body.outputs[i] for i in more}
        self.state = sorted(state)
        first = len(node.outputs) - node.attributes["residuals"]
        self.stacked: dict[Value, int] = {}  # each value that is stacked, and where it first was
        for position in range(carries, len(body.outputs)):
            if read[position]:
                self.stacked.setdefault(body.outputs[position], position)
        self.residuals = sum(position >= first for position in self.stacked.values())
        self.sequences = _first(node, body, live, range(carries, split))
        self.constants = _first(node, body, live, range(split, len(body.inputs)))
        kept = [*self.state, *self.sequences.values(), *self.constants.values()]
        self.operands = [node.inputs[i] for i in dict.fromkeys(kept)]
        same = len(state) + len(self.stacked) == len(node.outputs)
        self.unchanged = same and len(self.operands) == len(node.inputs)

    def node(self, replaced: dict[Value, Value]) -> Node | None:
        """The loop that is left; None for one of which nothing is read."""
        old, body = self.original, self.body
        if self.unchanged:
            return _moved(old, replaced)
        if not self.state and not self.stacked:
            replaced.update(zip(old.outputs, old.outputs, strict=True))
            return None
        builder = GraphBuilder()
        known: dict[Value, Value] = {}
        operands: list[Value] = []
        places = [*self.state, *dict.fromkeys([*self.sequences.values(), *self.constants.values()])]
        for position in places:
            value = body.inputs[position]
            known[value] = builder.input(value.type, value.name)
            operand = old.inputs[position]
            operands.append(replaced.get(operand, operand))
        for position, shared in (*self.sequences.items(), *self.constants.items()):
            known[body.inputs[position]] = known[body.inputs[shared]]
        outputs = [*(body.outputs[i] for i in self.state), *self.stacked]
        live = _live(body, set(outputs))
        for node in body.nodes:
            if live.isdisjoint(node.outputs):
                continue
            builder.location, builder.scope = node.location, node.scope
            types = tuple(v.type for v in node.outputs)
            inputs = [known[v] for v in node.inputs]
            copy = Node(node.op, inputs, node.attributes, node.location, node.scope, types)
            builder.nodes.append(copy)
            known.update(zip(node.outputs, copy.outputs, strict=True))
        attributes = {
            **old.attributes,
            "body": builder.build([known[v] for v in outputs], name=body.name),
            "carries": len(self.state),
            "sequences": len(set(self.sequences.values())),
            "residuals": self.residuals,
        }
        types = tuple(old.outputs[i].type for i in (*self.state, *self.stacked.values()))
        made = Node(old.op, operands, attributes, old.location, old.scope, types)
        results = dict(zip((*self.state, *self.stacked.values()), made.outputs, strict=True))
        for position, output in enumerate(old.outputs):
            value = body.outputs[position]
            if position in results:
                replaced[output] = results[position]
            elif position >= old.attributes["carries"] and value in self.stacked:
                replaced[output] = results[self.stacked[value]]
        return made


def _live(body: Graph, wanted: set[Value]) -> set[Value]:
    """``wanted`` and what it is computed from."""
    live = set(wanted)
    for node in reversed(body.nodes):
        if not live.isdisjoint(node.outputs):
            live.update(node.inputs)
    return live


def _first(node: Node, body: Graph, live: set[Value], positions: range) -> dict[int, int]:
    """For each operand that is read, the first one that is the same array."""
    first: dict[Value, int] = {}
    found = {}
    for position in positions:
        if body.inputs[position] in live:
            found[position] = first.setdefault(node.inputs[position], position)
    return found
