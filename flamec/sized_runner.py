"""A program over symbolic sizes, run by programs for classes of sizes.

In: a program (``Prepared``) that was traced and optimized once, and what makes the program of a
class of it. Out: ``SizedRunner``, which finds the class of a call's sizes (``size_classes``) and
makes its program when the class is met first. Nothing is traced or optimized again. Invariants: a
class has one program, whichever threads ask; beyond ``MOST_CLASSES`` a new class runs the code for
all sizes, which is compiled then, so that what is compiled is bounded.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from flamec.codegen.options import CodegenOptions
from flamec.ir.bodies import all_nodes
from flamec.ir.graph import Graph
from flamec.ir.passes.settle_sizes import settle_sizes
from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import Dim, SymbolicDim, evaluate_dim, product
from flamec.prepared import DeviceMemory, Invocation, Prepared, Runner
from flamec.size_classes import SizeClass, size_class

if TYPE_CHECKING:
    from flamec.codegen.triton.compile_graph import LoweredProgram

MOST_CLASSES = 64
_MOST_SIZES = 256  # of which a thread need not ask for the class again


@dataclass
class SizedProgram(Prepared):
    """The program of a class of sizes of ``general``, whose passes have run.

    ``graph`` and ``symbols`` are those of ``general``; the plan is over the class's symbols.
    ``lowerings``: kernels before their schedules are chosen, which several classes have in common.
    """

    general: Prepared = field(kw_only=True)
    size_class: SizeClass = field(kw_only=True)
    symbols: tuple[str, ...] = field(kw_only=True)
    lowerings: dict[Hashable, LoweredProgram] = field(default_factory=dict, kw_only=True)

    @classmethod
    def of(
        cls,
        general: Prepared,
        known: SizeClass,
        symbols: Sequence[str],
        codegen: CodegenOptions | None = None,
        lowerings: dict[Hashable, LoweredProgram] | None = None,
    ) -> SizedProgram:
        """The program of a class, before it is made."""
        return cls(
            general.graph,
            None,
            general.options,
            None,
            codegen,
            passes=general.passes,
            general=general,
            size_class=known,
            symbols=tuple(symbols),
            lowerings={} if lowerings is None else lowerings,
        )

    @cached_property
    def optimized(self) -> Graph:
        """The graph after all passes, over the class's symbols."""
        return self._settled(self.general.optimized)

    @cached_property
    def lowered(self) -> LoweredProgram:
        """Those of ``lowerings`` that are of the same graph and of about the same sizes, if any."""
        known = self.size_class.substitutions(self.symbols)
        sizes = self.code_options.fusion_sizes
        key = tuple((str(old), str(new)) for old, new in known), tuple(sorted(sizes.items()))
        if key not in self.lowerings:
            self.lowerings[key] = super().lowered
        return self.lowerings[key]

    @property
    def own_graph(self) -> Graph:
        return self._settled(self.general.graph)

    def _settled(self, graph: Graph) -> Graph:
        """A graph over the symbols of ``general``, over those of the class."""
        return settle_sizes(graph, self.size_class.substitutions(self.symbols))


Make = Callable[[SizedProgram], Runner]
_Bound = tuple[Runner, tuple[int, ...]]  # what runs, and the values of its symbols


class SizeClassWarning(UserWarning):
    """A program has met more classes of sizes than it makes code for."""


class SizedRunner:
    """A ``Runner``; ``symbols``: in the order in which sizes are bound.

    ``make`` gives the runner of a class, ``make_general`` that of all sizes.
    """

    threads = 1

    def __init__(
        self,
        general: Prepared,
        symbols: Sequence[str],
        memory: DeviceMemory,
        make: Make,
        make_general: Callable[[], Runner],
    ) -> None:
        assert general.plan is not None
        self.memory = memory
        self._general, self._symbols, self._make = general, tuple(symbols), make
        self._counts = element_counts(general.graph, general.plan)
        self._make_general = make_general
        self._programs: dict[SizeClass, SizedProgram] = {}
        self._lowered: dict[Hashable, LoweredProgram] = {}
        self._for_all: Runner | None = None
        self._of_sizes: OrderedDict[tuple[int, ...], _Bound] = OrderedDict()
        self._lock = threading.RLock()

    def bind(self, sizes: tuple[int, ...]) -> Invocation:
        found = self._of_sizes.get(sizes)
        if found is None:
            found = self._find(sizes)
        runner, values = found
        return runner.bind(values)

    def met(self, bindings: Mapping[str, int]) -> tuple[SizedProgram, tuple[int, ...]] | None:
        """The program for these sizes and the values of its symbols, if their class was met."""
        sizes = tuple(bindings[s] for s in self._symbols)
        known = class_of(self._symbols, self._counts, sizes)
        program = self._programs.get(known)
        return None if program is None else (program, known.values(sizes))

    def _find(self, sizes: tuple[int, ...]) -> _Bound:
        known = class_of(self._symbols, self._counts, sizes)
        with self._lock:
            program = self._programs.get(known)
            if program is None and len(self._programs) < MOST_CLASSES:
                program = self._made(known)
            if program is None:
                found: _Bound = self._runner_for_all(), sizes
            else:
                assert program.runner is not None
                found = program.runner, known.values(sizes)
            self._of_sizes[sizes] = found
            if len(self._of_sizes) > _MOST_SIZES:
                self._of_sizes.popitem(last=False)
        return found

    def _runner_for_all(self) -> Runner:
        if self._for_all is None:
            warnings.warn(
                f"{self._general.graph.name} was called with sizes of more than {MOST_CLASSES} "
                "classes; those of further ones run code for all sizes, which is slower",
                SizeClassWarning,
                stacklevel=2,
            )
            self._for_all = self._make_general()
            self._general.report(self._general)
        return self._for_all

    def _made(self, known: SizeClass) -> SizedProgram:
        general = self._general
        program = SizedProgram.of(general, known, self._symbols, lowerings=self._lowered)
        program.runner = self._make(program)
        self._programs[known] = general.sized[known.text(self._symbols)] = program
        general.report(program)
        return program


def class_of(symbols: Sequence[str], counts: Sequence[Dim], sizes: Sequence[int]) -> SizeClass:
    """The class of sizes, given the values of the symbols; ``counts``: see ``element_counts``."""
    bindings = dict(zip(symbols, sizes, strict=True))
    most = max((evaluate_dim(count, bindings) for count in counts), default=0)
    return size_class(sizes, most)


def sized_options(
    options: CodegenOptions, known: SizeClass, symbols: Sequence[str]
) -> CodegenOptions:
    """How code for a class is generated, where code for all sizes is as ``options`` say."""
    return replace(
        options,
        size_hints=known.typical(symbols),
        size_bounds=known.bounds(symbols),
        narrow=known.narrow,
        schedules={},
    )


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


def element_counts(graph: Graph, plan: ExecutionPlan | None) -> list[Dim]:
    """The numbers of elements that depend on symbols, of all values and of the plan's buffers."""
    types = [v.type for v in graph.inputs]
    types += [v.type for node in all_nodes(graph) for v in node.outputs]
    buffers = plan.buffers if plan is not None else ()
    counts = [*(product(t.shape) for t in types), *(b.elements for b in buffers)]
    return distinct(count for count in counts if isinstance(count, SymbolicDim))


def distinct(dims: Iterable[SymbolicDim]) -> list[Dim]:
    """Each once, in order; compared by form."""
    return list({dim.terms: dim for dim in dims}.values())
