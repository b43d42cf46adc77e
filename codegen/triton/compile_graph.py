"""Graph to execution plan: the order of the GPU back end's stages.

    normalize contractions -> tasks -> fuse -> lower -> GPU form -> buffers -> Triton -> plan

Nothing here touches a device or a compiler: the result is data and Triton text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from flamec.codegen.buffers import BufferTable, assign_buffers, working_kernels
from flamec.codegen.compile_graph import (
    CompiledGraph,
    copy_step,
    host_call,
    kernel_step,
    operand_buffers,
    program_symbols,
    repeated,
    run_last_passes,
)
from flamec.codegen.errors import LoweringError, stage
from flamec.codegen.loops import ArrangedBranch, ArrangedLoop, Body, arrange_control
from flamec.codegen.lower.graph import GraphLowering, LoweredGraph
from flamec.codegen.lower.group import LoweredKernel, checked_nodes
from flamec.codegen.lower.kernel_builder import ErrorTable
from flamec.codegen.lower.memory_budget import MemoryBudget, memory_notes
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.filled_in_parts import filled_in_parts
from flamec.codegen.triton.gpu_form import ChooseTile, GpuKernel, gpu_forms
from flamec.codegen.triton.launches import LaunchCollector
from flamec.codegen.triton.product_schedule import target_facts
from flamec.codegen.triton.sort_launches import longest_lines
from flamec.codegen.triton.source import ALIGNMENT
from flamec.codegen.triton.split_rows import ENOUGH_ROWS
from flamec.codegen.triton.written_kernels import WrittenKernels
from flamec.ir.estimates import typical_sizes
from flamec.ir.graph import Graph
from flamec.ir.passes.choose_by_element import choose_by_element
from flamec.ir.passes.contract_contiguous import contract_contiguous
from flamec.ir.passes.divide_scans import divide_scans
from flamec.ir.passes.fold_products import fold_products
from flamec.ir.passes.fusion_groups import FusionGroup, FusionOptions
from flamec.ir.passes.fusion_state import LARGEST_SEGMENT
from flamec.ir.passes.join_borders import join_borders
from flamec.ir.passes.lower_attention import has_kernel, lower_attention
from flamec.ir.passes.lower_convolutions import lower_convolutions
from flamec.ir.passes.manager import Pass
from flamec.ir.passes.normalize_contractions import normalize_contractions
from flamec.ir.passes.part_random_bits import part_random_bits
from flamec.ir.passes.segment_products import segment_products
from flamec.ir.passes.stack_gradients import stack_gradients
from flamec.ir.passes.widen_half_products import widen_half_sums
from flamec.ir.plan import Action, Copy, ExecutionPlan, LoopSpan, OutputSpec, Step, Window
from flamec.ir.shape import Dim, is_multiple

FLOPS_PER_BYTE = 150.0  # tensor cores do about 600 TFLOP/s in 16 bits and memory moves 4 TB/s
BYTES_PER_KERNEL = 1 << 23  # in 2 microseconds
SPARE_WORK = 1 / 100  # of a program, for less memory


def compile_graph(
    graph: Graph, options: CodegenOptions | None = None, choose: ChooseTile | None = None
) -> CompiledGraph:
    """The GPU program of an optimized graph; LoweringError names what cannot be lowered.

    ``choose``: what decides on tiles where it is not the rules, to try others.
    """
    options = options or CodegenOptions()
    return emit_graph(lower_graph(graph, options), options, choose)


@dataclass(frozen=True)
class LoweredProgram:
    """Kernels for any GPU, before schedules are chosen, and the messages of their errors."""

    graph: LoweredGraph
    errors: tuple[str, ...]

    @property
    def kernels(self) -> tuple[LoweredKernel, ...]:
        """All, those of loops' bodies included."""
        return tuple(self.graph.all_kernels())


def lower_graph(graph: Graph, options: CodegenOptions) -> LoweredProgram:
    """The first half: kernels. LoweringError names what cannot be lowered."""
    fusion = FusionOptions(
        options.fuse,
        elementwise_epilogues=True,
        recompute_expensive=True,
        prologues=True,
        blocks=ENOUGH_ROWS,
        bundled_scalars=LARGEST_SEGMENT,  # Triton takes a second for a hundred
    )
    errors = _LocatedErrors()
    lowering = GraphLowering(
        partial(run_last_passes, passes=last_passes(options)),
        fusion,
        errors,
        reuse=False,
        enter=errors.enter,
        guarded=True,
        memory=MemoryBudget(options.memory_budget, FLOPS_PER_BYTE, BYTES_PER_KERNEL, SPARE_WORK),
    )
    with typical_sizes(options.fusion_sizes):
        lowered = lowering.lower(graph)
    return LoweredProgram(lowered, tuple(errors.messages))


