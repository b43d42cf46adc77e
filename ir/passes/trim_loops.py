"""Let loops and branches compute and keep only what is read.

In: a graph without dead nodes. Out: the graph in which every loop stacks a value once and only if
somebody reads the stack, carries a value only if a result or the loop's condition follows from it,
and is given an array once and only if its body reads it; in which branches give what is read and
is not the same operand in both. So what was stacked for a derivative that nobody asked for is
gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import OpKind
from flamec.ir.passes.trimmed_bodies import first_equals, live_values, trimmed_body


def trim_loops(graph: Graph) -> Graph:
    """The same program with nothing in a loop that no result needs."""
    if not any(op.kind in _FORMS for op in graph.ops):
        return graph
    replaced: dict[Value, Value] = {}
    live = set(graph.results)
    nodes: list[Node] = []
    trimmed: dict[Node, _TrimmedScan | _TrimmedWhile | _TrimmedBranch] = {}
    for node in reversed(graph.nodes):  # readers first: a trimmed loop reads less
        operands: Sequence[Value] = node.inputs
        if node.op.kind in _FORMS:
            form = _FORMS[node.op.kind]
            found = trimmed[node] = form(node, [v in live for v in node.outputs])
            operands = found.operands
        live.update(operands)
    for node in graph.nodes:
        made = trimmed[node].node(replaced) if node in trimmed else _moved(node, replaced)
        if made is not None:
            nodes.append(made)
    if not replaced:
        return graph
    return graph.with_nodes(nodes, replaced)


def _moved(node: Node, replaced: dict[Value, Value]) -> Node:
    made = node.reading(replaced)
    if made is not node:
        replaced.update(zip(node.outputs, made.outputs, strict=True))
    return made


class _TrimmedScan:
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
            live = live_values(body, wanted)
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
        operands = node.inputs
        self.sequences = first_equals(operands, [body], live, range(carries, split))
        self.constants = first_equals(operands, [body], live, range(split, len(body.inputs)))
        kept = [*self.state, *self.sequences.values(), *self.constants.values()]
        self.places = list(dict.fromkeys(kept))
        counted = node.inputs[len(body.inputs) :]
        self.operands = [*(node.inputs[i] for i in self.places), *counted]
        same = len(state) + len(self.stacked) == len(node.outputs)
        self.unchanged = same and len(self.operands) == len(node.inputs)

    def node(self, replaced: dict[Value, Value]) -> Node | None:
        """The loop that is left; None for one of which nothing is read."""
        old, body = self.original, self.body
        if self.unchanged:
            return _moved(old, replaced)
        if not self.state and not self.stacked:
            _dropped(old, replaced)
            return None
        outputs = [*(body.outputs[i] for i in self.state), *self.stacked]
        attributes = {
            **old.attributes,
            "body": trimmed_body(body, self.places, self.sequences | self.constants, outputs),
            "carries": len(self.state),
            "sequences": len(set(self.sequences.values())),
            "residuals": self.residuals,
        }
        kept = (*self.state, *self.stacked.values())
        made = _trimmed(old, self.operands, attributes, kept, replaced)
        results = dict(zip(kept, made.outputs, strict=True))
        for position in range(old.attributes["carries"], len(old.outputs)):
            value = body.outputs[position]
            if value in self.stacked:
                replaced[old.outputs[position]] = results[self.stacked[value]]
        return made


class _TrimmedWhile:
    """What is left of a loop with a condition, which is computed whatever is read."""

    def __init__(self, node: Node, read: Sequence[bool]) -> None:
        self.original = node
        body, condition = node.attributes["body"], node.attributes["condition"]
        carries = node.attributes["carries"]
        self.read = any(read)
        self.stacked: dict[Value, int] = {}
        for position in range(carries, len(body.outputs)):
            if read[1 + position]:
                self.stacked.setdefault(body.outputs[position], 1 + position)
        asked = live_values(condition, condition.outputs)
        state = {i for i in range(carries) if read[i] or condition.inputs[i] in asked}
        while True:
            live = live_values(body, [*(body.outputs[i] for i in state), *self.stacked])
            more = {i for i in range(carries) if body.inputs[i] in live} - state
            if not more:
                break
            state |= more
        self.state = sorted(state or {0})
        live |= asked
        places = range(carries, len(body.inputs))
        self.constants = first_equals(node.inputs, [body, condition], live, places)
        self.places = [*self.state, *dict.fromkeys(self.constants.values())]
        self.operands = [node.inputs[i] for i in self.places] if self.read else []
        same = len(self.state) + 1 + len(self.stacked) == len(node.outputs)
        self.unchanged = same and len(self.operands) == len(node.inputs)

    def node(self, replaced: dict[Value, Value]) -> Node | None:
        """The loop that is left; None for one of which nothing is read."""
        old = self.original
        if self.unchanged:
            return _moved(old, replaced)
        if not self.read:
            _dropped(old, replaced)
            return None
        body, condition = old.attributes["body"], old.attributes["condition"]
        outputs = [*(body.outputs[i] for i in self.state), *self.stacked]
        attributes = {
            **old.attributes,
            "condition": trimmed_body(condition, self.places, self.constants, condition.outputs),
            "body": trimmed_body(body, self.places, self.constants, outputs),
            "carries": len(self.state),
            "residuals": len(self.stacked),
        }
        count = old.attributes["carries"]
        kept = (*self.state, count, *self.stacked.values())
        made = _trimmed(old, self.operands, attributes, kept, replaced)
        results = dict(zip(kept, made.outputs, strict=True))
        for position in range(count, len(body.outputs)):
            value = body.outputs[position]
            if value in self.stacked:
                replaced[old.outputs[1 + position]] = results[self.stacked[value]]
        return made


class _TrimmedBranch:
    """What is left of a choice: results that are read and that are not the same operand."""

    def __init__(self, node: Node, read: Sequence[bool]) -> None:
        self.original = node
        self.bodies: dict[str, Graph] = node.bodies
        bodies = list(self.bodies.values())
        operands = node.inputs[1:]
        self.passed: dict[int, Value] = {}  # results that are an operand, whatever is chosen
        self.kept = []
        for position, flag in enumerate(read):
            found = {_operand(body, position, operands) for body in bodies}
            (same, *others) = found
            if flag and same is not None and not others:
                self.passed[position] = same
            elif flag:
                self.kept.append(position)
        live = set()
        for body in bodies:
            live |= live_values(body, [body.outputs[i] for i in self.kept])
        self.same = first_equals(operands, bodies, live, range(len(operands)))
        self.places = list(dict.fromkeys(self.same.values()))
        self.own = [node.inputs[0], *(operands[i] for i in self.places)] if self.kept else []
        self.operands = [*self.own, *self.passed.values()]
        complete = len(self.kept) == len(node.outputs)
        self.unchanged = complete and len(self.own) == len(node.inputs)

    def node(self, replaced: dict[Value, Value]) -> Node | None:
        """The choice that is left; None if there is none."""
        old = self.original
        if self.unchanged:
            return _moved(old, replaced)
        attributes: dict[str, Any] = dict(old.attributes)
        for name, body in self.bodies.items():
            outputs = [body.outputs[i] for i in self.kept]
            attributes[name] = trimmed_body(body, self.places, self.same, outputs)
        made = None
        if self.kept:
            made = _trimmed(old, self.own, attributes, self.kept, replaced)
        else:
            _dropped(old, replaced)
        for position, operand in self.passed.items():
            replaced[old.outputs[position]] = replaced.get(operand, operand)
        return made


def _operand(body: Graph, position: int, operands: Sequence[Value]) -> Value | None:
    """The operand that is the body's output, if one is."""
    value = body.outputs[position]
    return operands[value.index] if value.node is None else None


def _dropped(node: Node, replaced: dict[Value, Value]) -> None:
    replaced.update(zip(node.outputs, node.outputs, strict=True))


def _trimmed(
    old: Node,
    operands: Sequence[Value],
    attributes: dict[str, Any],
    kept: Sequence[int],
    replaced: dict[Value, Value],
) -> Node:
    """A node with the results of ``old`` at the positions ``kept``, which it replaces."""
    types = tuple(old.outputs[i].type for i in kept)
    inputs = [replaced.get(v, v) for v in operands]
    made = Node(old.op, inputs, attributes, old.location, old.scope, types)
    for position, result in zip(kept, made.outputs, strict=True):
        result.name = old.outputs[position].name
        replaced[old.outputs[position]] = result
    return made


_FORMS: dict[OpKind, type[_TrimmedScan] | type[_TrimmedWhile] | type[_TrimmedBranch]] = {
    OpKind.LOOP: _TrimmedScan,
    OpKind.WHILE: _TrimmedWhile,
    OpKind.BRANCH: _TrimmedBranch,
}
