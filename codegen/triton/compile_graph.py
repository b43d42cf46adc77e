"""Graph to execution plan: the order of the GPU back end's stages.

    normalize contractions -> tasks -> fuse -> lower -> GPU form -> buffers -> Triton -> plan

Nothing here touches a device or a compiler: the result is data and Triton text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flamec.codegen.buffers import assign_buffers
from flamec.codegen.compile_graph import (
    CompiledGraph,
    LoweringError,
    copy_step,
    host_call,
    kernel_step,
    program_symbols,
)
from flamec.codegen.lower.group import LoweredKernel, lower_group
from flamec.codegen.lower.kernel_builder import ErrorTable
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.gpu_form import ChooseTile, gpu_form
from flamec.codegen.triton.launches import LaunchCollector, kernel_writer
from flamec.ir.graph import Graph
from flamec.ir.op import OpKind
from flamec.ir.passes.fuse import Fusion, FusionGroup, FusionOptions, fuse
from flamec.ir.passes.lower_attention import has_kernel, lower_attention
from flamec.ir.passes.lower_convolutions import lower_convolutions
from flamec.ir.passes.normalize_contractions import normalize_contractions
from flamec.ir.plan import Copy, ExecutionPlan, OutputSpec, Step
from flamec.ir.tasks import TaskGraph, build_tasks


@dataclass(frozen=True)
class LoweredGraph:
    """A graph as kernels for any GPU, before schedules are chosen."""

    context: TaskGraph
    fusion: Fusion
    kernels: tuple[LoweredKernel, ...]
    errors: tuple[str, ...]


def compile_graph(
    graph: Graph, options: CodegenOptions | None = None, choose: ChooseTile | None = None
) -> CompiledGraph:
    """The GPU program of an optimized graph; LoweringError names what cannot be lowered.

    ``choose``: what decides on tiles where it is not the rules, to try others.
    """
    options = options or CodegenOptions()
    return emit_graph(lower_graph(graph, options), options, choose)


def lower_graph(graph: Graph, options: CodegenOptions) -> LoweredGraph:
    """The first half: kernels. LoweringError names what cannot be lowered."""
    graph = lower_attention(lower_convolutions(graph), has_kernel)
    context = build_tasks(normalize_contractions(graph))
    fusion = fuse(
        context,
        FusionOptions(
            options.fuse, elementwise_epilogues=True, recompute_expensive=True, prologues=True
        ),
    )
    errors = _LocatedErrors()
    kernels = []
    for number, (group, stores) in enumerate(zip(fusion.groups, fusion.stores(), strict=True)):
        name = f"kernel_{number}"
        errors.enter(group)
        try:
            kernels.append(
                lower_group(group.segments, context, stores, errors, name, False, group.absorbed)
            )
        except LookupError as error:
            names = ", ".join(task.name for task in group.tasks)
            raise LoweringError(f"cannot lower {names}: {error}") from error
    return LoweredGraph(context, fusion, tuple(kernels), tuple(errors.messages))


def emit_graph(
    lowered: LoweredGraph, options: CodegenOptions, choose: ChooseTile | None = None
) -> CompiledGraph:
    """The second half: schedules, buffers, Triton. LoweringError for what has no text."""
    context, fusion = lowered.context, lowered.fusion
    graph = context.graph
    kernels = [gpu_form(kernel, options, choose) for kernel in lowered.kernels]
    table = assign_buffers(context, [k.lowered for k in kernels])
    collector = LaunchCollector(table.buffers)
    steps: list[Step] = []
    for kernel in kernels:
        numbers = tuple(table.number(buffer) for buffer in kernel.lowered.buffers)
        if kernel.lowered.host is not None:
            collector.actions.append(host_call(kernel.lowered.host, context, table))
            steps.append(kernel_step(kernel.lowered, numbers, table))
            continue
        writer = kernel_writer(
            kernel, numbers, collector.new_buffer, options, collector.error_buffer
        )
        try:
            writer.write()
        except LookupError as error:
            names = ", ".join(kernel.lowered.kernel.operations)
            raise LoweringError(f"cannot write {names} for a GPU: {error}") from error
        collector.launches(writer, step=len(steps))
        step = kernel_step(kernel.lowered, numbers, table)
        once = writer.loaded_once()
        in_place = tuple(pair for pair in step.in_place if pair[1] not in once)
        writes = (*step.writes, *writer.temporaries)
        steps.append(replace(step, writes=writes, in_place=in_place))
    for source, target in table.copies:
        collector.actions.append(Copy(source, target, table.buffers[target].bytes))
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
        symbols=program_symbols(graph),
        source="\n\n".join(kernel.text for kernel in collector.kernels),
        language="triton",
        errors=lowered.errors,
        kernels=tuple(collector.kernels),
        actions=tuple(collector.actions),
        notes={"kernel_steps": collector.steps},
    )
    return CompiledGraph(
        plan,
        fusion.groups,
        fusion.decisions,
        tuple(k.lowered.kernel for k in kernels),
        tuple(choice for k in kernels for choice in k.choices),
    )


class _LocatedErrors(ErrorTable):
    """Messages that say where in the user's program: they are seen long after the call."""

    def enter(self, group: FusionGroup) -> None:
        """Errors are of this group from now on."""
        kinds = (OpKind.GATHER, OpKind.SCATTER)
        tasks = [t for t in group.tasks if t.node is not None and t.node.op.kind in kinds]
        nodes = [t.node for t in tasks if t.node is not None]
        found = [f"{n.op.name} at {n.location}" if n.location else n.op.name for n in nodes]
        self._where = ", ".join(dict.fromkeys(found))

    def code(self, message: str) -> int:
        return super().code(f"{message} ({self._where})" if self._where else message)
