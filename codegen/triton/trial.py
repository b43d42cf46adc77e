"""One part of a kernel as a program by itself, so that its schedule can be measured.

In: a lowered kernel with one part. Out: a ``Trial``. All its buffers are inputs: whoever runs it
gives each memory of its own with arbitrary content, integers below ``index_bound``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flamec.codegen.lower.group import LoweredKernel
from flamec.codegen.lower.kernel_builder import Memory, PartialResults
from flamec.codegen.lower.lanes import MEMORY_DTYPES
from flamec.codegen.options import CodegenOptions, Schedule
from flamec.codegen.traffic import index_sizes
from flamec.codegen.triton.gpu_form import GpuKernel, gpu_form
from flamec.codegen.triton.launches import launches_alone
from flamec.codegen.triton.part_key import actual
from flamec.ir.plan import Buffer, ExecutionPlan, dense_elements
from flamec.ir.shape import Dim, SymbolicDim

_ANY_INDEX = 1 << 10


@dataclass(frozen=True)
class Trial:
    """A program to be timed with ``sizes`` for ``plan.symbols``: one part with one schedule."""

    schedule: Schedule
    plan: ExecutionPlan
    sizes: tuple[int, ...]
    index_bound: int


def one_part(lowered: LoweredKernel, number: int) -> LoweredKernel:
    """A kernel with one of its parts alone."""
    kernel = lowered.kernel
    alone = len(kernel.parts) == 1
    part = (kernel.parts[number],)
    return replace(
        lowered, kernel=replace(kernel, parts=part, finish=kernel.finish if alone else ())
    )


def make_trial(
    lowered: LoweredKernel, key: str, schedule: Schedule, options: CodegenOptions
) -> Trial:
    """The program of a kernel with one part, where ``key`` gets a schedule.

    LookupError if it cannot be written.
    """
    options = replace(options, schedules={**options.schedules, key: schedule})
    form = gpu_form(lowered, options)
    collector = launches_alone(form, map(_buffer, form.lowered.buffers), options)
    buffers, symbols = collector.buffers, collector.symbols()
    sizes = [options.typical(SymbolicDim.symbol(name)) for name in symbols]
    assert None not in sizes, symbols
    plan = ExecutionPlan(
        buffers=tuple(b if b.kind == "counters" else replace(b, kind="input") for b in buffers),
        steps=(),
        inputs=tuple(i for i, b in enumerate(buffers) if b.kind != "counters"),
        input_types=(),
        outputs=(),
        updated=(),
        symbols=symbols,
        source="",
        language="triton",
        kernels=tuple(collector.kernels),
        actions=tuple(collector.actions),
    )
    return Trial(schedule, plan, tuple(s or 0 for s in sizes), _index_bound(form, options))


def _buffer(memory: Memory) -> Buffer:
    if isinstance(memory, PartialResults):
        return Buffer("partial", "input", MEMORY_DTYPES[memory.memory], memory.elements)
    return Buffer("array", "input", memory.type.dtype, dense_elements(memory.type))


def _index_bound(form: GpuKernel, options: CodegenOptions) -> int:
    """A number below which every integer is a valid index wherever one is used."""
    known = [options.typical(size) for size in index_sizes(form.lowered.kernel)]
    return min([_ANY_INDEX, *(max(1, size) for size in known if size is not None)])


def has_sizes(lowered: LoweredKernel, options: CodegenOptions) -> bool:
    """Whether the options say how large all symbolic sizes of a kernel typically are."""
    sizes: list[Dim] = [_buffer(memory).elements for memory in lowered.buffers]
    for part in lowered.kernel.parts:
        program = actual(part)
        sizes += [loop.size for loop in (*program.rows, *program.inner)]
    return all(options.typical(size) is not None for size in sizes)
