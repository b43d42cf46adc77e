"""Endings: sets of elementwise operations on which nothing else of a program depends.

In: a graph. Out: the endings that it has several times, as an optimizer's update of a parameter is
there for each parameter. An ending is one task from then on (``ir.tasks``), so that whatever
follows takes as long for an update of twenty operations as for one operation; what is asked of its
operations by themselves is asked once for all endings that look alike.

An operation belongs to an ending exactly if all that reads its result does. So an ending may be
computed at once, after everything that it reads; what several endings read belongs to none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import OpKind

MOST_NODES = 256  # what is larger is hardly there twice


@dataclass(frozen=True, eq=False)
class Ending:
    """``nodes``: elementwise, in order, with constants that they read, perhaps. ``operands``: the
    values that they read and do not make, each once; ``results``: those that the program gives
    back. ``looks``: equal for endings that do the same to values of the same types that are
    connected in the same way."""

    nodes: tuple[Node, ...]
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    looks: object

    @cached_property
    def operations(self) -> tuple[Node, ...]:
        """The nodes without constants, which are computed where they are read."""
        return tuple([node for node in self.nodes if node.op.kind is OpKind.ELEMENTWISE])


def find_endings(graph: Graph) -> list[Ending]:
    """The endings of several operations that are there more than once, in order of last nodes."""
    return _found(graph, {}, False)


def find_raw_endings(graph: Graph) -> tuple[list[Ending], Mapping[Value, Value]]:
    """The same of a graph as it was traced, and values that stand for equal ones there: for what
    barriers give, and for what elementwise operations compute again.

    Endings that look alike read the same constants. Nodes read values for which others stand.
    """
    same = _same_values(graph)
    return _found(graph, same, True), same


def _same_values(graph: Graph) -> dict[Value, Value]:
    same: dict[Value, Value] = {}
    first: dict[Any, Value] = {}
    for node in graph.nodes:
        output = node.outputs[0]
        if node.op.kind is OpKind.BARRIER:
            source = node.inputs[0]
            same[output] = same.get(source, source)
        elif node.op.kind in (OpKind.ELEMENTWISE, OpKind.CREATION):
            operands = [id(same.get(v, v)) for v in node.inputs]
            if node.op.commutative:
                operands.sort()
            key = node.op.name, *operands, *node.attributes_key
            known = first.setdefault(key, output)
            if known is not output:
                same[output] = known
    return same


def _found(graph: Graph, same: Mapping[Value, Value], raw: bool) -> list[Ending]:
    keys: dict[Any, int] = {}
    results = Counter([same.get(v, v) for v in graph.results])
    sets = [n for n in _node_sets(graph, results, same) if 1 < len(n) <= MOST_NODES]
    endings = [_ending(nodes, results, same, keys, raw) for nodes in sets]
    count = Counter(ending.looks for ending in endings)
    return [ending for ending in endings if count[ending.looks] > 1]


def _node_sets(
    graph: Graph, results: Counter[Value], same: Mapping[Value, Value]
) -> list[list[Node]]:
    """The nodes of all endings, in order."""
    found: list[list[Node]] = []
    home: dict[Value, list[Node] | None] = {}  # the ending of all that reads a value, if it is one
    for node in reversed(graph.nodes):
        nodes: list[Node] | None = None
        if node.outputs[0] in same:
            continue
        if node.op.kind is OpKind.ELEMENTWISE and len(node.outputs) == 1:
            output = node.outputs[0]
            count = results[output]
            if count <= 1:  # of two results with one value the second is a copy
                if output in home:
                    nodes = home[output]
                elif count:
                    nodes = []
                    found.append(nodes)
        read = [same.get(v, v) for v in node.inputs] if same else node.inputs
        if nodes is None:
            for value in read:
                home[value] = None
        else:
            nodes.append(node)
            for value in read:
                if home.setdefault(value, nodes) is not nodes:
                    home[value] = None
    return [nodes[::-1] for nodes in reversed(found)]


def _ending(
    nodes: Sequence[Node],
    results: Counter[Value],
    same: Mapping[Value, Value],
    keys: dict[Any, int],
    raw: bool,
) -> Ending:
    """``keys``: numbers for what single nodes do; ``raw``: see ``find_raw_endings``."""
    number: dict[Value, int] = {}
    operands, given = [], []
    looks: list[object] = []
    for node in nodes:
        output = node.outputs[0]
        key = node.op.name, node.attributes_key, output.type.number
        looks.append(keys.setdefault(key, len(keys)))
        for value in node.inputs:
            value = same.get(value, value)
            known = number.get(value)
            if known is None:
                known = number[value] = len(number)
                operands.append(value)
                made = value.node if raw else None
                constant = made is not None and made.op.kind is OpKind.CREATION
                looks.append((value.type.number, made.key() if made and constant else None))
            looks.append(known)
        number[output] = len(number)
        if output in results:
            given.append(output)
            looks.append(None)
    return Ending(tuple(nodes), tuple(operands), tuple(given), tuple(looks))
