"""Kernels that do the same between other buffers, written once.

In: kernels in GPU form and the numbers of their buffers. Out: their launches, and which buffers
they read once, write early, and have of their own. What is repeated has the text of the first, and
new temporaries in the places of its.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.gpu_form import GpuKernel
from flamec.codegen.triton.launches import LaunchCollector, kernel_writer
from flamec.codegen.triton.side_by_side import PlannedLaunch


@dataclass(frozen=True)
class WrittenKernel:
    """``numbers``: the buffers of its parameters; ``temporaries``: those of its own; ``once``,
    ``early``: those that are read outside of the rows, and written while others may be read."""

    launches: tuple[PlannedLaunch, ...]
    numbers: tuple[int, ...]
    temporaries: tuple[int, ...]
    once: frozenset[int]
    early: frozenset[int]

    def between(self, numbers: tuple[int, ...], collector: LaunchCollector) -> WrittenKernel:
        """The same with other buffers, of which as many are the same ones."""
        known = dict(zip(self.numbers, numbers, strict=True))
        for launch in self.launches:
            for argument in launch.arguments:
                number = argument.buffer
                if number >= 0 and number not in known:
                    known[number] = collector.own_buffer(number)
        return WrittenKernel(
            tuple(_renumbered(launch, known) for launch in self.launches),
            numbers,
            tuple(known[n] for n in self.temporaries),
            frozenset(known[n] for n in self.once),
            frozenset(known[n] for n in self.early),
        )


def _renumbered(planned: PlannedLaunch, known: Mapping[int, int]) -> PlannedLaunch:
    return replace(
        planned,
        arguments=tuple(
            a if a.buffer < 0 else replace(a, buffer=known[a.buffer]) for a in planned.arguments
        ),
        reads=frozenset(known[n] for n in planned.reads),
        writes=frozenset(known[n] for n in planned.writes),
    )


class WrittenKernels:
    """Writes the kernels of a plan into ``collector``."""

    def __init__(self, collector: LaunchCollector, options: CodegenOptions) -> None:
        self._collector = collector
        self.options = options
        self._known: dict[object, tuple[GpuKernel, WrittenKernel]] = {}

    def write(self, kernel: GpuKernel, numbers: tuple[int, ...], step: int) -> WrittenKernel:
        """Add a kernel's launches. LookupError if it cannot be written."""
        key = self._place(kernel, numbers)
        _, written = self._known.get(key, (kernel, None))
        if written is None:
            writer = kernel_writer(kernel, numbers, self._collector, self.options)
            writer.write()
            written = WrittenKernel(
                tuple(writer.launches),
                numbers,
                tuple(writer.temporaries),
                frozenset(writer.loaded_once()),
                frozenset(writer.stored_early()),
            )
            self._known[key] = kernel, written
        else:
            written = written.between(numbers, self._collector)
        self._collector.launches(written.launches, self.options, step)
        return written

    @staticmethod
    def _place(kernel: GpuKernel, numbers: tuple[int, ...]) -> object:
        """What is the same for kernels of equal text: their model, and which buffers are one."""
        first: dict[int, int] = {}
        same = tuple(first.setdefault(n, position) for position, n in enumerate(numbers))
        return id(kernel.lowered.form), same
