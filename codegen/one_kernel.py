"""One kernel of a program as a program by itself, to be run with data of one's own.

In: a compiled graph and the number of a kernel. Out: a ``OneKernel``, whose buffers are the
kernel's parameters. Invariant: it is the very kernel of the program, with the same schedule; only
the addresses differ, because nothing shares memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flamec.codegen.c.emit import Emitter
from flamec.codegen.compile_graph import CompiledGraph, calls_blas, uneven_products
from flamec.codegen.errors import LoweringError
from flamec.codegen.lower.group import LoweredKernel
from flamec.codegen.lower.kernel_builder import Memory, PartialResults
from flamec.codegen.lower.lanes import MEMORY_DTYPES
from flamec.codegen.options import CodegenOptions
from flamec.codegen.traffic import index_sizes
from flamec.ir.plan import CONTROL_STEPS, Buffer, ExecutionPlan, Step, dense_elements
from flamec.ir.shape import Dim


@dataclass(frozen=True)
class OneKernel:
    """A program of one kernel.

    ``plan.inputs`` are all buffers that the caller gives: those of ``written`` begin as zeros.
    ``index_sizes``: below the smallest of them (and 0 or more) every integer is a valid index.
    """

    plan: ExecutionPlan
    written: tuple[int, ...]
    index_sizes: tuple[Dim, ...]


def one_kernel(
    compiled: CompiledGraph, number: int, options: CodegenOptions | None = None
) -> OneKernel:
    """The kernel of step ``number`` alone; LoweringError for one that is no loop over elements.

    ``options``: those that the program was made with, where it is one for a GPU.
    """
    step = compiled.plan.steps[number]
    if number >= len(compiled.lowered) or step.kind in ("host", "user", *CONTROL_STEPS):
        reason = dict.fromkeys(CONTROL_STEPS, "runs other kernels")
        reason["host"] = "is computed by the host"
        reason["user"] = "is a kernel that the user wrote"
        raise LoweringError(f"{step.name} {reason.get(step.kind, 'is a plain copy')}: no kernel")
    lowered = compiled.lowered[number]
    if compiled.plan.language == "triton":
        return _for_gpu(compiled, lowered, step, options or CodegenOptions())
    return _in_c(compiled, lowered, step)


def _in_c(compiled: CompiledGraph, lowered: LoweredKernel, step: Step) -> OneKernel:
    emitter = Emitter(compiled.plan.symbols)
    buffers = [_buffer(m, i) for i, m in enumerate(lowered.buffers)]
    emitter.kernel(lowered.kernel, tuple(range(len(buffers))))
    notes = {
        "needs_blas": calls_blas(lowered.kernel),
        "needs_products": uneven_products(lowered.kernel),
        "functions": [0],
    }
    plan = _plan(compiled, step, buffers, emitter.text(), notes)
    return _result(lowered, replace(plan, scratch=emitter.scratch))


def _for_gpu(
    compiled: CompiledGraph, lowered: LoweredKernel, step: Step, options: CodegenOptions
) -> OneKernel:
    from flamec.codegen.triton.gpu_form import gpu_form
    from flamec.codegen.triton.launches import launches_alone

    form = gpu_form(lowered, options)
    buffers = [_buffer(m, i) for i, m in enumerate(form.lowered.buffers)]
    collector = launches_alone(form, buffers, options)
    plan = _plan(compiled, step, collector.buffers, "", {"kernel_steps": collector.steps})
    plan = replace(
        plan,
        language="triton",
        symbols=collector.symbols(),
        kernels=tuple(collector.kernels),
        actions=tuple(collector.actions),
    )
    return _result(form.lowered, plan)


def _plan(
    compiled: CompiledGraph,
    step: Step,
    buffers: Sequence[Buffer],
    source: str,
    notes: dict[str, object],
) -> ExecutionPlan:
    given = tuple(i for i, b in enumerate(buffers) if b.kind == "input")
    return ExecutionPlan(
        buffers=tuple(buffers),
        steps=(replace(step, reads=given, writes=(), in_place=()),),
        inputs=given,
        input_types=(),
        outputs=(),
        updated=(),
        symbols=compiled.plan.symbols,
        source=source,
        errors=compiled.plan.errors,
        notes=notes,
    )


def _result(lowered: LoweredKernel, plan: ExecutionPlan) -> OneKernel:
    written = tuple(
        i
        for i, parameter in enumerate(lowered.kernel.parameters)
        if parameter.written and plan.buffers[i].kind == "input"
    )
    reads = tuple(i for i in plan.inputs if i not in written)
    own = tuple(i for i, b in enumerate(plan.buffers) if b.kind == "temporary")
    step = replace(plan.steps[0], reads=reads, writes=(*written, *own))
    return OneKernel(replace(plan, steps=(step,)), written, tuple(index_sizes(lowered.kernel)))


def _buffer(memory: Memory, number: int) -> Buffer:
    if isinstance(memory, PartialResults):
        dtype = MEMORY_DTYPES[memory.memory]
        return Buffer(f"partial{number}", "temporary", dtype, memory.elements)
    name = memory.name or (memory.node.op.name if memory.node is not None else "input")
    return Buffer(f"{name}{number}", "input", memory.type.dtype, dense_elements(memory.type))
