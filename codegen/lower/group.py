"""Lower one fusion group to a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flamec.codegen.lower.attention import lower_attention
from flamec.codegen.lower.contraction import lower_contraction
from flamec.codegen.lower.kernel_builder import (
    ErrorTable,
    KernelBuilder,
    Memory,
    ParameterList,
)
from flamec.codegen.lower.reuse_outputs import reuse_outputs
from flamec.codegen.lower.row_program import ProgramBuilder
from flamec.ir.graph import Value
from flamec.ir.group_analysis import analyze
from flamec.ir.group_space import GroupSpace
from flamec.ir.kernel import Kernel, Part, Statement, Store
from flamec.ir.loop_nest import LoopNest, choose_nest
from flamec.ir.op import OpKind
from flamec.ir.passes.absorb_prologues import Absorbed
from flamec.ir.tasks import Task, TaskGraph


@dataclass(frozen=True, eq=False)
class LoweredKernel:
    """A kernel and what its parameters are. ``host``: the task that is computed by a call of the
    host instead of loops; ``loop``: the task that runs a graph of its own."""

    kernel: Kernel
    buffers: tuple[Memory, ...]
    host: Task | None = None
    loop: Task | None = None


def lower_group(
    segments: Sequence[Sequence[Task]],
    context: TaskGraph,
    escapes: set[Value],
    errors: ErrorTable,
    name: str,
    reuse: bool = True,
    absorbed: Absorbed | None = None,
) -> LoweredKernel:
    """The kernel of a group: one part for each segment (a set of tasks that share loops).

    ``escapes`` are the values that are needed outside of the group. ``reuse``: intermediate
    values may live where results will be. ``absorbed``: tasks that compute operands of products.
    """
    first = segments[0][0]
    if first.is_host or first.is_loop:
        return _lower_alone(first, context, name)
    if first.is_attention:
        return _lower_attention(first, context, name)
    builder = KernelBuilder(errors)
    parts = []
    for tasks in segments:
        space = analyze(tasks, context)
        nest = choose_nest(space, escapes)
        part = _lower_segment(space, nest, context, escapes, builder, reuse, absorbed or {})
        if part.program.passes or part.program.contraction:
            parts.append(part)
    sets = (*(absorbed or {}).values(), *segments)
    tasks = [task for segment in sets for task in segment]
    kernel = Kernel(
        name,
        _kind(tasks),
        tuple(builder.parameters.parameters),
        _stores_last(builder.uniform.statements),
        tuple(parts),
        tuple(builder.finish.statements),
        tuple(task.name for task in tasks),
        _locations(tasks),
        modules=_modules(tasks),
    )
    return LoweredKernel(kernel, tuple(builder.parameters.buffers))


def _lower_alone(task: Task, context: TaskGraph, name: str) -> LoweredKernel:
    """A task that is no loop over elements: a call of the host, or a loop over steps."""
    parameters = ParameterList()
    for value in task.operands:
        parameters.number(context.root(value))
    for value in task.results:
        parameters.number(value, written=True)
    kind = "host" if task.is_host else "loop"
    kernel = Kernel(
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
    host, loop = (task, None) if task.is_host else (None, task)
    return LoweredKernel(kernel, tuple(parameters.buffers), host, loop)


def _lower_attention(task: Task, context: TaskGraph, name: str) -> LoweredKernel:
    parameters = ParameterList()
    attention = lower_attention(task, context, parameters)
    kernel = Kernel(
        name,
        "attention",
        tuple(parameters.parameters),
        (),
        (),
        (),
        (task.name,),
        _locations([task]),
        attention,
        _modules([task]),
    )
    return LoweredKernel(kernel, tuple(parameters.buffers))


def _lower_segment(
    space: GroupSpace,
    nest: LoopNest,
    context: TaskGraph,
    escapes: set[Value],
    kernel: KernelBuilder,
    reuse: bool,
    absorbed: Absorbed,
) -> Part:
    builder = ProgramBuilder(space, nest, escapes, kernel)
    for task in space.tasks:
        if task.node is not None and task.node.op.kind is OpKind.CONTRACTION:
            builder.contraction = lower_contraction(task, context, builder, escapes, absorbed)
    part = builder.build()
    return replace(part, program=reuse_outputs(part.program)) if reuse else part


def _stores_last(statements: Sequence[Statement]) -> tuple[Statement, ...]:
    """An input may be overwritten in place: it is read by all parts first."""
    return tuple(sorted(statements, key=lambda s: isinstance(s, Store)))


def _kind(tasks: Sequence[Task]) -> str:
    proper = (task for task in tasks if not task.is_copy and not task.one_per_row)
    kinds = {task.node.op.kind for task in proper if task.node is not None}
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
    for task in tasks:
        if task.origin is not None and task.origin.location is not None:
            found[str(task.origin.location)] = None
    return tuple(found)


def _modules(tasks: Sequence[Task]) -> tuple[str, ...]:
    """The paths of the modules whose calls made the tasks, each once, in order."""
    scopes = (task.origin.scope for task in tasks if task.origin is not None)
    return tuple(dict.fromkeys(scope for scope in scopes if scope))
