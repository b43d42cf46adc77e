"""The launches of several kernels, as the actions of one plan.

In: kernels that are written. Out: sources, each once, and actions in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from string import digits

from flamec.codegen.errors import LoweringError
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.attention_writer import AttentionWriter
from flamec.codegen.triton.gpu_form import GpuKernel
from flamec.codegen.triton.kernel_writer import KernelWriter
from flamec.codegen.triton.side_by_side import PlannedLaunch
from flamec.codegen.triton.sort_writer import SortWriter
from flamec.codegen.triton.source import EmittedLaunch
from flamec.ir.plan import Action, Argument, Buffer, KernelSource, Launch
from flamec.ir.shape import Dim, symbols_of
from flamec.ir.shape_oracle import Undecidable
from flamec.ir.tasks import Task
from flamec.ir.types import int32, int64
from flamec.ir.user_kernel import ArrayArgument

_NO_CONTRACTION = {"enable_fp_fusion": False}  # Triton's: a product is rounded before it is added


class LaunchCollector:
    """Kernels, each once, and the actions that run them. ``steps``: each kernel's first step.

    ``buffers`` are the plan's; kernels add temporaries of their own.
    """

    def __init__(self, buffers: list[Buffer]) -> None:
        self.buffers = buffers
        self.kernels: list[KernelSource] = []
        self.actions: list[Action] = []
        self.steps: list[int] = []
        self._numbers: dict[str, int] = {}
        self._emitted: dict[int, tuple[EmittedLaunch, int]] = {}  # by identity
        self._errors = -1

    def error_buffer(self) -> int:
        """The word that the kernels of the program report errors in."""
        if self._errors < 0:
            self._errors = len(self.buffers)
            self.buffers.append(Buffer("errors", "errors", int64, 1))
        return self._errors

    def counter_buffer(self, words: Dim) -> int:
        """Words in which the blocks of a kernel are counted."""
        return self.new_buffer(Buffer("counters", "counters", int32, words))

    def new_buffer(self, buffer: Buffer) -> int:
        self.buffers.append(replace(buffer, name=f"{buffer.name}{len(self.buffers)}"))
        return len(self.buffers) - 1

    def own_buffer(self, number: int) -> int:
        """For a kernel that does what another does, its own in the place of the other's."""
        buffer = self.buffers[number]
        if buffer.kind == "errors":
            return number
        return self.new_buffer(replace(buffer, name=buffer.name.rstrip(digits)))

    def launches(
        self, launches: Iterable[PlannedLaunch], options: CodegenOptions, step: int
    ) -> None:
        """Add the launches of a kernel."""
        for planned in launches:
            emitted = planned.launch
            _, number = self._emitted.get(id(emitted), (emitted, -1))
            if number < 0:
                source = emitted.source
                if options.strict:
                    source = replace(source, options={**source.options, **_NO_CONTRACTION})
                number = self._number(source, step)
                self._emitted[id(emitted)] = emitted, number
            grid = (planned.launch.blocks, 1, 1)
            bound = planned.launch.persistent
            self.actions.append(Launch(number, grid, planned.arguments, 0, bound, step))

    def user_launches(self, task: Task, buffers: tuple[int, ...], step: int) -> None:
        """Add the launches of a kernel that the user wrote, between these buffers.

        LoweringError if it has no Triton form.
        """
        node = task.node
        assert node is not None and node.op.kernel is not None
        if node.op.kernel.triton is None:
            raise LoweringError(f"{node.op.name} has no Triton form")
        given, made = (tuple(v.type for v in values) for values in (node.inputs, node.outputs))
        try:
            launches = node.op.kernel.triton(given, made, node.attributes)
        except Undecidable as error:
            raise LoweringError(f"the launches of {node.op.name} need sizes: {error}") from error
        for launch in launches:
            arguments = tuple(
                Argument(buffers[a.index]) if isinstance(a, ArrayArgument) else Argument(-1, a)
                for a in launch.arguments
            )
            number = self._number(launch.source, step)
            self.actions.append(Launch(number, launch.grid, arguments, step=step))

    def _number(self, source: KernelSource, step: int) -> int:
        key = source.to_json()
        if key not in self._numbers:
            self._numbers[key] = len(self.kernels)
            self.kernels.append(source)
            self.steps.append(step)
        return self._numbers[key]

    def symbols(self) -> tuple[str, ...]:
        """The names of all sizes that buffers and launches depend on, in order."""
        return tuple(sorted({name for size in self._sizes() for name in symbols_of(size)}))

    def _sizes(self) -> Iterator[Dim]:
        yield from (buffer.elements for buffer in self.buffers)
        for action in self.actions:
            assert isinstance(action, Launch)
            yield from action.grid
            for argument in action.arguments:
                yield from (*argument.shape, *argument.strides)
                if not isinstance(argument.value, float):
                    yield argument.value


def launches_alone(
    kernel: GpuKernel, buffers: Iterable[Buffer], options: CodegenOptions
) -> LaunchCollector:
    """The launches of one kernel whose parameters are these buffers.

    LookupError if it cannot be written.
    """
    collector = LaunchCollector(list(buffers))
    writer = kernel_writer(kernel, tuple(range(len(collector.buffers))), collector, options)
    writer.write()
    collector.launches(writer.launches, options, step=0)
    return collector


def kernel_writer(
    kernel: GpuKernel,
    numbers: tuple[int, ...],
    collector: LaunchCollector,
    options: CodegenOptions,
) -> KernelWriter | AttentionWriter | SortWriter:
    """What writes a kernel; ``write`` gives it its launches."""
    if kernel.lowered.kernel.attention is not None:
        return AttentionWriter(kernel, numbers, options)
    if kernel.lowered.kernel.sort is not None:
        return SortWriter(kernel, numbers, collector.new_buffer, options)
    return KernelWriter(
        kernel,
        numbers,
        collector.new_buffer,
        options,
        collector.error_buffer,
        collector.counter_buffer,
    )
