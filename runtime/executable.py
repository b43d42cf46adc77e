"""Run a compiled plan: one foreign call with one pointer.

In: a plan, the checked path of its shared object, a ``ProgramRuntime`` and a memory planner.
Out: ``Executable``, which binds sizes to a ``BoundProgram`` that is called. Invariant: temporaries
lie at the planned offsets in the calling thread's arena, or in outputs that lend their memory.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns
from typing import Any, NoReturn

from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import evaluate_dim
from flamec.runtime import recording
from flamec.runtime.allocator import ALIGNMENT, current_arena
from flamec.runtime.bound_programs import BoundPrograms
from flamec.runtime.cpu.compiler import CompileError
from flamec.runtime.cpu.step_clock import STOPPED, StepClock
from flamec.runtime.device import PlanMemory
from flamec.runtime.host_calls import Evaluate, HostCalls
from flamec.runtime.interrupts import uninterrupted
from flamec.runtime.lent_memory import LentMemory
from flamec.runtime.program_errors import program_error
from flamec.runtime.recording import ProgramRun, Recorder, Stopped


class FlamecRuntime(ctypes.Structure):
    """The C structure of the same name (``cpu/flamec_runtime.h``)."""

    _fields_ = (
        ("parallel_for", ctypes.c_void_p),
        ("threads", ctypes.c_int64),
        ("sgemm", ctypes.c_void_p),
        ("dgemm", ctypes.c_void_p),
        ("product_f32", ctypes.c_void_p),
        ("product_f64", ctypes.c_void_p),
    )


class FlamecCall(ctypes.Structure):
    """The C structure of the same name (``cpu/flamec_runtime.h``)."""

    _fields_ = (
        ("buffers", ctypes.c_void_p),
        ("sizes", ctypes.c_void_p),
        ("runtime", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("host", ctypes.c_void_p),
        ("error_detail", ctypes.c_int64),
        ("failed_step", ctypes.c_int64),
    )


class ProgramEntry(ctypes.Structure):
    """What ``flamec_enter`` (``cpu/threads.c``) takes: a call and how to make it."""

    _fields_ = (
        ("call", FlamecCall),
        ("program", ctypes.c_void_p),
        ("threads", ctypes.c_int64),
    )


@dataclass
class ProgramRuntime:
    """What the programs of a device share: its functions, and how a program is entered.

    ``evaluate`` computes what is asked of the host. ``clock`` is the address of the function
    ``FlamecProfile.now`` (``cpu/flamec_profile.h``).
    ``functions.threads`` is the number of threads; after changing it call
    ``allocator.invalidate_arenas``, because scratch memory is laid out for it.
    """

    functions: FlamecRuntime
    enter: Callable[[Any], int]
    evaluate: Evaluate
    clock: int


class Executable:
    """A plan with its loaded code; safe to use from several threads.

    ``plan.scratch`` bytes for each thread (rounded up to the alignment) lie behind the
    temporaries and are given to the program as ``FlamecCall.scratch``. ``label`` names the program
    in profiles; ``timed`` makes a shared object with a clock between its steps.
    AttributeError if ``library`` lacks the entry point.
    """

    def __init__(
        self,
        plan: ExecutionPlan,
        library: ctypes.CDLL,
        runtime: ProgramRuntime,
        plan_memory: PlanMemory,
        compiled: bool = False,
        label: str = "",
        timed: Callable[[], ctypes.CDLL] | None = None,
    ) -> None:
        self.plan = plan
        self.compiled = compiled
        self.label = label
        self.timed = timed if "functions" in plan.notes else None
        self._timed_library: ctypes.CDLL | None = None
        self.runtime = runtime
        self.plan_memory = plan_memory
        self._library = library
        address = ctypes.cast(library[plan.entry], ctypes.c_void_p).value
        assert address is not None
        self.entry_address: int = address
        self._bound: BoundPrograms[BoundProgram] = BoundPrograms(plan.symbols)

    def timed_library(self, recorder: Recorder) -> ctypes.CDLL | None:
        """The build with a clock, made when it is first asked for.

        None, with a warning, where it cannot be made: a program from a file needs no compiler.
        """
        if self._timed_library is None and self.timed is not None:
            start = perf_counter_ns()
            try:
                self._timed_library = self.timed()
            except (CompileError, OSError) as error:
                self.timed = None
                name = self.label or "a program"
                warnings.warn(
                    f"the steps of {name} cannot be timed one by one, only the whole: {error}",
                    RuntimeWarning,
                    stacklevel=2,
                )
            else:
                recorder.timed_build(self.label, start, perf_counter_ns())
        return self._timed_library

    def bind(self, sizes: tuple[int, ...] = (), key: tuple[int, ...] | None = None) -> BoundProgram:
        """The program for these values of ``plan.symbols``; ValueError if their number differs.
        ``key``: see ``BoundPrograms.of``.

        The result belongs to the calling thread; it is kept for the most recently used sizes.
        """
        return self._bound.of(sizes, partial(BoundProgram, self), key)


class BoundProgram:
    """A program for one choice of sizes, on the thread that bound it.

    Write the address of each input and output into ``addresses`` at the buffer's position in
    the plan, then call. ``peak_bytes`` is what the call takes of the arena: the temporaries
    (``layout.peak_bytes``) and, after them, each thread's scratch memory.
    """

    __slots__ = (
        "_arena",
        "_enter",
        "_entry",
        "_executable",
        "_functions",
        "_generation",
        "_host",
        "_lent",
        "_pointer",
        "_scratch",
        "_size_values",
        "_sizes",
        "addresses",
        "layout",
        "sizes",
    )

    def __init__(self, executable: Executable, sizes: tuple[int, ...]) -> None:
        plan = executable.plan
        self._sizes = bindings = dict(zip(plan.symbols, sizes, strict=True))
        self.sizes = sizes
        self.layout = executable.plan_memory(plan, bindings)
        self._lent = LentMemory(self.layout) if self.layout.guests else None
        self._scratch = _aligned(evaluate_dim(plan.scratch, bindings))
        self.addresses: ctypes.Array[ctypes.c_void_p] = (ctypes.c_void_p * len(plan.buffers))()
        self._size_values = (ctypes.c_int64 * len(sizes))(*sizes)
        self._executable = executable
        self._functions = FlamecRuntime()
        self._entry = ProgramEntry(program=executable.entry_address)
        self._entry.call.buffers = ctypes.addressof(self.addresses)
        self._entry.call.sizes = ctypes.addressof(self._size_values)
        self._entry.call.runtime = ctypes.addressof(self._functions)
        self._host = HostCalls(plan, bindings, self.addresses, executable.runtime.evaluate)
        self._entry.call.host = self._host.function
        self._pointer = ctypes.byref(self._entry)
        self._enter: Callable[[Any], int] = executable.runtime.enter
        self._arena = current_arena()
        self._generation = -1

    @property
    def peak_bytes(self) -> int:
        """Bytes of the arena that a call takes, with the number of threads as it is now."""
        threads: int = self._executable.runtime.functions.threads
        if not self._scratch:
            return self.layout.peak_bytes
        return _aligned(self.layout.peak_bytes) + self._scratch * threads

    def __call__(self) -> None:
        """Run; IndexError or ProgramError if the program reports an error, and what a call of
        the host raises."""
        if self._generation != self._arena.generation:
            self._place()
        if self._lent is not None:
            self._lent.move(self.addresses)
        if self._host.function is None:
            code = self._enter(self._pointer)
        else:
            with uninterrupted():
                code = self._enter(self._pointer)
        if code:
            self._fail(code)

    def _place(self) -> None:
        """Take the device's functions as they are now, and addresses in the arena."""
        ctypes.pointer(self._functions)[0] = self._executable.runtime.functions
        arena = self._arena
        arena.reserve(self.peak_bytes)
        for buffer, offset in self.layout.offsets.items():
            self.addresses[buffer] = arena.address + offset
        self._entry.call.scratch = arena.address + _aligned(self.layout.peak_bytes)
        self._entry.threads = self._functions.threads
        self._choose_entry()
        self._generation = arena.generation

    def _choose_entry(self) -> None:
        """The program itself, or while a profile is made its build with a clock."""
        executable, recorder = self._executable, recording.recorder
        if recorder is not None:
            self._enter = TimedEntry(executable, self._sizes, self._entry, self.addresses, recorder)
        elif isinstance(self._enter, TimedEntry):
            self._entry.program = executable.entry_address
            self._enter = executable.runtime.enter

    def _fail(self, code: int) -> NoReturn:
        """Raise what an error code stands for."""
        self._host.raise_error()
        call, plan = self._entry.call, self._executable.plan
        number, call.failed_step = call.failed_step - 1, 0
        functions = plan.notes.get("functions", ())
        step = plan.steps[functions.index(number)] if number in functions else None
        checks, modules = (step.checks, step.modules) if step is not None else ((), ())
        raise program_error(plan, code, call.error_detail, self._sizes, checks, modules)


