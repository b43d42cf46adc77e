"""Graph to execution plan: the order of the CPU back end's stages.

    (leave to host or factor gradients) -> lower convolutions -> fold products
        -> widen half products -> normalize contractions -> tasks -> fuse -> lower
        -> assign buffers -> emit C -> plan

Nothing here touches a device or a compiler: the result is data and C text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from flamec.codegen.buffers import BufferTable, assign_buffers, in_place_pairs, working_kernels
from flamec.codegen.c.emit import Emitter
from flamec.codegen.c.product import may_call_blas
from flamec.codegen.errors import LoweringError, stage
from flamec.codegen.loops import ArrangedBranch, ArrangedLoop, Body, arrange_control
from flamec.codegen.lower.graph import GraphLowering, LoweredGraph
from flamec.codegen.lower.group import LoweredKernel
from flamec.codegen.lower.kernel_builder import ErrorTable
from flamec.codegen.lower.memory_budget import MemoryBudget, memory_notes
from flamec.codegen.options import CodegenOptions
from flamec.codegen.traffic import traffic
from flamec.ir.bodies import symbols_in
from flamec.ir.divided_graph import divide
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.kernel import Contraction, Kernel
from flamec.ir.passes.factor_gradients import factor_gradients
from flamec.ir.passes.fold_products import fold_products
from flamec.ir.passes.fusion_groups import FusionDecision, FusionGroup, FusionOptions
from flamec.ir.passes.leave_to_host import leave_to_host
from flamec.ir.passes.lower_attention import lower_attention, never
from flamec.ir.passes.lower_convolutions import lower_convolutions
from flamec.ir.passes.manager import Pass
from flamec.ir.passes.normalize_contractions import normalize_contractions
from flamec.ir.passes.widen_drifting_folds import widen_drifting_folds
from flamec.ir.passes.widen_half_products import widen_half_products, widen_half_sums
from flamec.ir.plan import (
    Action,
    ExecutionPlan,
    HostCall,
    HostOperand,
    LoopSpan,
    OutputSpec,
    Step,
)
from flamec.ir.shape import Dim, SymbolicDim
from flamec.ir.tasks import Task, TaskGraph
from flamec.ir.user_kernel import CForm

if TYPE_CHECKING:
    from flamec.codegen.triton.choice import Choice

FLOPS_PER_BYTE = 5.0  # a core with vectors of 256 bits does about 50 GFLOP/s and moves 10 GB/s
BYTES_PER_KERNEL = 1 << 14  # in 1.5 microseconds
SPARE_WORK = 1 / 128  # of a program, for less memory


@dataclass(frozen=True)
class CompiledGraph:
    """A plan and the stages that led to it.

    ``kernels``, ``groups`` and ``lowered`` belong to the plan's steps of the same position; copies
    stand behind them. ``arguments``: in a program in C the buffers of each step's parameters.
    ``graph`` is what was divided into groups, and ``bodies`` what loops and branches in it run;
    ``choices``: schedules on a GPU.
    """

    plan: ExecutionPlan
    groups: tuple[FusionGroup, ...]
    decisions: tuple[FusionDecision, ...]
    kernels: tuple[Kernel, ...]
    lowered: tuple[LoweredKernel, ...]
    graph: Graph
    choices: tuple[Choice, ...] = ()
    arguments: tuple[tuple[int, ...], ...] = ()
    bodies: Mapping[Node, Mapping[str, Graph]] = field(default_factory=dict)


def compile_graph(graph: Graph, options: CodegenOptions | None = None) -> CompiledGraph:
    """The CPU program of an optimized graph; LoweringError names what cannot be lowered."""
    options = options or CodegenOptions()
    errors = ErrorTable()
    fusion = FusionOptions(enabled=options.fuse)
    lowered = GraphLowering(
        partial(run_last_passes, passes=last_passes(options)),
        fusion,
        errors,
        reuse=True,
        uneven_products=True,
        memory=MemoryBudget(options.memory_budget, FLOPS_PER_BYTE, BYTES_PER_KERNEL, SPARE_WORK),
        versions=True,
    ).lower(graph)
    with stage("emit"):
        return _emitted(graph, lowered, errors, options)


def _emitted(
    graph: Graph, lowered: LoweredGraph, errors: ErrorTable, options: CodegenOptions
) -> CompiledGraph:
    context = lowered.context
    table = assign_buffers(context, lowered.kernels)
    lowered = lowered.only(working_kernels(lowered.kernels, table))
    symbols = program_symbols(context.graph)
    program = _Program(Emitter(symbols), options.strict)
    program.add(lowered, table)
    emitter = program.emitter
    for source, target in table.copies:
        emitter.copy(source, target, table.buffers[target])
        program.functions.append(emitter.steps[-1])
        program.steps.append(copy_step(table, source, target))
    kernels = tuple(k.kernel for k in lowered.all_kernels())
    plan = ExecutionPlan(
        buffers=tuple(table.buffers),
        steps=tuple(program.steps),
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
        actions=tuple(program.calls),
        notes={
            "needs_blas": any(map(calls_blas, kernels)),
            "needs_products": sorted({lane for k in kernels for lane in uneven_products(k)}),
            "functions": program.functions,
            "contract": not options.strict,
            **memory_notes(lowered.fit),
        },
        loops=tuple(program.loops),
    )
    groups, decisions = tuple(lowered.all_groups()), tuple(lowered.all_decisions())
    return CompiledGraph(
        plan,
        groups,
        decisions,
        kernels,
        tuple(lowered.all_kernels()),
        context.graph,
        arguments=tuple(program.arguments),
        bodies=dict(lowered.all_bodies()),
    )


def last_passes(options: CodegenOptions) -> tuple[Pass, ...]:
    """The passes of this back end, which follow the pipeline; on each body by itself."""
    accurate = (
        Pass("widen_drifting_folds", widen_drifting_folds, "no rounding errors add up"),
        Pass("fold_products", fold_products, "dot products are sums"),
    )
    host = Pass("leave_to_host", leave_to_host, "what is inexact is computed by NumPy")
    factor = Pass("factor_gradients", factor_gradients, "gradients stand outside of brackets")
    return (
        *((host,) if options.strict else (factor,)),
        Pass("lower_convolutions", lower_convolutions, "no convolutions are left in bodies"),
        Pass("lower_attention", partial(lower_attention, takes=never), "no attention is left"),
        *(() if options.strict else accurate),
        Pass("widen_half_products", widen_half_products, "products of 16-bit floats are float32"),
        Pass("widen_half_sums", widen_half_sums, "16-bit floats that meet are added in float32"),
        Pass("normalize_contractions", normalize_contractions, "products have one form"),
    )


def run_last_passes(graph: Graph, passes: Sequence[Pass]) -> Graph:
    """The graph after a back end's passes; an exception knows the pass as its stage."""
    divided = divide(graph)
    for entry in passes:
        with stage(entry.name):
            divided = divided.changed(entry.run)
    return divided.whole


