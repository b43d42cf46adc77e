"""Lower a graph and the bodies of its loops and branches to kernels, for any device.

In: an optimized graph. Out: kernels in execution order; a loop is a kernel without parts, whose
body is a lowered graph of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from flamec.codegen.errors import LoweringError, stage
from flamec.codegen.lower.group import GroupLowering, LoweredKernel
from flamec.codegen.lower.kernel_builder import ErrorTable
from flamec.codegen.lower.memory_budget import MemoryBudget, fit_kernels
from flamec.ir.build_tasks import build_tasks
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.iteration_space import Incompatible
from flamec.ir.op import OpKind
from flamec.ir.passes.fit_memory_budget import MemoryFit
from flamec.ir.passes.fuse import fuse
from flamec.ir.passes.fusion_groups import Fusion, FusionDecision, FusionGroup, FusionOptions
from flamec.ir.tasks import TaskGraph


@dataclass(frozen=True)
class LoweredGraph:
    """Kernels before schedules are chosen. ``groups``: what each is made of; ``bodies``: what loops
    and branches run, by position and attribute; ``fit``: how the program was made to fit a memory
    budget."""

    context: TaskGraph
    fusion: Fusion
    kernels: tuple[LoweredKernel, ...]
    bodies: Mapping[int, Mapping[str, LoweredGraph]]
    groups: tuple[FusionGroup, ...]
    fit: MemoryFit | None = None

    def only(self, kept: Sequence[int]) -> LoweredGraph:
        """The graph with the kernels at these positions alone."""
        return replace(
            self,
            kernels=tuple([self.kernels[i] for i in kept]),
            groups=tuple([self.groups[i] for i in kept]),
            # the loops and branches among them are kept, but stand elsewhere
            bodies={now: self.bodies[i] for now, i in enumerate(kept) if i in self.bodies},
        )

    def all_kernels(self) -> Iterator[LoweredKernel]:
        """Those of bodies, too, each behind its loop."""
        for position, kernel in enumerate(self.kernels):
            yield kernel
            for body in self.bodies.get(position, {}).values():
                yield from body.all_kernels()

    def all_bodies(self) -> Iterator[tuple[Node, dict[str, Graph]]]:
        """Loops and branches, also those in bodies, with the graphs of which kernels were made: a
        back end's passes change each body by itself, so a node has them as they were before."""
        for position, bodies in self.bodies.items():
            control = self.kernels[position].control
            assert control is not None and control.node is not None
            yield control.node, {name: body.context.graph for name, body in bodies.items()}
            for body in bodies.values():
                yield from body.all_bodies()

    def all_groups(self) -> Iterator[FusionGroup]:
        """The groups of which ``all_kernels`` are made."""
        for position, group in enumerate(self.groups):
            yield group
            for body in self.bodies.get(position, {}).values():
                yield from body.all_groups()

    def all_decisions(self) -> Iterator[FusionDecision]:
        """What was decided in the graph, then in the bodies."""
        yield from self.fusion.decisions
        for bodies in self.bodies.values():
            for body in bodies.values():
                yield from body.all_decisions()


class GraphLowering:
    """``prepare``: the back end's last passes; ``reuse``, ``versions``: see ``GroupLowering``;
    ``enter`` is told each group; ``guarded``, ``uneven_products``: see ``build_tasks``; ``memory``:
    not for bodies.
    """

    def __init__(
        self,
        prepare: Callable[[Graph], Graph],
        options: FusionOptions,
        errors: ErrorTable,
        reuse: bool,
        enter: Callable[[FusionGroup], None] = lambda group: None,
        guarded: bool = False,
        uneven_products: bool = False,
        memory: MemoryBudget | None = None,
        versions: bool = False,
    ) -> None:
        self._prepare = prepare
        self._options = options
        self._errors = errors
        self._reuse = reuse
        self._enter = enter
        self._guarded, self._uneven = guarded, uneven_products
        self._memory = memory or MemoryBudget()
        self._versions = versions
        self._count = 0

    def lower(self, graph: Graph) -> LoweredGraph:
        """LoweringError names what cannot be lowered."""
        return self._lower(graph, self._memory)

    def _lower(self, graph: Graph, memory: MemoryBudget) -> LoweredGraph:
        _refuse_unbounded(graph)
        prepared = self._prepare(graph)
        with stage("build_tasks"):
            context = build_tasks(prepared, self._guarded, self._uneven, endings=True)
        with stage("fuse"):
            fusion = fuse(context, self._options)
        lowering = GroupLowering(
            context, self._errors, fusion.signatures, self._reuse, self._versions
        )
        kernels: list[LoweredKernel] = []
        lowered_bodies: list[dict[str, LoweredGraph]] = []
        for group, stores in zip(fusion.groups, fusion.stores(), strict=True):
            kernel = self._kernel(lowering, group, stores)
            kernels.append(kernel)
            graphs: Mapping[str, Graph] = {}
            if kernel.control is not None:
                assert kernel.control.node is not None
                graphs = kernel.control.node.bodies
            lowered_bodies.append({n: self._lower(g, MemoryBudget()) for n, g in graphs.items()})
        groups, sources, fit = fusion.groups, list(range(len(kernels))), None
        if memory.share < 1 or memory.spare > 0:
            with stage("fit_memory_budget"):
                fitted, fit = fit_kernels(
                    context, fusion, kernels, memory, partial(self._kernel, lowering)
                )
            kernels = [f.kernel for f in fitted]
            groups = tuple(f.group for f in fitted)
            sources = [-1 if f.source is None else f.source for f in fitted]
        bodies = {
            position: lowered_bodies[source]
            for position, source in enumerate(sources)
            if source >= 0 and lowered_bodies[source]
        }
        return LoweredGraph(context, fusion, tuple(kernels), bodies, groups, fit)

    def _kernel(
        self, lowering: GroupLowering, group: FusionGroup, stores: set[Value]
    ) -> LoweredKernel:
        self._enter(group)
        name = f"kernel_{self._count}"
        self._count += 1
        try:
            with stage("lower"):
                return lowering.lower(group, stores, name)
        except (LookupError, Incompatible) as error:
            names = ", ".join(task.name for task in group.tasks)
            raise LoweringError(f"cannot lower {names}: {error}") from error


def _refuse_unbounded(graph: Graph) -> None:
    """LoweringError for an operation whose memory grows while it runs."""
    for node in graph.nodes:
        if node.op.kind is OpKind.UNBOUNDED:
            where = f" (at {node.location})" if node.location else ""
            raise LoweringError(
                "the gradient of a while_loop needs memory for every step, and "
                "nothing says how many there are at most; give while_loop(..., max_steps=N)"
                f"{where}"
            )
