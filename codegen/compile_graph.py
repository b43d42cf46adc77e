"""Graph to execution plan: the order of the CPU back end's stages.

    lower convolutions -> widen half products -> normalize contractions -> tasks -> fuse -> lower
        -> assign buffers -> emit C -> plan

Nothing here touches a device or a compiler: the result is data and C text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flamec.codegen.buffers import BufferTable, assign_buffers, in_place_pairs
from flamec.codegen.c.emit import Emitter
from flamec.codegen.c.product import may_call_blas
from flamec.codegen.errors import LoweringError
from flamec.codegen.lower.group import LoweredKernel, lower_group
from flamec.codegen.lower.kernel_builder import ErrorTable
from flamec.codegen.options import CodegenOptions
from flamec.codegen.traffic import bytes_read, bytes_written, flops
from flamec.ir.graph import Graph, Value
from flamec.ir.iteration_space import Incompatible
from flamec.ir.kernel import Kernel
from flamec.ir.passes.fuse import FusionDecision, FusionGroup, FusionOptions, fuse
from flamec.ir.passes.lower_attention import lower_attention, never
from flamec.ir.passes.lower_convolutions import lower_convolutions
from flamec.ir.passes.normalize_contractions import normalize_contractions
from flamec.ir.passes.widen_half_products import widen_half_products
from flamec.ir.plan import Action, ExecutionPlan, HostCall, HostOperand, OutputSpec, Step
from flamec.ir.shape import SymbolicDim, symbols_of
from flamec.ir.tasks import Task, TaskGraph, build_tasks

if TYPE_CHECKING:
    from flamec.codegen.triton.choice import Choice


@dataclass(frozen=True)
class CompiledGraph:
    """A plan and the stages that led to it; ``choices``: schedules of parts on a GPU."""

    plan: ExecutionPlan
    groups: tuple[FusionGroup, ...]
    decisions: tuple[FusionDecision, ...]
    kernels: tuple[Kernel, ...]
    choices: tuple[Choice, ...] = ()


def compile_graph(graph: Graph, options: CodegenOptions | None = None) -> CompiledGraph:
    """The CPU program of an optimized graph; LoweringError names what cannot be lowered."""
    options = options or CodegenOptions()
    graph = lower_attention(lower_convolutions(graph), never)
    graph = normalize_contractions(widen_half_products(graph))
    context = build_tasks(graph)
    fusion = fuse(context, FusionOptions(enabled=options.fuse))
    errors = ErrorTable()
    lowered = []
    for number, (group, stores) in enumerate(zip(fusion.groups, fusion.stores(), strict=True)):
        try:
            kernel = lower_group(group.segments, context, stores, errors, f"kernel_{number}")
        except (LookupError, Incompatible) as error:
            names = ", ".join(task.name for task in group.tasks)
            raise LoweringError(f"cannot lower {names}: {error}") from error
        lowered.append(kernel)
    table = assign_buffers(context, lowered)
    symbols = program_symbols(graph)
    emitter = Emitter(symbols)
    steps = []
    calls: list[Action] = []
    for kernel in lowered:
        numbers = tuple(table.number(buffer) for buffer in kernel.buffers)
        if kernel.host is not None:
            emitter.host_call(kernel.kernel, len(calls))
            calls.append(host_call(kernel.host, context, table))
        else:
            emitter.kernel(kernel.kernel, numbers)
        steps.append(kernel_step(kernel, numbers, table))
    for source, target in table.copies:
        emitter.copy(source, target, table.buffers[target])
        steps.append(copy_step(table, source, target))
    plan = ExecutionPlan(
        buffers=tuple(table.buffers),
        steps=tuple(steps),
        inputs=tuple(table.inputs),
        input_types=tuple(v.type for v in graph.inputs),
        outputs=tuple(
            OutputSpec(b, v.type) for b, v in zip(table.outputs, graph.outputs, strict=True)
        ),
        updated=tuple(sorted(graph.updates)),
        symbols=symbols,
        source=emitter.text(),
        errors=tuple(errors.messages),
        scratch=emitter.scratch,
        actions=tuple(calls),
        notes={"needs_blas": any(_calls_blas(k.kernel) for k in lowered)},
    )
    kernels = tuple(k.kernel for k in lowered)
    return CompiledGraph(plan, fusion.groups, fusion.decisions, kernels)


def _calls_blas(kernel: Kernel) -> bool:
    contractions = (part.program.contraction for part in kernel.parts)
    return any(c is not None and may_call_blas(c) for c in contractions)


def program_symbols(graph: Graph) -> tuple[str, ...]:
    """The symbols of shapes and attributes, in order of appearance."""
    found: dict[str, None] = {}

    def visit(entry: object) -> None:
        if isinstance(entry, (tuple, list)):
            for part in entry:
                visit(part)
        elif isinstance(entry, SymbolicDim):
            found.update(dict.fromkeys(sorted(symbols_of(entry))))

    for value in graph.inputs:
        visit(value.type.shape)
    for node in graph.nodes:
        for output in node.outputs:
            visit(output.type.shape)
        visit(tuple(node.attributes.values()))
    return tuple(found)


def kernel_step(lowered: LoweredKernel, numbers: Sequence[int], table: BufferTable) -> Step:
    kernel = lowered.kernel
    written = [n for n, p in zip(numbers, kernel.parameters, strict=True) if p.written]
    read = [n for n, p in zip(numbers, kernel.parameters, strict=True) if not p.written]
    return Step(
        name=kernel.name,
        kind=kernel.kind,
        reads=tuple(dict.fromkeys(read)),
        writes=tuple(dict.fromkeys(written)),
        bytes_read=bytes_read(lowered),
        bytes_written=bytes_written(lowered),
        flops=flops(kernel),
        in_place=tuple(in_place_pairs(lowered, numbers, table)),
        operations=kernel.operations,
        locations=kernel.locations,
    )


def host_call(task: Task, context: TaskGraph, table: BufferTable) -> HostCall:
    """What the runtime is told of a task that the host computes."""
    node = task.node
    assert node is not None

    def operand(value: Value) -> HostOperand:
        return HostOperand(table.number(context.root(value)), value.type.shape, value.type.dtype)

    return HostCall(
        node.op.name,
        dict(node.attributes),
        tuple(map(operand, task.operands)),
        tuple(map(operand, task.results)),
        str(node.location or ""),
    )


def copy_step(table: BufferTable, source: int, target: int) -> Step:
    size = table.buffers[target].bytes
    return Step("copy", "copy", (source,), (target,), size, size, operations=("copy",))
