"""Lower a program for a memory budget: some of its kernels run a second time.

In: the kernels of a graph, lowered as if memory were free. Out: the kernels of the program that
``fit_memory_budget`` chose, with the group that each is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flamec.codegen.buffers import assign_buffers, reads_before_writing
from flamec.codegen.lower.group import LoweredKernel
from flamec.codegen.lower.kernel_builder import Memory, PartialResults
from flamec.codegen.lower.lanes import MEMORY_DTYPES
from flamec.codegen.traffic import traffic
from flamec.ir.estimates import estimate, value_bytes
from flamec.ir.graph import Value
from flamec.ir.passes.arrange_memory import arrange
from flamec.ir.passes.fit_memory_budget import MOST_STAGES, MemoryFit, fit_memory_budget
from flamec.ir.passes.fusion_groups import Fusion, FusionGroup
from flamec.ir.passes.live_ranges import Access
from flamec.ir.passes.lower_peak import Costs, large_results
from flamec.ir.stages import Stage, part_of
from flamec.ir.tasks import Task, TaskGraph

MOST_LISTED = 40  # kept values


@dataclass(frozen=True)
class MemoryBudget:
    """``share``: the budget; ``flops_per_byte``, ``bytes_per_kernel``: of the device;
    ``spare``: the part of all work that may be done twice at a budget of 1
    (``fit_memory_budget``)."""

    share: float = 1.0
    flops_per_byte: float = 5.0
    bytes_per_kernel: float = 1 << 14
    spare: float = 0.0


@dataclass(frozen=True)
class FittedKernel:
    """``source``: the position of the kernel before, if it is the same but for where it reads."""

    group: FusionGroup
    kernel: LoweredKernel
    source: int | None


LowerPart = Callable[[FusionGroup, set[Value]], LoweredKernel]


def fit_kernels(
    context: TaskGraph,
    fusion: Fusion,
    kernels: Sequence[LoweredKernel],
    budget: MemoryBudget,
    lower: LowerPart,
) -> tuple[list[FittedKernel], MemoryFit | None]:
    """``lower`` makes the kernel of a group that stores these values."""
    if budget.share >= 1 and len(kernels) > MOST_STAGES:  # nothing would be looked for
        pairs = zip(fusion.groups, kernels, strict=True)
        return [FittedKernel(g, k, i) for i, (g, k) in enumerate(pairs)], None
    moves = [traffic(kernel) for kernel in kernels]
    products = [estimate(work) / budget.flops_per_byte for _, _, work in moves]
    moved = sum(estimate(read + written) for read, written, _ in moves)
    work = sum(products) + moved + len(kernels) * budget.bytes_per_kernel
    parts = _Parts(context, fusion, kernels, lower)
    fit = fit_memory_budget(
        context,
        fusion,
        [parts.whole(i) for i in range(len(kernels))],
        Costs(products, budget.bytes_per_kernel, budget.spare * work),
        budget.share,
        parts.peak,
    )
    return [parts.fitted(stage) for stage in fit.stages], fit


@dataclass
class _Parts:
    """Groups and parts of groups as kernels; each is lowered once."""

    context: TaskGraph
    fusion: Fusion
    kernels: Sequence[LoweredKernel]
    lower: LowerPart
    _parts: dict[object, tuple[FusionGroup, LoweredKernel, Stage]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._results = {*self.context.outputs, *self.context.updates.values()}

    def whole(self, number: int) -> Stage:
        """The stage that is all of a group."""
        return self._stage(number, self.fusion.groups[number].tasks, self.kernels[number])

    def _part(self, stage: Stage) -> tuple[FusionGroup, LoweredKernel, Stage]:
        key = stage.group, stage.tasks, frozenset(stage.stores)
        if key not in self._parts:
            group = part_of(self.fusion.groups[stage.group], stage.tasks)
            kernel = self.lower(group, set(stage.stores))
            self._parts[key] = group, kernel, self._stage(stage.group, stage.tasks, kernel)
        return self._parts[key]

    def peak(self, stages: Sequence[Stage]) -> int:
        """The size of the arena, as ``plan_memory`` will find it for typical sizes."""
        table = assign_buffers(self.context, [self.fitted(stage).kernel for stage in stages])
        copied = [v for v in self.context.updates.values() if table.is_temporary(v)]
        size: dict[Hashable, int] = {v: value_bytes(v) for v in copied}
        accesses: list[Access[Hashable]] = []
        for stage in map(self._exact, stages):
            size.update(stage.private)
            for value, memory in stage.stores.items():
                if value not in self._results:
                    size[memory] = value_bytes(value)
            accesses.append(stage.access)
        return arrange([*accesses, Access(copied, ())], size, (), large_results(self.context)).peak

    def _exact(self, stage: Stage) -> Stage:
        """A stage with what its kernel allows to be in place, and with its private memory."""
        if stage.whole:
            return stage
        _, _, lowered = self._part(stage)
        memory: dict[Hashable, Hashable] = dict(stage.loads.items() | stage.stores.items())
        pairs = tuple((memory[w], memory[r]) for w, r in lowered.in_place)
        private: dict[Hashable, int] = {
            (stage, i): nbytes for i, nbytes in enumerate(lowered.private.values())
        }
        return replace(stage, in_place=pairs, private=private)

    def fitted(self, stage: Stage) -> FittedKernel:
        """The kernel of a stage, with the memory that it reads and writes there."""
        if stage.whole:
            group, kernel = self.fusion.groups[stage.group], self.kernels[stage.group]
            source: int | None = stage.group
        else:
            group, kernel, _ = self._part(stage)
            source = None
        names: dict[Memory, Memory] = {}
        for value, memory in (*stage.loads.items(), *stage.stores.items()):
            assert isinstance(memory, Value)
            names[value] = memory
        buffers = tuple(names.get(memory, memory) for memory in kernel.buffers)
        if buffers != kernel.buffers:
            kernel = replace(kernel, buffers=buffers)
        return FittedKernel(group, kernel, source)

    def _stage(self, number: int, tasks: tuple[Task, ...], lowered: LoweredKernel) -> Stage:
        """What a kernel does with memory; the values themselves stand for where they are."""
        loads: dict[Value, Value] = {}
        stores: dict[Value, Value] = {}
        private: dict[Hashable, int] = {}
        for memory, parameter in zip(lowered.buffers, lowered.kernel.parameters, strict=True):
            if isinstance(memory, PartialResults):
                private[memory] = estimate(memory.elements) * MEMORY_DTYPES[memory.memory].itemsize
            elif parameter.written:
                stores[memory] = memory
            else:
                loads[memory] = memory
        results, producers = self._results, self.context.producers
        movable = [v for v in loads if v in producers and v not in results]
        pairs = tuple(
            (new, old)
            for new in stores
            if new not in results
            for old in movable
            if reads_before_writing(lowered, old, new)
        )
        return Stage(number, tasks, loads, stores, pairs, private)


def memory_notes(fit: MemoryFit | None) -> dict[str, Any]:
    """What was decided, as plain data for the plan; nothing if nothing was found."""
    if fit is None or len(fit.peaks) == 1:
        return {}
    return {
        "memory": {
            "peaks": list(fit.peaks),
            "chosen": fit.chosen,
            "repeated": [[*_described(r.value), r.nbytes] for r in fit.repeated],
            "kept": [[*_described(k.value), k.nbytes, k.reason] for k in fit.kept[:MOST_LISTED]],
        }
    }


def _described(value: Value) -> tuple[str, str, str]:
    """A value's name or operation, its type and the user's line."""
    node = value.node
    name = value.name or (node.op.name if node else "input")
    return name, str(value.type), str((node and node.location) or "")
