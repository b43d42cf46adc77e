"""A program over symbolic sizes, run by programs for classes of sizes.

In: a program (``Prepared``) that was traced and optimized once, and what makes the program of a
class of it. Out: ``SizedRunner``, which finds the class of a call's sizes (``size_classes``) and
makes its program when the class is met first. Nothing is traced or optimized again. Invariants: a
class has one program at a time, whichever threads ask; the least recently used ones are dropped
beyond ``MOST_CLASSES`` and come back from the cache.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from flamec.ir.bodies import all_nodes
from flamec.ir.graph import Graph
from flamec.ir.passes.settle_sizes import settle_sizes
from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import Dim, SymbolicDim, evaluate_dim, product
from flamec.prepared import DeviceMemory, Invocation, Prepared, Runner
from flamec.size_classes import SizeClass, size_class

MOST_CLASSES = 64
_MOST_SIZES = 256  # of which a thread need not ask for the class again


@dataclass
class SizedProgram(Prepared):
    """The program of a class of sizes of ``general``, whose passes have run.

    ``graph`` and ``symbols`` are those of ``general``; the plan is over the class's symbols.
    """

    general: Prepared = field(kw_only=True)
    size_class: SizeClass = field(kw_only=True)
    symbols: tuple[str, ...] = field(kw_only=True)

    @cached_property
    def optimized(self) -> Graph:
        """The graph after all passes, over the class's symbols."""
        return self._settled(self.general.optimized)

    @property
    def own_graph(self) -> Graph:
        return self._settled(self.general.graph)

    def _settled(self, graph: Graph) -> Graph:
        """A graph over the symbols of ``general``, over those of the class."""
        return settle_sizes(graph, self.size_class.substitutions(self.symbols))


Make = Callable[[SizedProgram], Runner]
_Found = tuple[SizedProgram, tuple[int, ...]]  # and the values of its symbols


class SizedRunner:
    """A ``Runner``; ``symbols``: in the order in which sizes are bound."""

    threads = 1

    def __init__(
        self, general: Prepared, symbols: Sequence[str], memory: DeviceMemory, make: Make
    ) -> None:
        assert general.plan is not None
        self.memory = memory
        self._general, self._symbols, self._make = general, tuple(symbols), make
        self._counts = element_counts(general.graph, general.plan)
        self._programs: OrderedDict[SizeClass, SizedProgram] = OrderedDict()
        self._of_sizes: OrderedDict[tuple[int, ...], _Found] = OrderedDict()
        self._lock = threading.RLock()

    def bind(self, sizes: tuple[int, ...]) -> Invocation:
        found = self._of_sizes.get(sizes)
        if found is None:
            found = self._find(sizes)
        program, values = found
        return program.bind(values)

    def met(self, bindings: Mapping[str, int]) -> _Found | None:
        """The program for these sizes and the values of its symbols, if their class was met."""
        sizes = tuple(bindings[s] for s in self._symbols)
        known = self._class_of(sizes)
        program = self._programs.get(known)
        return None if program is None else (program, known.values(sizes))

    def _class_of(self, sizes: tuple[int, ...]) -> SizeClass:
        bindings = dict(zip(self._symbols, sizes, strict=True))
        most = max((evaluate_dim(count, bindings) for count in self._counts), default=0)
        return size_class(sizes, most)

    def _find(self, sizes: tuple[int, ...]) -> _Found:
        known = self._class_of(sizes)
        with self._lock:
            program = self._programs.get(known)
            if program is None:
                program = self._made(known)
            self._programs.move_to_end(known)
            found = self._of_sizes[sizes] = program, known.values(sizes)
            if len(self._of_sizes) > _MOST_SIZES:
                self._of_sizes.popitem(last=False)
        return found

    def _made(self, known: SizeClass) -> SizedProgram:
        general = self._general
        program = SizedProgram(
            general.graph,
            None,
            general.options,
            None,
            passes=general.passes,
            general=general,
            size_class=known,
            symbols=self._symbols,
        )
        program.runner = self._make(program)
        self._programs[known] = general.sized[known.text(self._symbols)] = program
        if len(self._programs) > MOST_CLASSES:
            old, dropped = self._programs.popitem(last=False)
            del general.sized[old.text(self._symbols)]
            for sizes in [s for s, (p, _) in self._of_sizes.items() if p is dropped]:
                del self._of_sizes[sizes]
        general.report(program)
        return program


def planned(
    prepared: Prepared, bindings: Mapping[str, int]
) -> tuple[ExecutionPlan, Mapping[str, int]] | None:
    """The plan that runs for these sizes, and the values of its symbols; None without a plan."""
    runner = prepared.runner
    found = runner.met(bindings) if isinstance(runner, SizedRunner) else None
    if found is not None and found[0].plan is not None:
        program, values = found
        names = program.size_class.symbols(program.symbols)
        return found[0].plan, dict(zip(names, values, strict=True))
    return None if prepared.plan is None else (prepared.plan, bindings)


def element_counts(graph: Graph, plan: ExecutionPlan) -> list[Dim]:
    """The numbers of elements that depend on symbols, of all values and of the plan's buffers."""
    types = [v.type for v in graph.inputs]
    types += [v.type for node in all_nodes(graph) for v in node.outputs]
    counts = [*(product(t.shape) for t in types), *(b.elements for b in plan.buffers)]
    return distinct(count for count in counts if isinstance(count, SymbolicDim))


def distinct(dims: Iterable[SymbolicDim]) -> list[Dim]:
    """Each once, in order; compared by form."""
    return list({dim.terms: dim for dim in dims}.values())
