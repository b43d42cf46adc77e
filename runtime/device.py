"""What a backend's runtime offers to the frontend.

In: execution plans. Out: programs that run on a device. ``flamec`` sees devices through these
protocols only; ``runtime/cpu`` implements them for the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableSequence
from typing import Any, Protocol

from flamec.ir.plan import ExecutionPlan, MemoryLayout

PlanMemory = Callable[[ExecutionPlan, Mapping[str, int]], MemoryLayout]


class BoundProgram(Protocol):
    """A program for one choice of sizes, on one thread.

    The caller writes the addresses of input and output buffers into ``addresses``, at the
    positions that the buffers have in the plan, and calls it.
    """

    addresses: MutableSequence[Any]
    layout: MemoryLayout

    def __call__(self) -> None:
        """Run; IndexError or ProgramError if the program reports an error."""


class Program(Protocol):
    """A loaded plan. ``compiled`` tells that it was built now, not found in the cache."""

    plan: ExecutionPlan
    compiled: bool

    def bind(self, sizes: tuple[int, ...]) -> BoundProgram:
        """The program for these values of ``plan.symbols``, in that order."""
