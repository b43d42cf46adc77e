"""Graph to execution plan: the order of the GPU back end's stages.

    normalize contractions -> tasks -> fuse -> lower -> GPU form -> buffers -> Triton -> plan

Nothing here touches a device or a compiler: the result is data and Triton text.
"""

from __future__ import annotations

from dataclasses import replace

from flamec.codegen.buffers import assign_buffers
from flamec.codegen.compile_graph import (
    CompiledGraph,
    LoweringError,
    copy_step,
    kernel_step,
    program_symbols,
)
from flamec.codegen.lower.group import lower_group
from flamec.codegen.lower.kernel_builder import ErrorTable
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.gpu_form import ChooseTile, gpu_form
from flamec.codegen.triton.kernel_writer import KernelWriter
from flamec.codegen.triton.tiling import propose
from flamec.ir.graph import Graph
from flamec.ir.op import OpKind
from flamec.ir.passes.fuse import FusionGroup, FusionOptions, fuse
from flamec.ir.passes.normalize_contractions import normalize_contractions
from flamec.ir.plan import (
    Action,
    Buffer,
    Copy,
    ExecutionPlan,
    KernelSource,
    Launch,
    OutputSpec,
    Step,
)
from flamec.ir.tasks import build_tasks
from flamec.ir.types import int64


def compile_graph(
    graph: Graph, options: CodegenOptions | None = None, choose: ChooseTile = propose
) -> CompiledGraph:
    """The GPU program of an optimized graph; LoweringError names what cannot be lowered.

    ``choose``: what decides on tiles where it is not the rules, to try others.
    """
    options = options or CodegenOptions()
    graph = normalize_contractions(graph)
    context = build_tasks(graph)
    fusion = fuse(
        context,
        FusionOptions(options.fuse, elementwise_epilogues=True, recompute_expensive=True),
    )
    errors = _LocatedErrors()
    kernels = []
    for number, (group, stores) in enumerate(zip(fusion.groups, fusion.stores(), strict=True)):
        name = f"kernel_{number}"
        errors.enter(group)
        try:
            lowered = lower_group(group.segments, context, stores, errors, name, reuse=False)
        except LookupError as error:
            names = ", ".join(task.name for task in group.tasks)
            raise LoweringError(f"cannot lower {names}: {error}") from error
        kernels.append(gpu_form(lowered, options, choose))
    table = assign_buffers(context, [k.lowered for k in kernels])
    collector = _Collector(table.buffers)
    steps: list[Step] = []
    for kernel in kernels:
        numbers = tuple(table.number(buffer) for buffer in kernel.lowered.buffers)
        writer = KernelWriter(
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
        errors=tuple(errors.messages),
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


class _Collector:
    """Kernels, each once, and the actions that run them. ``steps``: each kernel's first step."""

    def __init__(self, buffers: list[Buffer]) -> None:
        self.buffers = buffers
        self.kernels: list[KernelSource] = []
        self.actions: list[Action] = []
        self.steps: list[int] = []
        self._numbers: dict[str, int] = {}
        self._errors = -1

    def error_buffer(self) -> int:
        """The word that the kernels of the program report errors in."""
        if self._errors < 0:
            self._errors = len(self.buffers)
            self.buffers.append(Buffer("errors", "errors", int64, 1))
        return self._errors

    def new_buffer(self, buffer: Buffer) -> int:
        self.buffers.append(replace(buffer, name=f"{buffer.name}{len(self.buffers)}"))
        return len(self.buffers) - 1

    def launches(self, writer: KernelWriter, step: int) -> None:
        for planned in writer.launches:
            source = planned.launch.source
            key = source.to_json()
            if key not in self._numbers:
                self._numbers[key] = len(self.kernels)
                self.kernels.append(source)
                self.steps.append(step)
            grid = (planned.launch.blocks, 1, 1)
            bound = int(planned.launch.persistent)
            self.actions.append(Launch(self._numbers[key], grid, planned.arguments, 0, bound))
