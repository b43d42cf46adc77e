"""A traced call that was split: segments, the decisions between them, and a last program.

In: a ``Captured`` with an ``Execution``. ``run`` repeats the segments and compares each value that
Python was given with the one that led to this path; the last program then writes and returns
what the function does. Paths of a function that begin alike share their segments, and in one
call their results (``Attempt``). Python code is not run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flamec.capture import Captured
from flamec.differentiable import DifferentiableProgram
from flamec.ir.graph import Graph, Value
from flamec.ir.passes.extract import extract
from flamec.ir.passes.settle_sizes import settle_sizes
from flamec.prepared import Prepared
from flamec.program import Program
from flamec.segments import (
    Decision,
    Execution,
    FoundSize,
    Origin,
    Segment,
    array_of,
    concrete_type,
    on_host,
)
from flamec.stages import Stages
from flamec.tensor import Tensor

DIVERGED: Any = type("Diverged", (), {"__repr__": lambda self: "<another path>"})()


Step = Segment | Decision | FoundSize


@dataclass
class Attempt:
    """What one call has computed so far: segments in order, with the arrays of their outputs.

    ``diverged``: the paths that turned out not to be the call's, each with the decision.
    """

    segments: list[Segment] = field(default_factory=list)
    results: list[list[Any]] = field(default_factory=list)
    diverged: dict[Any, Decision | FoundSize] = field(default_factory=dict)

    def restart(self, execution: Execution) -> None:
        """Go on with what a trace of this call has computed."""
        self.segments = [step for step in execution.steps if isinstance(step, Segment)]
        self.results = execution.results

    def run(self, number: int, segment: Segment, leaves: Sequence[Any], sizes: Any) -> None:
        """Let ``segment`` be the call's segment ``number``, computed once."""
        if number < len(self.segments) and self.segments[number] is segment:
            return
        del self.segments[number:], self.results[number:]
        self.results.append(segment.run(leaves, sizes, self.results))
        self.segments.append(segment)


class SplitProgram:
    """One path through a split function; called like ``Program``, with the call's ``Attempt``.

    ``final``: the last program, which takes the arguments and then what the segments computed.
    If the function's results take part in autograd outside, its derivative is that of the whole
    function.
    """

    def __init__(
        self,
        captured: Captured,
        make: Callable[[Graph, tuple[str, ...]], Prepared],
        make_whole: Callable[[Captured, Collection[Value]], Program | DifferentiableProgram],
    ) -> None:
        execution = captured.execution
        assert execution is not None
        self.captured = captured
        self._given = captured.given_symbols
        self.steps = list(_with_guards(execution.steps, captured))
        self._crossing: list[tuple[Origin, Value]] = []
        self.final: Program | DifferentiableProgram
        if captured.tracked_outputs or not execution.results:
            self.final = make_whole(captured, execution.places)
            if isinstance(self.final, DifferentiableProgram):
                self._crossing = [(execution.places[v], v) for v in self.final.given]
        else:
            self.final = self._cut(captured, make)
        self.check = self.final.check
        captured.execution = None

    @property
    def prepared(self) -> Prepared:
        """The last program."""
        return self.final.prepared

    @property
    def parts(self) -> list[tuple[str, Prepared]]:
        """The compiled programs, each with a title."""
        parts = [(f"part {i + 1}", s.prepared) for i, s in enumerate(self.segments)]
        last = [(f"last {title}".rstrip(), prepared) for title, prepared in self.final.parts]
        return [*parts, *last]

    @property
    def stages(self) -> Stages:
        """The last program's stages as text, by name."""
        return self.final.stages

    @property
    def segments(self) -> list[Segment]:
        """The programs before the last one, in order."""
        return [step for step in self.steps if isinstance(step, Segment)]

    @property
    def splits(self) -> list[Decision | FoundSize]:
        """Where Python was given values, in order."""
        return [step for step in self.steps if not isinstance(step, Segment)]

    def _cut(
        self, captured: Captured, make: Callable[[Graph, tuple[str, ...]], Prepared]
    ) -> Program:
        """The program that computes the function's results from those of the segments."""
        execution, graph = captured.execution, captured.graph
        assert execution is not None
        updates = {graph.inputs[i]: value for i, value in graph.updates.items()}
        part = extract(graph.nodes, execution.places, graph.outputs, updates, graph.name)
        sources = []
        for value in part.inputs:
            origin = execution.places.get(value)
            if origin is None:
                sources.append(captured.sources[value.index])
            else:
                sources.append(captured.source_behind(len(self._crossing), value))
                self._crossing.append((origin, value))
        whole = Program.checked(captured)
        last = replace(captured, graph=part.graph, sources=sources)
        settled = settle_sizes(part.graph, captured.equal_sizes)
        return Program(last, make(settled, captured.symbols), check=whole)

    def run(
        self, leaves: tuple[Any, ...], sizes: tuple[int, ...], attempt: Attempt | None = None
    ) -> Any:
        """The function's result; DIVERGED, and nothing has changed, if the call's path is another.

        CHANGED as for ``Program``.
        """
        attempt = Attempt() if attempt is None else attempt
        bindings = dict(zip(self._given, sizes, strict=True))
        number = 0
        for step in self.steps:
            if isinstance(step, Segment):
                known = tuple([bindings[s] for s in step.symbols])  # others were found later
                attempt.run(number, step, leaves, known)
                number += 1
                continue
            value = self._value(step, leaves, bindings, attempt)
            if isinstance(step, FoundSize):
                bindings[step.symbol] = step.value(value)
                holds = step.holds(bindings)
            else:
                holds = step.holds(value)
            if not holds:
                attempt.diverged[self] = step
                return DIVERGED
        sizes = tuple([bindings[s] for s in self.captured.symbols])
        if not self._crossing:
            return self.final.run(leaves, sizes)
        given = [
            Tensor._from_array(attempt.results[o.step][o.output], concrete_type(v.type, bindings))
            for o, v in self._crossing
        ]
        return self.final.run((*leaves, *given), sizes)

    def _value(
        self,
        step: Decision | FoundSize,
        leaves: Sequence[Any],
        sizes: Mapping[str, int],
        attempt: Attempt,
    ) -> Any:
        place = step.place
        if isinstance(place, Origin):
            return on_host(attempt.results[place.step][place.output])
        found = on_host(array_of(place, leaves, sizes))
        if place.kind == "number" and isinstance(step, Decision):
            return found.astype(step.expected.dtype)
        return found


def _with_guards(steps: Sequence[Step], captured: Captured) -> Iterator[Step]:
    """The steps; each size that is found with the guards that can be checked then."""
    known, missing = set(captured.given_symbols), captured.late_guards
    for step in steps:
        if isinstance(step, FoundSize):
            known.add(step.symbol)
            now = tuple([g for g in missing if g.symbols <= known])
            missing = [g for g in missing if g not in now]
            yield replace(step, guards=now)
        else:
            yield step