def _estimated_sizes(options: CodegenOptions) -> Mapping[str, int]:
    """What estimates count symbols as: hints for a class of sizes; other hints are for tiles."""
    return options.size_hints if options.size_bounds else {}


def last_passes(options: CodegenOptions) -> tuple[Pass, ...]:
    """The passes of this back end, which follow the pipeline; on each body by itself."""
    products, convolutions = options.float32_products, options.float32_convolutions
    contiguous = "tf32" in (products, convolutions) and target_facts(options.target).warp_groups
    side_by_side = partial(contract_contiguous, products=products, convolutions=convolutions)
    dots = Pass("fold_products", fold_products, "dot products are sums")
    copies = Pass("contract_contiguous", side_by_side, "products read along the depth")
    return (
        Pass("choose_by_element", choose_by_element, "branches of little work are computed both"),
        Pass("lower_convolutions", lower_convolutions, "no convolutions are left in bodies"),
        Pass(
            "lower_attention",
            partial(lower_attention, takes=has_kernel),
            "what attention is left has a kernel",
        ),
        Pass("part_random_bits", part_random_bits, "parts of random words need no memory"),
        Pass("stack_gradients", stack_gradients, "gradients side by side are written there"),
        Pass("join_borders", join_borders, "pieces of an array are written where they belong"),
        *(() if options.strict else (dots,)),
        Pass(
            "divide_scans",
            partial(divide_scans, typical=options.typical),
            "scans of few long rows are divided into lines",
        ),
        Pass(
            "segment_products",
            partial(segment_products, typical=options.typical, narrow=options.narrow),
            "products of many rows are taken in the order of their places",
        ),
        Pass("widen_half_sums", widen_half_sums, "16-bit floats that meet are added in float32"),
        *((copies,) if contiguous else ()),
        Pass("normalize_contractions", normalize_contractions, "products have one form"),
    )


def emit_graph(
    program: LoweredProgram, options: CodegenOptions, choose: ChooseTile | None = None
) -> CompiledGraph:
    """The second half: schedules, buffers, Triton. LoweringError for what has no text."""
    with stage("emit"), typical_sizes(_estimated_sizes(options)):
        return _emitted(program, options, choose)


def _emitted(
    program: LoweredProgram, options: CodegenOptions, choose: ChooseTile | None
) -> CompiledGraph:
    lowered = program.graph
    graph = lowered.context.graph
    forms = gpu_forms(lowered.all_kernels(), options, choose)
    kernels = [forms[k].lowered for k in lowered.kernels]
    table = assign_buffers(lowered.context, kernels, writers_last=True)
    lowered = lowered.only(working_kernels(kernels, table))
    forms = {kernel: forms[kernel] for kernel in lowered.all_kernels()}
    collector = LaunchCollector(table.buffers)
    emission = _Emission(forms, collector, WrittenKernels(collector, options))
    emission.add(lowered, table)
    steps = emission.steps
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
        errors=program.errors,
        kernels=tuple(collector.kernels),
        actions=tuple(collector.actions),
        notes={
            "kernel_steps": collector.steps,
            "tf32_steps": emission.rounded,
            "filled_in_parts": filled_in_parts(lowered, table),
            "longest_lines": longest_lines(lowered.all_kernels()),
            **memory_notes(lowered.fit),
        },
        loops=tuple(emission.loops),
    )
    return CompiledGraph(
        plan,
        tuple(lowered.all_groups()),
        tuple(lowered.all_decisions()),
        tuple(form.lowered.kernel for form in forms.values()),
        tuple(lowered.all_kernels()),
        graph,
        tuple(choice for form in forms.values() for choice in form.choices),
        bodies=dict(lowered.all_bodies()),
    )


