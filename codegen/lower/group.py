"""Lower fusion groups to kernels.

In: a group and the values that must be stored. Out: its kernel, and what its parameters are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from flamec.codegen.lower.attention import lower_attention
from flamec.codegen.lower.contraction import lower_contraction
from flamec.codegen.lower.direct_results import stored_directly
from flamec.codegen.lower.kernel_builder import (
    ErrorTable,
    KernelBuilder,
    Memory,
    ParameterList,
)
from flamec.codegen.lower.repetition import RepeatedParts, group_signature, moved_buffers
from flamec.codegen.lower.reuse_outputs import reuse_outputs
from flamec.codegen.lower.row_program import ProgramBuilder
from flamec.codegen.lower.sorting import lower_sort
from flamec.codegen.lower.versions import nest_in_c, with_versions
from flamec.ir.graph import Value
from flamec.ir.group_analysis import analyze
from flamec.ir.kernel import Kernel, Part, Statement, Store
from flamec.ir.loop_nest import LoopNest, choose_nest
from flamec.ir.op import CONTROL, OpKind
from flamec.ir.passes.absorb_prologues import Absorbed
from flamec.ir.passes.fusion_groups import FusionGroup
from flamec.ir.task_signature import TaskSignatures
from flamec.ir.tasks import Task, TaskGraph, shared_scalars


@dataclass(frozen=True, eq=False)
class LoweredKernel:
    """A kernel and what its parameters are. ``alone``: the task of a kernel that is no loop over
    elements of ours; ``model``: the kernel lowered before that does the same with other buffers.
    """

    kernel: Kernel
    buffers: tuple[Memory, ...]
    alone: Task | None = None
    model: LoweredKernel | None = None

    @property
    def host(self) -> Task | None:
        """The task that is computed by a call of the host instead of loops (a sort: where the back
        end has no kernels for it)."""
        return self._alone(OpKind.HOST, OpKind.SORT)

    @property
    def user(self) -> Task | None:
        """The task that is a kernel of the user."""
        return self._alone(OpKind.KERNEL)

    @property
    def control(self) -> Task | None:
        """The task that runs graphs of its own."""
        return self._alone(*CONTROL)

    def _alone(self, *kinds: OpKind) -> Task | None:
        return self.alone if self.alone is not None and self.alone.kind in kinds else None

    @property
    def form(self) -> LoweredKernel:
        """One kernel for all that do the same: what depends on no buffer is asked of it."""
        return self if self.model is None else self.model

    @cached_property
    def users(self) -> dict[int, list[int]]:
        """For each parameter the parts that have it as an argument."""
        found: dict[int, list[int]] = {}
        for position, part in enumerate(self.kernel.parts):
            for number in dict.fromkeys(a for way in part.ways for a in way.arguments):
                found.setdefault(number, []).append(position)
        return found

    @cached_property
    def stored_once(self) -> frozenset[int]:
        """The parameters that are written before the loops."""
        uniform = self.kernel.uniform
        return frozenset(s.place.parameter for s in uniform if isinstance(s, Store))


@dataclass
class GroupLowering:
    """Lowers the groups of a task graph, those of equal structure once.

    ``reuse``: intermediate values may live where results will be. ``versions``: a part may have
    some (``versions.py``). ``count``: how many groups were lowered, copies aside.
    """

    context: TaskGraph
    errors: ErrorTable
    signatures: TaskSignatures
    reuse: bool = True
    versions: bool = False
    count: int = 0

    def __post_init__(self) -> None:
        self._known: dict[Any, tuple[LoweredKernel, list[Value]]] = {}

    def lower(self, group: FusionGroup, stored: set[Value], name: str) -> LoweredKernel:
        """The kernel of a group: one part for each segment (a set of tasks that share loops).

        ``stored`` are the values that are needed outside of the group.
        """
        first = group.segments[0][0]
        if first.kind in _KINDS_ALONE:
            return _lower_alone(first, self.context, name)
        if first.kind is OpKind.SORT:
            return _lower_sort(first, self.context, name)
        if len(group.segments) > 1:
            return self._lower(group, stored, name)
        signature, roots = group_signature(group, stored, self.signatures)
        if signature not in self._known:
            asked = self.errors.asked
            lowered = self._lower(group, stored, name)
            if self.errors.asked == asked:  # a message may name the line of its group
                self._known[signature] = lowered, roots
            return lowered
        model, before = self._known[signature]
        lines, modules = _locations(group.tasks), _modules(group.tasks)
        checks = checked_nodes(group.tasks) if model.kernel.checks else ()
        kernel = replace(model.kernel, name=name, locations=lines, modules=modules, checks=checks)
        buffers = moved_buffers(model.buffers, before, roots)
        return LoweredKernel(kernel, buffers, model=model)

    def _lower(self, group: FusionGroup, stored: set[Value], name: str) -> LoweredKernel:
        self.count += 1
        segments, context = group.segments, self.context
        if segments[0][0].kind is OpKind.ATTENTION:
            return _lower_attention(segments[0][0], context, name)
        builder = KernelBuilder(self.errors)
        shared = shared_scalars(segments)
        scalars = {value: task for task in shared for value in task.results}
        repeated = RepeatedParts(builder, self.signatures, stored, scalars)
        parts = []
        if shared:
            self._lower_scalars(shared, stored, builder)
        for tasks in segments[1:] if shared else segments:
            alone = len(segments) == 1
            lower = partial(
                self._lower_segment, tasks, scalars, stored, builder, group.absorbed, alone
            )
            part = repeated.part(tasks, lower) if len(segments) > 1 else lower()[0]
            if part.program.passes or part.program.contraction:
                parts.append(part)
        tasks = group.tasks
        kernel = Kernel(
            name,
            _kind(tasks),
            tuple(builder.parameters.parameters),
            _stores_last(builder.uniform.statements),
            tuple(parts),
            tuple(builder.finish.statements),
            tuple(name for task in tasks for name in task.names),
            _locations(tasks),
            modules=_modules(tasks),
            checks=checked_nodes(tasks),
        )
        return LoweredKernel(kernel, tuple(builder.parameters.buffers))

    def _lower_scalars(
        self, tasks: Sequence[Task], stored: set[Value], kernel: KernelBuilder
    ) -> None:
        """Statements for scalars in the order of their tasks, which may be a long chain."""
        space = analyze(tasks, self.context)
        builder = ProgramBuilder(space, choose_nest(space, stored, decided=True), stored, kernel)
        builder.compute_scalars()
        builder.build()

    def _lower_segment(
        self,
        tasks: Sequence[Task],
        scalars: Mapping[Value, Task],
        stored: set[Value],
        kernel: KernelBuilder,
        absorbed: Absorbed,
        alone: bool,
    ) -> tuple[Part, ParameterList]:
        context = self.context
        read = (context.root(v) for task in tasks for v in task.operands) if scalars else ()
        space = analyze(tasks, context, frozenset(v for v in read if v in scalars))
        nest = choose_nest(space, stored, decided=True)
        if self.versions and alone:
            nest = nest_in_c(space, stored, nest)
        builder = ProgramBuilder(space, nest, stored, kernel)
        for task in space.tasks:
            if task.node is not None and task.node.op.kind is OpKind.CONTRACTION:
                builder.contraction = lower_contraction(task, context, builder, stored, absorbed)
        part = self._built(builder)
        if self.versions and alone:

            def build(nest: LoopNest) -> Part:
                return self._built(ProgramBuilder(space, nest, stored, kernel))

            part = with_versions(space, stored, nest, part, build)
        return part, builder.parameters

    def _built(self, builder: ProgramBuilder) -> Part:
        part = builder.build()
        if self.context.uneven_products:
            part = replace(part, program=stored_directly(part.program))
        return replace(part, program=reuse_outputs(part.program)) if self.reuse else part


_KINDS_ALONE: dict[OpKind | None, str] = {
    OpKind.HOST: "host",
    OpKind.KERNEL: "user",
    OpKind.LOOP: "loop",
    OpKind.WHILE: "loop",
    OpKind.BRANCH: "branch",
}


def _lower_alone(task: Task, context: TaskGraph, name: str) -> LoweredKernel:
    """A task that is no loop over elements of ours: a call, a loop over steps, a branch."""
    parameters = ParameterList()
    for value in task.operands:
        parameters.number(context.root(value))
    for value in task.results:
        parameters.number(value, written=True)
    kernel = _one_task(task, name, _KINDS_ALONE[task.kind], parameters)
    return LoweredKernel(kernel, tuple(parameters.buffers), task)


def _lower_sort(task: Task, context: TaskGraph, name: str) -> LoweredKernel:
    parameters = ParameterList()
    sort = lower_sort(task, context, parameters)
    kernel = replace(_one_task(task, name, "sort", parameters), sort=sort)
    return LoweredKernel(kernel, tuple(parameters.buffers), task)


def _lower_attention(task: Task, context: TaskGraph, name: str) -> LoweredKernel:
    parameters = ParameterList()
    attention = lower_attention(task, context, parameters)
    kernel = replace(_one_task(task, name, "attention", parameters), attention=attention)
    return LoweredKernel(kernel, tuple(parameters.buffers))


def _one_task(task: Task, name: str, kind: str, parameters: ParameterList) -> Kernel:
    """A kernel without loops of its own."""
    return Kernel(
        name,
        kind,
        tuple(parameters.parameters),
        (),
        (),
        (),
        (task.name,),
        _locations([task]),
        modules=_modules([task]),
    )


def _stores_last(statements: Sequence[Statement]) -> tuple[Statement, ...]:
    """An input may be overwritten in place: it is read by all parts first."""
    return tuple(sorted(statements, key=lambda s: isinstance(s, Store)))


def _kind(tasks: Sequence[Task]) -> str:
    proper = (task for task in tasks if not task.is_copy and not task.one_per_row)
    kinds = {task.kind for task in proper}
    for kind, name in (
        (OpKind.CONTRACTION, "matmul"),
        (OpKind.SCATTER, "scatter"),
        (OpKind.SCAN, "scan"),
        (OpKind.REDUCTION, "reduction"),
    ):
        if kind in kinds:
            return name
    return "pointwise" if kinds else "copy"


def _locations(tasks: Sequence[Task]) -> tuple[str, ...]:
    """The user's lines, each once, in order."""
    found: dict[str, None] = {}
    last = None
    for origin in (node for task in tasks for node in task.origins):
        if origin.location is not last and origin.location is not None:
            last = origin.location  # often that of the next task, too
            found[str(last)] = None
    return tuple(found)


def checked_nodes(tasks: Sequence[Task]) -> tuple[str, ...]:
    """What may report an error in a program, with the user's lines, each once, in order."""
    nodes = [t.node for t in tasks if t.node is not None and t.node.op.may_report]
    return tuple(dict.fromkeys(n.stated for n in nodes))


def _modules(tasks: Sequence[Task]) -> tuple[str, ...]:
    """The paths of the modules whose calls made the tasks, each once, in order."""
    scopes = (node.scope for task in tasks for node in task.origins)
    return tuple(dict.fromkeys(scope for scope in scopes if scope))
