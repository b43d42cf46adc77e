"""Collects what a profile is made of while the user's program runs.

In: calls from ``dispatch`` (eager operations), ``nn.Module``, the compiler and, through
``runtime.recording``, running programs. Out: ``Event``s. Invariants: nothing is computed here
that can be computed later; each thread has its own stack of open ranges.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from flamec.errors import user_location
from flamec.ir.op import Op, OpKind
from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import evaluate_shape
from flamec.ir.types import TensorType, float32
from flamec.profiler.events import Event
from flamec.profiler.program_events import device_events, host_events
from flamec.runtime.recording import ProgramRun
from flamec.state import process

if TYPE_CHECKING:
    from flamec.runtime.cuda.launch_timer import DeviceRun


_MATRIX_KINDS = (OpKind.CONTRACTION, OpKind.CONVOLUTION, OpKind.ATTENTION)


def _arithmetic(op: Op, type: TensorType) -> str:
    """In what an operation computes: the name of its operands' type, or ``"tf32"``."""
    if op.kind in _MATRIX_KINDS and type.dtype is float32 and type.device.type == "cuda":
        kind = "convolutions" if op.kind is OpKind.CONVOLUTION else "products"
        if getattr(process.float32_precision, kind) == "tf32":
            return "tf32"
    return type.dtype.name


class _Ranges(threading.local):
    """The calling thread's open ranges, outermost first: kind, name, start."""

    def __init__(self) -> None:
        self.open: list[tuple[str, str, int]] = []


class Recorder:
    """What the parts of the framework tell of themselves; see ``runtime.recording.Recorder``."""

    def __init__(self) -> None:
        self.anchors: dict[int, Any] = {}
        self._ranges = _Ranges()
        self._made: list[Event] = []
        self._operations: list[tuple[Any, ...]] = []
        self._host_runs: list[tuple[int, ProgramRun]] = []
        self._device_runs: list[tuple[int, DeviceRun]] = []

    now = staticmethod(perf_counter_ns)

    # what is told ---------------------------------------------------------------------
    def operation(
        self,
        op: Op,
        attributes: Mapping[str, Any],
        inputs: tuple[TensorType, ...],
        outputs: tuple[TensorType, ...],
        started: int,
    ) -> None:
        """An eager operation has been run since ``started``."""
        end, thread = perf_counter_ns(), threading.get_ident()
        module = ".".join(name for kind, name, _ in self._ranges.open if kind == "module")
        self._operations.append(
            (op, attributes, inputs, outputs, started, end, thread, user_location(), module)
        )

    def enter_module(self, name: str) -> None:
        """Eager code calls a module."""
        self._ranges.open.append(("module", name, perf_counter_ns()))

    def leave_module(self) -> None:
        """The innermost range ends."""
        self.leave()

    def enter(self, name: str) -> None:
        """A range that the user names begins on this thread."""
        self._ranges.open.append(("user", name, perf_counter_ns()))

    def leave(self) -> None:
        """The innermost range ends; one that began before the profile is none."""
        if not self._ranges.open:
            return
        kind, name, start = self._ranges.open[-1]
        module = ".".join(n for k, n, _ in self._ranges.open if k == "module")
        self._ranges.open.pop()
        shown = module if kind == "module" else name
        self._made.append(
            Event(shown, kind, start, perf_counter_ns(), threading.get_ident(), module=module)
        )

    def compilation(self, name: str, started: float) -> None:
        """A function has been traced and compiled since ``started`` (of ``time.perf_counter``)."""
        start, end = int(started * 1e9), perf_counter_ns()
        self._made.append(Event(f"compile {name}", "compile", start, end, threading.get_ident()))

    def timed_build(self, label: str, start: int, end: int) -> None:
        """A program was compiled anew for this profile."""
        name = f"build {label or 'program'} with a clock"
        self._made.append(Event(name, "compile", start, end, threading.get_ident()))

    def stop_before(self, plan: ExecutionPlan) -> int:
        return -1

    def stopped(
        self, plan: ExecutionPlan, bindings: Mapping[str, int], addresses: Sequence[int | None]
    ) -> None:
        raise AssertionError("a profile stops no program")

    def program_run(self, run: ProgramRun) -> None:
        self._host_runs.append((threading.get_ident(), run))

    def device_run(self, run: DeviceRun) -> None:
        self._device_runs.append((threading.get_ident(), run))

    # what became of it ----------------------------------------------------------------
    def forget(self) -> None:
        """Drop everything so far: it was the warm-up."""
        for collected in (self._made, self._operations, self._host_runs, self._device_runs):
            collected.clear()

    def events(self) -> list[Event]:
        """All events by start, outer ones first. Waits for GPUs that are still at work."""
        found = list(self._made)
        found += [_operation_event(*told) for told in self._operations]
        for thread, run in self._host_runs:
            found += host_events(run, thread)
        for thread, device_run in self._device_runs:
            found += device_events(device_run, thread)
        return sorted(found, key=lambda e: (e.start, -e.end))


def _operation_event(
    op: Op,
    attributes: Mapping[str, Any],
    inputs: tuple[TensorType, ...],
    outputs: tuple[TensorType, ...],
    start: int,
    end: int,
    thread: int,
    location: Any,
    module: str,
) -> Event:
    from flamec.ir.work import operation_bytes, operation_flops

    moved = operation_bytes(op, inputs, outputs)
    computed = operation_flops(op, attributes, inputs, outputs)
    assert isinstance(moved, int) and isinstance(computed, int)
    return Event(
        op.name,
        "operation",
        start,
        end,
        thread,
        moved=moved,
        flops=computed,
        locations=() if location is None else (str(location),),
        module=module,
        shapes=tuple(evaluate_shape(t.shape, {}) for t in inputs),
        matrix=op.kind in _MATRIX_KINDS,
        dtype=_arithmetic(op, (inputs or outputs)[0]),
        kernel_device="" if outputs[0].device.type == "cpu" else str(outputs[0].device),
    )
