"""A graph whose endings are kept apart: what is there several times is looked at once.

In: a graph. Out: a ``DividedGraph``: the graph without its endings (``ir.endings``), which gives
back what they read; a graph for each kind of ending; and what each of them reads and gives. Passes
change each of these graphs once (``changed``), however many endings of a kind there are. ``whole``
is the program as one graph again, endings last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from flamec.ir.endings import Ending, find_endings, find_raw_endings
from flamec.ir.graph import Graph, Location, Value
from flamec.ir.op import OpKind
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code

_Place = tuple[Location | None, str]  # a line of the user's and a module
_IN_ENDINGS = (OpKind.ELEMENTWISE, OpKind.CREATION)


@dataclass(frozen=True, eq=False)
class Use:
    """One ending. ``kind``: which of the bodies it runs; ``operands``: positions among the main
    graph's outputs; ``results``: outputs of the whole graph, or -1 - input for updates; ``places``:
    what stands for the body's lines and modules, where those are not its own."""

    kind: int
    operands: tuple[int, ...]
    results: tuple[int, ...]
    places: dict[_Place, _Place]


@dataclass(frozen=True, eq=False)
class DividedGraph:
    """See the module's docstring. ``shown``: which outputs of the whole graph the first outputs of
    ``main`` are; the others are what endings read. ``updated``: the whole's updates."""

    main: Graph
    shown: tuple[int, ...] = ()
    bodies: tuple[Graph, ...] = ()
    uses: tuple[Use, ...] = ()
    updated: tuple[int, ...] = ()

    def changed(self, change: Callable[[Graph], Graph]) -> DividedGraph:
        """The same with ``change`` applied to each graph; itself if that gives the same objects."""
        main, bodies = change(self.main), tuple(map(change, self.bodies))
        graphs = zip((main, *bodies), (self.main, *self.bodies), strict=True)
        if all(new is old for new, old in graphs):
            return self
        return replace(self, main=main, bodies=bodies)

    @cached_property
    def whole(self) -> Graph:
        """The program as one graph, which knows that it can be divided so."""
        if not self.uses:
            return self.main
        nodes, updates = list(self.main.nodes), dict(self.main.updates)
        outputs = dict(zip(self.shown, self.main.outputs, strict=False))
        for use, ending in zip(self.uses, self.endings, strict=True):
            nodes += ending.nodes
            for position, value in zip(use.results, ending.results, strict=True):
                if position < 0:
                    updates[-1 - position] = value
                else:
                    outputs[position] = value
        given = tuple(outputs[i] for i in range(len(outputs)))
        held = {i: updates[i] for i in self.updated}
        return Graph(self.main.inputs, tuple(nodes), given, held, self.main.name, self)

    @cached_property
    def endings(self) -> tuple[Ending, ...]:
        """All endings, with nodes of their own."""
        read = self.main.outputs[len(self.shown) :]
        templates = [_Template(body, kind) for kind, body in enumerate(self.bodies)]
        return tuple(
            templates[use.kind].ending([read[i] for i in use.operands], use.places)
            for use in self.uses
        )

    @property
    def elementwise_endings(self) -> list[Ending]:
        """Those that can be one task: nothing but elementwise operations and constants, each result
        computed by an operation of its own."""
        fine = [_is_elementwise(body) for body in self.bodies]
        return [e for use, e in zip(self.uses, self.endings, strict=True) if fine[use.kind]]


