"""The events of one call of a compiled program: the call, and the plan's steps within it.

In: what ``runtime.recording`` tells. Out: ``Event``s with bytes and arithmetic from the plan, which
has them from the kernels' own loads, stores and statements (``codegen/traffic.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import Dim, evaluate_dim
from flamec.profiler.events import Event
from flamec.runtime.recording import ProgramRun, StepSpan

if TYPE_CHECKING:
    from flamec.runtime.cuda.launch_timer import DeviceRun

_MATRIX_KINDS = ("matmul", "attention")


def host_events(run: ProgramRun, thread: int) -> list[Event]:
    """A call on the CPU.

    Runs of a step for which there was no room belong to the event of its last run.
    """
    name = run.label or "program"
    call = Event(name, "program", run.start, run.end, thread)
    described = _Steps(run.plan, run.bindings, name)
    if not run.totals:
        call.moved, call.flops = described.total()
        return [call]
    spans = [[s for s in run.spans if s.step == step] for step in range(len(run.totals))]
    events = [call]
    for step, total in enumerate(run.totals):
        if not total.runs:
            continue
        known = spans[step] or [StepSpan(step, total.first, total.last)]
        missing = total.runs - len(spans[step])
        for span in known[:-1]:
            events.append(described.event(span, thread, 1, total.runs))
        last = described.event(known[-1], thread, missing + bool(spans[step]), total.runs)
        last.more = total.nanoseconds - sum(s.end - s.start for s in known)
        events.append(last)
    return events


def device_events(run: DeviceRun, thread: int) -> list[Event]:
    """A call on a GPU: the host's launching, and each launch as the device did it."""
    name = run.label or "program"
    device = f"cuda:{run.stream.device_index}"
    call = Event(f"launch {name}", "program", run.start, run.end, thread)
    described = _Steps(run.plan, run.bindings, name)
    spans = run.spans()
    launches: dict[int, int] = {}
    for span in spans:
        launches[span.step] = launches.get(span.step, 0) + 1
    events = [call]
    for span in spans:
        if span.step < 0:
            event = Event(f"{name}/copy or fill", "kernel", span.start, span.end, thread)
        else:
            event = described.event(span, thread, 1, launches[span.step])
        event.device, event.stream = device, run.stream.cuda_stream
        events.append(event)
    return events


class _Steps:
    """The steps of a plan with sizes filled in."""

    def __init__(self, plan: ExecutionPlan, bindings: Mapping[str, int], name: str) -> None:
        self._plan, self._bindings, self._name = plan, bindings, name

    def event(self, span: StepSpan, thread: int, runs: int, all_runs: int) -> Event:
        """``runs`` of the ``all_runs`` runs of a step: the plan's numbers are of all together."""
        step = self._plan.steps[span.step]
        moved = self._value(step.bytes_read) + self._value(step.bytes_written)
        return Event(
            f"{self._name}/{step.name}",
            "kernel",
            span.start,
            span.end,
            thread,
            moved=moved * runs // max(all_runs, 1),
            flops=self._value(step.flops) * runs // max(all_runs, 1),
            operations=step.operations,
            locations=step.locations,
            module=", ".join(step.modules),
            matrix=step.kind in _MATRIX_KINDS,
            dtype=self._dtype(span.step),
            runs=runs,
        )

    def total(self) -> tuple[int, int]:
        """Bytes and arithmetic of all steps."""
        moved = self._value(self._plan.bytes_moved())
        return moved, sum(self._value(step.flops) for step in self._plan.steps)

    def _value(self, dim: Dim) -> int:
        return evaluate_dim(dim, self._bindings)

    def _dtype(self, number: int) -> str:
        """Of the first array of floats that a step reads, or writes; ``"tf32"`` if it multiplies
        float32 so."""
        if number in self._plan.notes.get("tf32_steps", ()):
            return "tf32"
        step = self._plan.steps[number]
        dtypes = [self._plan.buffers[b].dtype for b in (*step.reads, *step.writes)]
        return next((d.name for d in dtypes if d.is_floating_point), "")
