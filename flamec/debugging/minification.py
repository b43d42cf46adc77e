"""Delta debugging: the smallest program that the search finds which fails in the same way.

In: a ``Reproduction``. Out: a smaller one with the same ``Signature``. A step is kept only if the
failure's signature holds, so the result fails for the reason for which the first one did. A. Zeller
and R. Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE Trans. Software Eng.
28(2), 2002, section 3, is the search over lists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from flamec.debugging.bisection import bisect
from flamec.debugging.comparison import REFUSALS
from flamec.debugging.replay import Signature, failure_of, signature_of, signature_of_error
from flamec.debugging.reproduction import Reproduction
from flamec.debugging.smaller_graphs import (
    Case,
    body_case,
    bypassed,
    cut,
    evaluated,
    resized,
    shorter_bodies,
    simpler_attributes,
    sizes,
    with_attributes,
    with_results,
)
from flamec.errors import CompileError
from flamec.ir.bodies import bound_graph
from flamec.ir.graph import Node, Value
from flamec.ir.shape_oracle import Undecidable
from flamec.ir.verify import VerifyError, verify

T = TypeVar("T")
MOST_ROUNDS = 10
_REFUSED = (*REFUSALS, KeyError, Undecidable)


@dataclass(frozen=True, eq=False)
class Minified:
    """The smaller reproduction, the signature that held, and how many programs were tried."""

    reproduction: Reproduction
    signature: Signature
    tried: int


def minify(reproduction: Reproduction) -> Minified:
    """See the module's docstring. ValueError if the reproduction does not fail (any more)."""
    return _Minification(reproduction).run()


def observed(reproduction: Reproduction, until: str = "") -> Signature | None:
    """How a reproduction fails now: with an exception, or with a wrong result."""
    error = failure_of(reproduction, until)
    if error is not None:
        return signature_of_error(error)
    found = bisect(reproduction, until=until)
    return None if found is None else Signature(found.stage)