@dataclass
class _Program:
    """Collects the steps of a graph and of the bodies in it. ``strict``: see ``c_form``."""

    emitter: Emitter
    strict: bool = False
    steps: list[Step] = field(default_factory=list)
    functions: list[int] = field(default_factory=list)  # of the steps: numbers in the C text
    arguments: list[tuple[int, ...]] = field(default_factory=list)
    calls: list[Action] = field(default_factory=list)
    loops: list[LoopSpan] = field(default_factory=list)

    def add(self, lowered: LoweredGraph, table: BufferTable, times: Dim = 1) -> None:
        """The steps of a graph, which is run ``times`` times."""
        for position, kernel in enumerate(lowered.kernels):
            if kernel.control is not None:
                arranged = arrange_control(lowered, position, table)
                with self._span(arranged.step, arranged.outer):
                    if isinstance(arranged, ArrangedBranch):
                        self._add_branch(arranged, kernel.kernel, times)
                    else:
                        self._add_loop(arranged, kernel.kernel, times)
                continue
            numbers = tuple(table.number(buffer) for buffer in kernel.buffers)
            form = None if kernel.user is None else c_form(kernel.user, self.strict)
            if kernel.user is not None and form is not None:
                arrays = operand_buffers(kernel.user, lowered.context, table)
                self.emitter.user_calls(kernel.kernel, form, arrays)
            elif kernel.host is not None or kernel.user is not None:
                self.emitter.host_call(kernel.kernel, len(self.calls))
                self.calls.append(host_call(kernel.host or kernel.user, lowered.context, table))
            else:
                self.emitter.kernel(kernel.kernel, numbers)
            self.functions.append(self.emitter.steps[-1])
            self.arguments.append(numbers)
            self.steps.append(repeated(kernel_step(kernel, numbers, table), times))

    def _add_loop(self, arranged: ArrangedLoop, kernel: Kernel, times: Dim) -> None:
        times = times * arranged.times
        test = [] if arranged.test is None else self._body(arranged.test, times)
        self.emitter.loop(arranged.loop, kernel, self._body(arranged.body, times), test)

    def _add_branch(self, arranged: ArrangedBranch, kernel: Kernel, times: Dim) -> None:
        first, second = self._body(arranged.first, times), self._body(arranged.second, times)
        self.emitter.branch(arranged.branch, kernel, first, second)

    def _body(self, body: Body, times: Dim) -> list[int]:
        """The steps of a loop or branch: the numbers of their functions."""
        with self.emitter.body() as steps:
            self.add(body.graph, body.table, times)
        return steps

    @contextmanager
    def _span(self, step: Step, outer: tuple[int, ...]) -> Iterator[None]:
        """The steps added inside are those that ``step`` runs, which is written after them."""
        first = len(self.steps)
        self.steps.append(step)
        self.functions.append(-1)
        self.arguments.append(())
        yield
        self.functions[first] = self.emitter.steps[-1]
        self.loops.append(LoopSpan(first, len(self.steps) - 1, outer))


