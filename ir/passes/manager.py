"""Runs passes in order: times each, keeps the graph after it, verifies if asked.

In: a graph and an ordered list of ``Pass`` and ``Repeat`` entries; each pass is run on the bodies
of loops, too. Out: the final
graph and one ``PassRecord`` for each run of a pass. A pass that raises, or leaves
a graph that breaks an invariant, becomes a ``PassError`` with the text of the graph
that went into it; nothing falls back to the graph before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from flamec.ir.bodies import change_bodies
from flamec.ir.divided_graph import DividedGraph, divide
from flamec.ir.graph import Graph
from flamec.ir.passes.visits import visits
from flamec.ir.printer import print_graph
from flamec.ir.verify import verify


@dataclass(frozen=True, slots=True)
class Pass:
    """A named function Graph -> Graph, and what holds after it.

    ``divides``: from here on passes see endings that are alike once (``ir.divided_graph``).
    """

    name: str
    run: Callable[[Graph], Graph]
    establishes: str = ""
    divides: bool = False


@dataclass(frozen=True, slots=True)
class Repeat:
    """Passes that are run in turn until none changes the graph, at most ``limit`` times."""

    passes: tuple[Pass, ...]
    limit: int = 4


@dataclass(frozen=True)
class PassRecord:
    """One run of a pass: how long it took and what it made of the graph.

    ``visits``: how many nodes it looked at (``visits.py``).
    """

    name: str
    seconds: float
    given: DividedGraph
    made: DividedGraph
    visits: int = 0

    @property
    def before(self) -> Graph:
        return self.given.whole

    @property
    def after(self) -> Graph:
        return self.made.whole

    @property
    def nodes_before(self) -> int:
        return len(self.before.nodes)

    @property
    def nodes_after(self) -> int:
        return len(self.after.nodes)

    @cached_property
    def changed(self) -> bool:
        """Whether the program differs; names and source lines do not count."""
        return self.before is not self.after and (
            self.before.fingerprint() != self.after.fingerprint()
        )


class PassError(RuntimeError):
    """A pass that failed. ``graph`` and ``text`` are its input: what reproduces the failure."""

    def __init__(self, name: str, graph: Graph, cause: Exception) -> None:
        super().__init__(
            f"the pass {name} failed on graph {graph.name} of {len(graph.nodes)} nodes: "
            f"{type(cause).__name__}: {cause}"
        )
        self.name = name
        self.graph = graph

    @property
    def text(self) -> str:
        return print_graph(self.graph)


def run_passes(
    graph: Graph, passes: Sequence[Pass | Repeat], check: bool = False
) -> tuple[Graph, list[PassRecord]]:
    """The graph after all passes, and a record of each run, in order.

    With ``check``, every pass must leave a graph that ``verify`` accepts, with the
    types of inputs, outputs and updates unchanged. Raises PassError.
    """
    records: list[PassRecord] = []
    state = DividedGraph(graph)
    for entry in passes:
        if isinstance(entry, Pass):
            state = _run(entry, state, check, records)
            continue
        for _ in range(entry.limit):
            before = state
            for single in entry.passes:
                state = _run(single, state, check, records)
            if state is before:
                break
    return state.whole, records


def _run(entry: Pass, state: DividedGraph, check: bool, records: list[PassRecord]) -> DividedGraph:
    start, visited = time.perf_counter(), visits()
    try:
        result = divide(state.whole) if entry.divides else state
        result = result.changed(lambda graph: change_bodies(entry.run(graph), entry.run))
        seconds = time.perf_counter() - start
        visited = visits() - visited
        if check:
            verify(result.whole)
            _check_signature(state.whole, result.whole)
    except Exception as error:
        raise PassError(entry.name, state.whole, error) from error
    records.append(PassRecord(entry.name, seconds, state, result, visited))
    return result


def _check_signature(before: Graph, after: Graph) -> None:
    if before.inputs != after.inputs:
        raise ValueError("the inputs are not those of the graph before")
    if [v.type for v in before.outputs] != [v.type for v in after.outputs]:
        raise ValueError("the outputs have not the types of those before")
    if set(before.updates) != set(after.updates):
        raise ValueError("other inputs are updated than before")