def divide(graph: Graph) -> DividedGraph:
    """The graph with its endings apart, as it was divided before if it was."""
    known = _division(graph)
    if known is not None:
        return known
    endings, same = find_raw_endings(graph)
    if not endings:
        return DividedGraph(graph)
    made = {value for ending in endings for value in ending.results}
    given = {i: same.get(v, v) for i, v in enumerate(graph.outputs)}
    updates = {i: same.get(v, v) for i, v in graph.updates.items()}
    targets = {v: i for i, v in given.items() if v in made}
    targets.update((v, -1 - i) for i, v in updates.items() if v in made)
    shown = tuple(i for i, v in given.items() if v not in made)
    read: dict[Value, int] = {}
    kinds: dict[object, int] = {}
    bodies: list[Graph] = []
    models: list[Ending] = []
    uses = []
    for ending in endings:
        kind = kinds.setdefault(ending.looks, len(kinds))
        operands = [v for v in ending.operands if not _is_constant(v)]
        if kind == len(bodies):
            bodies.append(_body(ending, operands, same))
            models.append(ending)
        moved = _places(models[kind], ending)
        positions = tuple([read.setdefault(v, len(read)) for v in operands])
        uses.append(Use(kind, positions, tuple([targets[v] for v in ending.results]), moved))
    main = Graph(
        graph.inputs,
        graph.nodes,
        (*(graph.outputs[i] for i in shown), *read),
        {i: v for i, v in graph.updates.items() if updates[i] not in made},
        graph.name,
    )
    main = eliminate_dead_code(main)
    return DividedGraph(main, shown, tuple(bodies), tuple(uses), tuple(updates))


def _places(model: Ending, ending: Ending) -> dict[_Place, _Place]:
    """The lines and modules of an ending by those of the one that stands for it."""
    moved: dict[_Place, _Place] = {}
    for old, new in zip(model.nodes, ending.nodes, strict=True):
        if old.location is not new.location or old.scope is not new.scope:
            place = new.location, new.scope
            if place != (old.location, old.scope):
                moved.setdefault((old.location, old.scope), place)
    return moved


def endings_of(graph: Graph) -> Iterable[Ending]:
    """The endings of a graph that may be one task each."""
    known = _division(graph)
    return find_endings(graph) if known is None else known.elementwise_endings


def _division(graph: Graph) -> DividedGraph | None:
    """What a graph was put together from, unless it was changed since."""
    known = graph.divided
    return known if known is not None and known.whole is graph else None


def _is_constant(value: Value) -> bool:
    return value.node is not None and value.node.op.kind is OpKind.CREATION


def _body(ending: Ending, operands: list[Value], same: Mapping[Value, Value]) -> Graph:
    """What an ending computes from its operands; constants are part of it."""
    inputs = [Value(v.type, None, 0, v.name) for v in operands]
    known = dict(zip(operands, inputs, strict=True))
    constants = [v.node for v in ending.operands if v.node is not None and _is_constant(v)]
    nodes = []
    for node in (*dict.fromkeys(constants), *ending.nodes):
        copy = node.on([known[same.get(v, v)] for v in node.inputs])
        known.update(zip(node.outputs, copy.outputs, strict=True))
        nodes.append(copy)
    return Graph(tuple(inputs), tuple(nodes), tuple(known[v] for v in ending.results))


def _is_elementwise(body: Graph) -> bool:
    outputs = set(body.outputs)
    computed = {v for n in body.nodes if n.op.kind is OpKind.ELEMENTWISE for v in n.outputs}
    plain = all(node.op.kind in _IN_ENDINGS for node in body.nodes)
    return plain and len(outputs) == len(body.outputs) and outputs <= computed


class _Template:
    """A body from which endings are made; values are numbered: inputs, then results in order."""

    def __init__(self, body: Graph, kind: int) -> None:
        number = {value: i for i, value in enumerate(body.values())}
        self._nodes = [(node, [number[v] for v in node.inputs]) for node in body.nodes]
        self._outputs = [number[v] for v in body.outputs]
        self._kind = kind

    def ending(self, operands: list[Value], places: dict[_Place, _Place]) -> Ending:
        """The body's nodes over these operands."""
        values, nodes = list(operands), []
        for node, inputs in self._nodes:
            copy = node.on([values[i] for i in inputs])
            if places:
                place = node.location, node.scope
                copy.location, copy.scope = places.get(place, place)
            nodes.append(copy)
            values += copy.outputs
        results = tuple([values[i] for i in self._outputs])
        return Ending(tuple(nodes), tuple(operands), results, self._kind)
