"""What running programs tell a profiler.

In: a ``Recorder``, set for the whole process. Out: a ``ProgramRun`` for each call of a program.
Invariant: programs in C look for a recorder only when their memory is laid out anew, so without one
a call costs what it always does; those for a GPU ask at each call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flamec.ir.plan import ExecutionPlan
from flamec.runtime.allocator import invalidate_arenas


@dataclass(frozen=True, slots=True)
class StepSpan:
    """One run of the plan's step ``step``, from ``start`` to ``end`` nanoseconds."""

    step: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class StepTotal:
    """All runs of one step in one call of the program; of a loop, with its body.

    ``first`` is when the first run began, ``last`` when the last ended.
    """

    runs: int
    nanoseconds: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """One call of a program on the CPU.

    Times are of ``time.perf_counter_ns``. ``totals`` has an entry for each step of the plan, or
    none if the steps were not timed; ``spans`` are the first runs, in the order of their ends.
    """

    plan: ExecutionPlan
    bindings: Mapping[str, int]
    label: str
    start: int
    end: int
    spans: Sequence[StepSpan]
    totals: Sequence[StepTotal]


class Stopped(Exception):
    """A program was stopped before a step, as its recorder wanted."""


class Recorder(Protocol):
    """What a profiler offers. Called on the threads that run programs.

    A ``DeviceRun`` is a call of a program on a GPU (``cuda/launch_timer.py``), whose times are
    known when the device has done it; ``anchors`` has for each GPU a moment that all refer to.
    """

    anchors: dict[int, Any]

    def stop_before(self, plan: ExecutionPlan) -> int:
        """The step of the plan before which the program is to be stopped; -1 for none."""

    def stopped(
        self, plan: ExecutionPlan, bindings: Mapping[str, int], addresses: Sequence[int | None]
    ) -> None:
        """The program was stopped: the address of each buffer. ``Stopped`` is raised afterwards."""

    def timed_build(self, label: str, start: int, end: int) -> None:
        """The program ``label`` was compiled with a clock between its steps, or loaded."""

    def program_run(self, run: ProgramRun) -> None: ...
    def device_run(self, run: Any) -> None: ...


recorder: Recorder | None = None


def set_recorder(new: Recorder | None) -> None:
    """From each program's next call on it tells ``new``; None: nobody."""
    global recorder
    recorder = new
    invalidate_arenas()