def repeated(step: Step, times: Dim) -> Step:
    """A step of a loop that is run ``times`` times in all."""
    if isinstance(times, int) and times == 1:
        return step
    return replace(
        step,
        bytes_read=step.bytes_read * times,
        bytes_written=step.bytes_written * times,
        flops=step.flops * times,
    )


def calls_blas(kernel: Kernel) -> bool:
    """Whether a kernel in C may call the BLAS library."""
    return any(map(may_call_blas, _products(kernel)))


def uneven_products(kernel: Kernel) -> list[str]:
    """The types of numbers of which a kernel in C calls the runtime's own products."""
    return [c.memory for c in _products(kernel) if c.is_uneven]


def _products(kernel: Kernel) -> list[Contraction]:
    contractions = (part.program.contraction for part in kernel.parts)
    return [c for c in contractions if c is not None]


def program_symbols(graph: Graph) -> tuple[str, ...]:
    """The symbols of shapes and attributes, in order of appearance."""
    return tuple(symbols_in(graph))


def kernel_step(lowered: LoweredKernel, numbers: Sequence[int], table: BufferTable) -> Step:
    kernel = lowered.kernel
    written = [n for n, p in zip(numbers, kernel.parameters, strict=True) if p.written]
    read = [n for n, p in zip(numbers, kernel.parameters, strict=True) if not p.written]
    moved_in, moved_out, work = traffic(lowered)
    return Step(
        name=kernel.name,
        kind=kernel.kind,
        reads=tuple(dict.fromkeys(read)),
        writes=tuple(dict.fromkeys(written)),
        bytes_read=moved_in,
        bytes_written=moved_out,
        flops=work,
        in_place=tuple(in_place_pairs(lowered, numbers, table)),
        operations=kernel.operations,
        locations=kernel.locations,
        modules=kernel.modules,
        checks=kernel.checks,
    )


def c_form(task: Task, strict: bool) -> CForm | None:
    """What C computes of a user's kernel; None where NumPy does. LoweringError without either.

    ``strict``: NumPy if it can, because that is what eager mode takes.
    """
    node = task.node
    assert node is not None and node.op.kernel is not None
    kernel = node.op.kernel
    if kernel.c is not None and not (strict and kernel.host):
        given, made = (tuple(v.type for v in values) for values in (node.inputs, node.outputs))
        return kernel.c(given, made, node.attributes)
    if not kernel.host:
        raise LoweringError(f"{node.op.name} has neither a C nor a NumPy form")
    return None


def operand_buffers(task: Task, context: TaskGraph, table: BufferTable) -> tuple[int, ...]:
    """The buffers of a task's operands, then of its results."""
    operands = [table.number(context.root(value)) for value in task.operands]
    return (*operands, *(table.number(value) for value in task.results))


def host_call(task: Task | None, context: TaskGraph, table: BufferTable) -> HostCall:
    """What the runtime is told of a task that the host computes."""
    assert task is not None and task.node is not None
    node = task.node

    def operand(value: Value) -> HostOperand:
        return HostOperand(table.number(context.root(value)), value.type.shape, value.type.dtype)

    sizes = {k: v for k, v in node.attributes.items() if isinstance(v, SymbolicDim)}
    return HostCall(
        node.op.name,
        {k: v for k, v in node.attributes.items() if k not in sizes},
        tuple(map(operand, task.operands)),
        tuple(map(operand, task.results)),
        str(node.location or ""),
        sizes,
    )


def copy_step(table: BufferTable, source: int, target: int) -> Step:
    size = table.buffers[target].bytes
    return Step("copy", "copy", (source,), (target,), size, size, operations=("copy",))
