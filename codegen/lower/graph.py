"""Lower a graph and the bodies of its loops to kernels, for any device.

In: an optimized graph. Out: kernels in execution order; a loop is a kernel without parts, whose
body is a lowered graph of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from flamec.codegen.errors import LoweringError, stage
from flamec.codegen.lower.group import LoweredKernel, lower_group
from flamec.codegen.lower.kernel_builder import ErrorTable
from flamec.ir.graph import Graph
from flamec.ir.iteration_space import Incompatible
from flamec.ir.passes.fuse import Fusion, FusionDecision, FusionGroup, FusionOptions, fuse
from flamec.ir.tasks import TaskGraph, build_tasks


@dataclass(frozen=True)
class LoweredGraph:
    """Kernels before schedules are chosen. ``bodies``: what loops run, by the loop's position."""

    context: TaskGraph
    fusion: Fusion
    kernels: tuple[LoweredKernel, ...]
    bodies: Mapping[int, LoweredGraph]

    def all_kernels(self) -> Iterator[LoweredKernel]:
        """Those of bodies, too, each behind its loop."""
        for position, kernel in enumerate(self.kernels):
            yield kernel
            if position in self.bodies:
                yield from self.bodies[position].all_kernels()

    def all_groups(self) -> Iterator[FusionGroup]:
        """The groups of which ``all_kernels`` are made."""
        for position, group in enumerate(self.fusion.groups):
            yield group
            if position in self.bodies:
                yield from self.bodies[position].all_groups()

    def all_decisions(self) -> Iterator[FusionDecision]:
        """What was decided in the graph, then in the bodies."""
        yield from self.fusion.decisions
        for body in self.bodies.values():
            yield from body.all_decisions()


class GraphLowering:
    """``prepare``: the back end's last passes; ``reuse``: see ``lower_group``; ``enter`` is told
    each group; ``guarded``: see ``build_tasks``."""

    def __init__(
        self,
        prepare: Callable[[Graph], Graph],
        options: FusionOptions,
        errors: ErrorTable,
        reuse: bool,
        enter: Callable[[FusionGroup], None] = lambda group: None,
        guarded: bool = False,
    ) -> None:
        self._prepare = prepare
        self._options = options
        self._errors = errors
        self._reuse = reuse
        self._enter = enter
        self._guarded = guarded
        self._count = 0

    def lower(self, graph: Graph) -> LoweredGraph:
        """LoweringError names what cannot be lowered."""
        prepared = self._prepare(graph)
        with stage("build_tasks"):
            context = build_tasks(prepared, self._guarded)
        with stage("fuse"):
            fusion = fuse(context, self._options)
        kernels: list[LoweredKernel] = []
        bodies: dict[int, LoweredGraph] = {}
        for group, stores in zip(fusion.groups, fusion.stores(), strict=True):
            self._enter(group)
            name = f"kernel_{self._count}"
            self._count += 1
            try:
                with stage("lower"):
                    kernel = lower_group(
                        group.segments,
                        context,
                        stores,
                        self._errors,
                        name,
                        self._reuse,
                        group.absorbed,
                    )
            except (LookupError, Incompatible) as error:
                names = ", ".join(task.name for task in group.tasks)
                raise LoweringError(f"cannot lower {names}: {error}") from error
            if kernel.loop is not None:
                assert kernel.loop.node is not None
                bodies[len(kernels)] = self.lower(kernel.loop.node.attributes["body"])
            kernels.append(kernel)
        return LoweredGraph(context, fusion, tuple(kernels), bodies)