class _Minification:
    def __init__(self, reproduction: Reproduction) -> None:
        self.reproduction = reproduction
        self.tried = 0
        if reproduction.error:
            error = failure_of(reproduction)
            seen = None if error is None else signature_of_error(error)
        else:
            seen = observed(reproduction)
        if seen is None:
            raise ValueError("the reproduction does not fail, so there is nothing to hold")
        if reproduction.error and seen != signature_of(reproduction):
            raise ValueError(
                f"it fails otherwise than the file says, {reproduction.failure}: {seen}"
            )
        self.signature = seen

    def run(self) -> Minified:
        start = self.reproduction
        graph, bindings = start.graph, start.bindings
        case = evaluated(graph, start.inputs(), bindings)
        if start.symbols:
            static = evaluated(bound_graph(graph, bindings), start.inputs(), {})
            if self._holds(static):
                case = static
        for _ in range(MOST_ROUNDS):
            before = case
            for step in (
                self._fewer_nodes_at_the_end,
                self._fewer_results,
                self._bodies_alone,
                self._fewer_nodes,
                self._shorter_chains,
                self._shorter_bodies,
                self._smaller_sizes,
                self._plainer_attributes,
            ):
                case = step(case)
            if case is before:
                break
        self._fewer_passes(case)
        return Minified(self._candidate(case), self.signature, self.tried)

    # judging ---------------------------------------------------------------------------
    def _candidate(self, case: Case) -> Reproduction:
        return replace(self.reproduction, graph=case.graph, values=case.inputs)

    def _holds(self, case: Case) -> bool:
        self.tried += 1
        try:
            verify(case.graph)
        except VerifyError:
            return False
        return self._fails(self._candidate(case))

    def _fails(self, candidate: Reproduction) -> bool:
        signature = self.signature
        try:
            if signature.error:
                error = failure_of(candidate, signature.stage)
                return error is not None and signature_of_error(error) == signature
            found = bisect(candidate, until=signature.stage)
            return found is not None and found.stage == signature.stage
        except (*_REFUSED, CompileError):
            return False

    def _first(self, candidates: Sequence[Callable[[], Case]]) -> Case | None:
        """The first candidate that is well formed and fails in the same way."""
        for make in candidates:
            try:
                found = make()
            except _REFUSED:
                continue
            if self._holds(found):
                return found
        return None

    # steps -----------------------------------------------------------------------------
    def _fewer_nodes_at_the_end(self, case: Case) -> Case:
        """The shortest beginning of the program that fails, if every value is a result."""

        def beginning(count: int) -> Case:
            nodes = case.graph.nodes[:count]
            return with_results(case, [v for n in nodes for v in n.outputs], {})

        low, high = 0, len(case.graph.nodes)
        if high < 2 or self._first([partial(beginning, high)]) is None:
            return case
        while high - low > 1:
            middle = (low + high) // 2
            if self._first([partial(beginning, middle)]) is None:
                low = middle
            else:
                high = middle
        last = case.graph.nodes[high - 1]
        found = self._first([partial(with_results, case, [v], {}) for v in last.outputs])
        found = beginning(high) if found is None else found
        return found if len(found.graph.nodes) < len(case.graph.nodes) else case

    def _fewer_results(self, case: Case) -> Case:
        graph = case.graph
        entries = [(-1, v) for v in graph.outputs] + sorted(graph.updates.items())
        if len(entries) < 2:
            return case

        def kept(chosen: Sequence[tuple[int, Value]]) -> Case:
            outputs = [v for i, v in chosen if i < 0]
            return with_results(case, outputs, {i: v for i, v in chosen if i >= 0})

        chosen = self._ddmin(entries, kept)
        return case if len(chosen) == len(entries) else kept(chosen)

    def _bodies_alone(self, case: Case) -> Case:
        """What a loop or branch runs, in place of the program around it."""
        bodies = [body for node in case.graph.nodes for body in node.bodies.values()]
        if not bodies:
            return case
        case = self._evaluated(case)
        found = self._first([partial(body_case, case, body) for body in bodies])
        return case if found is None else self._bodies_alone(found)

    def _fewer_nodes(self, case: Case) -> Case:
        nodes = list(case.graph.nodes)

        def kept(chosen: Sequence[Node]) -> Case:
            staying = set(chosen)
            return cut(case, [n for n in nodes if n not in staying])

        chosen = self._ddmin(nodes, kept)
        return case if len(chosen) == len(nodes) else kept(chosen)

    def _ddmin(self, items: list[T], kept: Callable[[Sequence[T]], Case]) -> list[T]:
        """A part of ``items`` from which none can be left out such that it still fails."""
        parts = 2
        while items:
            step = max(1, -(-len(items) // parts))
            for start in range(0, len(items), step):
                rest = items[:start] + items[start + step :]
                if self._first([partial(kept, rest)]) is not None:
                    items, parts = rest, max(parts - 1, 2)
                    break
            else:
                if step == 1:
                    break
                parts = min(len(items), parts * 2)
        return items

    def _shorter_chains(self, case: Case) -> Case:
        """Operands in place of results of their type."""
        for node in reversed(case.graph.nodes):
            if len(node.outputs) == 1:
                same = [v for v in node.inputs if v.type == node.output.type]
                found = self._first([partial(bypassed, case, node, v) for v in same])
                if found is not None:
                    again = self._evaluated(found)
                    graph = again.graph
                    return self._shorter_chains(with_results(again, graph.outputs, graph.updates))
        return case

    def _shorter_bodies(self, case: Case) -> Case:
        found = self._first(list(shorter_bodies(case)))
        return case if found is None else self._shorter_bodies(self._evaluated(found))

    def _smaller_sizes(self, case: Case) -> Case:
        for size in sizes(case.graph):
            others = [o for o in dict.fromkeys((1, 2, 3, size // 2)) if 0 < o < size]
            found = self._first([partial(resized, case, size, o) for o in others])
            if found is not None:
                return self._smaller_sizes(self._evaluated(found))
        return case

    def _plainer_attributes(self, case: Case) -> Case:
        for node in case.graph.nodes:
            choices = [partial(with_attributes, case, node, a) for a in simpler_attributes(node)]
            found = self._first(choices)
            if found is not None:
                return self._plainer_attributes(self._evaluated(found))
        return case

    def _evaluated(self, case: Case) -> Case:
        """The case with the contents of its values known again."""
        inputs = [case.contents[v] for v in case.graph.inputs]
        return evaluated(case.graph, inputs, self.reproduction.bindings)

    def _fewer_passes(self, case: Case) -> None:
        """Leave out the passes without which the failure is the same."""
        for name in self.reproduction.passes:
            fewer = tuple(n for n in self.reproduction.passes if n != name)
            candidate = replace(self._candidate(case), passes=fewer)
            self.tried += 1
            if name != self.signature.stage and self._fails(candidate):
                self.reproduction = replace(self.reproduction, passes=fewer)
