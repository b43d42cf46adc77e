"""Times the launches of a program on a GPU, each between two events.

In: a bound program and a stream. Out: a ``DeviceRun``, whose spans can be read once the device is
done. Invariants: the launches are the program's own, in its order; a graph is not used, because
its nodes have no events. The stream waits at a ``Gate`` while launches are put into it: else a
kernel that is shorter than a launch would be given the time that the host needs for the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING

import numpy as np

from flamec.ir.plan import ExecutionPlan
from flamec.runtime.cuda.conditional import ControlStep
from flamec.runtime.cuda.driver import check, driver
from flamec.runtime.cuda.host_memory import pinned_pool
from flamec.runtime.cuda.host_step import HostStep
from flamec.runtime.cuda.stream import Event, Stream
from flamec.runtime.recording import Recorder, StepSpan

if TYPE_CHECKING:
    from flamec.runtime.cuda.program import BoundCudaProgram

_MOST_WAITING = 128  # launches behind a closed gate; a stream takes about a thousand entries


@dataclass(frozen=True, slots=True)
class Anchor:
    """An event of a device, and when it was: nanoseconds of ``time.perf_counter_ns``."""

    event: Event
    time: int


@dataclass(frozen=True, slots=True)
class DeviceRun:
    """One call of a program on a GPU.

    ``start`` and ``end``: when the host began and finished to launch. ``marks``: step of the plan
    (-1: a copy or fill that belongs to none), and the events around it.
    """

    plan: ExecutionPlan
    bindings: Mapping[str, int]
    label: str
    stream: Stream
    anchor: Anchor
    start: int
    end: int
    marks: tuple[tuple[int, Event, Event], ...]

    def spans(self) -> list[StepSpan]:
        """When the device did what, in nanoseconds of the host's clock. Waits for the stream."""
        self.stream.synchronize()
        spans = []
        for step, first, last in self.marks:
            start = self.anchor.time + _nanoseconds(self.anchor.event, first)
            spans.append(StepSpan(step, start, start + _nanoseconds(first, last)))
        return spans


def run_timed(bound: BoundCudaProgram, stream: Stream, recorder: Recorder, warm: bool) -> None:
    """Put the program's steps into the stream, and tell the recorder.

    ``warm``: it ran before, so that launching loads no code, which would wait for the stream.
    """
    index = stream.device_index
    anchor = recorder.anchors.get(index)
    if anchor is None:
        anchor = recorder.anchors[index] = _anchor(stream)
    start = perf_counter_ns()
    gate = _gate(index) if warm else None
    marks = []
    try:
        for position, (number, step) in enumerate(
            zip(bound.step_numbers, bound.steps, strict=True)
        ):
            if gate is not None:
                if isinstance(step, (HostStep, ControlStep)):
                    gate.open()  # it waits for what was launched before
                elif position % _MOST_WAITING == 0:
                    gate.open()
                    gate.close(stream)
            first, last = Event(enable_timing=True), Event(enable_timing=True)
            first.record(stream)
            step(stream)
            last.record(stream)
            marks.append((number, first, last))
    finally:
        if gate is not None:
            gate.open()
    recorder.device_run(
        DeviceRun(
            bound.plan,
            bound.bindings,
            bound.program.label,
            stream,
            anchor,
            start,
            perf_counter_ns(),
            tuple(marks),
        )
    )


def _anchor(stream: Stream) -> Anchor:
    event = Event(enable_timing=True)
    stream.synchronize()
    event.record(stream)
    event.synchronize()
    return Anchor(event, perf_counter_ns())


def _nanoseconds(first: Event, last: Event) -> int:
    return round(first.elapsed_time(last) * 1e6)


class Gate:
    """Holds the streams of one device back until it is opened: a number in host memory."""

    def __init__(self) -> None:
        memory, self._address = pinned_pool().empty(64)
        self._word = memory.view(np.uint32)
        self._word[:] = 0
        self._closed = 0

    def close(self, stream: Stream) -> None:
        """Work that is put into the stream from now on waits."""
        self._closed += 1
        cu = driver()
        flag = cu.CUstreamWaitValue_flags.CU_STREAM_WAIT_VALUE_GEQ
        stream.context.activate()
        result = cu.cuStreamWaitValue32(stream.raw, self._address, self._closed, int(flag))
        check(result, "cuStreamWaitValue32")

    def open(self) -> None:
        """Let everything go on."""
        self._word[0] = self._closed


_gates: dict[int, Gate] = {}


def _gate(device: int) -> Gate:
    if device not in _gates:
        _gates[device] = Gate()
    return _gates[device]