class TimedEntry:
    """Enters the build of a program with a clock, and tells a recorder what each call took.

    Used in place of ``ProgramRuntime.enter`` by one bound program, so by one thread.
    """

    def __init__(
        self,
        executable: Executable,
        bindings: Mapping[str, int],
        entry: ProgramEntry,
        addresses: ctypes.Array[ctypes.c_void_p],
        recorder: Recorder,
    ) -> None:
        self._executable, self._bindings, self._recorder = executable, bindings, recorder
        self._addresses = addresses
        self._enter = executable.runtime.enter
        self._clock: StepClock | None = None
        library = executable.timed_library(recorder)
        if library is not None:
            self._clock = StepClock(library, executable.plan, executable.runtime.clock)
            entry.program = ctypes.cast(library[executable.plan.entry], ctypes.c_void_p).value

    def __call__(self, pointer: Any) -> int:
        clock, executable = self._clock, self._executable
        if clock is not None:
            clock.start(self._recorder.stop_before(executable.plan))
        start = perf_counter_ns()
        code = self._enter(pointer)
        end = perf_counter_ns()
        if code == STOPPED:
            self._recorder.stopped(executable.plan, self._bindings, list(self._addresses))
            raise Stopped
        spans, totals = ([], []) if clock is None else clock.read()
        self._recorder.program_run(
            ProgramRun(executable.plan, self._bindings, executable.label, start, end, spans, totals)
        )
        return code


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