@dataclass
class _Emission:
    """Collects the steps and actions of a graph and of the bodies in it."""

    forms: Mapping[LoweredKernel, GpuKernel]
    collector: LaunchCollector
    written: WrittenKernels
    steps: list[Step] = field(default_factory=list)
    loops: list[LoopSpan] = field(default_factory=list)
    rounded: list[int] = field(default_factory=list)  # steps that multiply in TF32

    def add(self, lowered: LoweredGraph, table: BufferTable, times: Dim = 1) -> None:
        """The steps of a graph, which is run ``times`` times."""
        for position, kernel in enumerate(lowered.kernels):
            if kernel.control is not None:
                arranged = arrange_control(lowered, position, table)
                if isinstance(arranged, ArrangedBranch):
                    self._add_branch(arranged, times)
                else:
                    self._add_loop(arranged, table, times)
                continue
            form = self.forms[kernel]
            numbers = tuple(table.number(buffer) for buffer in form.lowered.buffers)
            step = repeated(kernel_step(form.lowered, numbers, table), times)
            if kernel.host is not None and kernel.kernel.sort is None:
                self.collector.actions.append(host_call(kernel.host, lowered.context, table))
                self.steps.append(step)
                continue
            if kernel.user is not None:
                arrays = operand_buffers(kernel.user, lowered.context, table)
                self.collector.user_launches(kernel.user, arrays, step=len(self.steps))
                self.steps.append(step)
                continue
            if self._rounds(form.lowered):
                self.rounded.append(len(self.steps))
            try:
                written = self.written.write(form, numbers, step=len(self.steps))
            except LookupError as error:
                names = ", ".join(kernel.kernel.operations)
                raise LoweringError(f"cannot write {names} for a GPU: {error}") from error
            in_place = tuple(
                (target, read)
                for target, read in step.in_place
                if read not in written.once and target not in written.early
            )
            writes = (*step.writes, *written.temporaries)
            self.steps.append(replace(step, writes=writes, in_place=in_place))

    def _rounds(self, lowered: LoweredKernel) -> bool:
        """Whether a kernel has a product of float32 that is multiplied in TF32."""
        products = (part.program.contraction for part in lowered.kernel.parts)
        return any(
            c is not None and c.memory == "f32" and self.written.options.precision_of(c) == "tf32"
            for c in products
        )

    def _add_loop(self, arranged: ArrangedLoop, table: BufferTable, times: Dim) -> None:
        first = len(self.steps)
        before, given = self._aligned(arranged.given, table)
        behind, stacked = self._aligned(arranged.stacked, table)
        staged = tuple(copy.target for copy in (*before, *behind))
        self.steps.append(replace(arranged.step, writes=(*arranged.step.writes, *staged)))
        times = times * arranged.times
        back = [replace(c, source=c.target, target=c.source) for c in behind]
        loop = replace(
            arranged.loop,
            windows=(*given, *stacked),
            test=() if arranged.test is None else self._body(arranged.test, times),
            actions=(*before, *self._body(arranged.body, times), *back),
            step=first,
        )
        self.collector.actions.append(loop)
        outer = (*arranged.outer, *staged)
        self.loops.append(LoopSpan(first, len(self.steps) - 1, outer))

    def _add_branch(self, arranged: ArrangedBranch, times: Dim) -> None:
        first = len(self.steps)
        self.steps.append(arranged.step)
        branch = replace(
            arranged.branch,
            first=self._body(arranged.first, times),
            second=self._body(arranged.second, times),
            step=first,
        )
        self.collector.actions.append(branch)
        self.loops.append(LoopSpan(first, len(self.steps) - 1, arranged.outer))

    def _body(self, body: Body, times: Dim) -> tuple[Action, ...]:
        """The actions of a loop or branch, which stand in a list of it."""
        around, self.collector.actions = self.collector.actions, []
        self.add(body.graph, body.table, times)
        made, self.collector.actions = tuple(self.collector.actions), around
        return made

    def _aligned(
        self, windows: Sequence[Window], table: BufferTable
    ) -> tuple[list[Copy], list[Window]]:
        """Kernels are written for addresses that are multiples of 16 bytes.

        A window that is not always at one becomes a temporary, to which each step copies (or
        from which, the other way round); the window is then a buffer of its own.
        """
        copies, kept = [], []
        for window in windows:
            if is_multiple(window.stride, ALIGNMENT):
                kept.append(window)
                continue
            buffer = table.buffers[window.buffer]
            table.buffers[window.buffer] = replace(buffer, kind="temporary")
            table.buffers.append(replace(buffer, name=f"window{len(table.buffers)}"))
            place = len(table.buffers) - 1
            copies.append(Copy(place, window.buffer, window.stride))
            kept.append(Window(place, window.base, window.stride))
        return copies, kept


class _LocatedErrors(ErrorTable):
    """Messages that say where in the user's program: they are seen long after the call."""

    def enter(self, group: FusionGroup) -> None:
        """Errors are of this group from now on."""
        self._where = ", ".join(checked_nodes(group.tasks))

    def code(self, message: str) -> int:
        return super().code(f"{message} ({self._where})" if self._where else message)
