"""``profile`` and ``record_function``: what a user writes around the code to be looked at."""

from __future__ import annotations

import enum
import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from flamec.profiler.averages import EventList, averages
from flamec.profiler.chrome_trace import export
from flamec.profiler.events import Event, assign_children
from flamec.profiler.recorder import Recorder
from flamec.profiler.schedules import ProfilerAction, Schedule
from flamec.runtime.recording import set_recorder
from flamec.state import process, thread

P = ParamSpec("P")
R = TypeVar("R")
_RECORDING = (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)


class ProfilerActivity(enum.Enum):
    """What to record. Work on a GPU is launched by the host, which is always recorded."""

    CPU = 0
    CUDA = 1


class profile:
    """Record what the process does in a block, or in chosen steps of a loop.

    ``activities``: without CPU or without CUDA, what happened there is left out. ``schedule``:
    which steps to record, each ended by ``step()``; ``on_trace_ready``: called with this object
    when a recording is complete. ``record_shapes``, ``profile_memory``, ``with_stack``,
    ``with_flops`` and ``with_modules`` ask for nothing more: shapes, lines, flops and modules are
    always recorded; the memory of a program is in ``flamec dump --stage plan``.

    RuntimeError if another profile is being made in this process.
    """

    def __init__(
        self,
        *,
        activities: Iterable[ProfilerActivity] | None = None,
        schedule: Schedule | None = None,
        on_trace_ready: Callable[[profile], Any] | None = None,
        record_shapes: bool = False,
        profile_memory: bool = False,
        with_stack: bool = False,
        with_flops: bool = False,
        with_modules: bool = False,
    ) -> None:
        self._activities = tuple(ProfilerActivity) if activities is None else tuple(activities)
        for activity in self._activities:
            if not isinstance(activity, ProfilerActivity):
                raise TypeError(f"profile: {activity!r} is no flamec.profiler.ProfilerActivity")
        self._schedule = schedule
        self._on_trace_ready = on_trace_ready
        self._recorder: Recorder | None = None
        self._found: list[Event] | None = None
        self._running = False
        self.step_num = 0
        self.current_action = ProfilerAction.NONE

    # beginning and ending ---------------------------------------------------------------
    def start(self) -> None:
        """Begin; the same as entering the block."""
        if self._running:
            raise RuntimeError("profile: it was started already")
        self._running = True
        self.step_num = 0
        first = ProfilerAction.RECORD if self._schedule is None else self._schedule(0)
        self._change_to(first)

    def stop(self) -> None:
        """End, and hand over what was recorded; the same as leaving the block."""
        if not self._running:
            raise RuntimeError("profile: it is not running")
        self._running = False
        recorded = self.current_action in _RECORDING
        self._change_to(ProfilerAction.NONE)
        if recorded and self._on_trace_ready is not None:
            self._on_trace_ready(self)

    def step(self) -> None:
        """A step of the loop is done; the schedule says what happens in the next."""
        if not self._running:
            raise RuntimeError("profile: step() belongs into the profiled block")
        self.step_num += 1
        if self._schedule is None:
            return
        ended = self.current_action
        if ended is ProfilerAction.RECORD_AND_SAVE:
            self._change_to(ProfilerAction.NONE)
            if self._on_trace_ready is not None:
                self._on_trace_ready(self)
        self._change_to(self._schedule(self.step_num))

    def __enter__(self) -> profile:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _change_to(self, action: ProfilerAction) -> None:
        before, self.current_action = self.current_action, action
        if action is ProfilerAction.NONE:
            if before is not ProfilerAction.NONE:
                _release()
                assert self._recorder is not None
                if before in _RECORDING:
                    self._found = self._recorder.events()
                self._recorder = None
            return
        if before is ProfilerAction.NONE:
            self._recorder = Recorder()
            _occupy(self._recorder)
        elif before is ProfilerAction.WARMUP and action in _RECORDING:
            assert self._recorder is not None
            self._recorder.forget()

    # what was recorded ------------------------------------------------------------------
    def events(self) -> list[Event]:
        """All events of the last recording by start, outer ones before those inside of them.

        RuntimeError while it is being made, and if nothing was recorded.
        """
        if self.current_action is not ProfilerAction.NONE:
            raise RuntimeError("profile: the recording is not complete; leave the block first")
        if self._found is None:
            raise RuntimeError("profile: nothing was recorded")
        found = self._found
        if ProfilerActivity.CUDA not in self._activities:
            found = [e for e in found if e.device == "cpu"]
        if ProfilerActivity.CPU not in self._activities:
            found = [e for e in found if e.device != "cpu"]
        assign_children(found)
        return found

    def key_averages(self, group_by_input_shape: bool = False) -> EventList:
        """Events of the same name summed up."""
        return averages(self.events(), group_by_input_shape)

    def export_chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Write the events for chrome://tracing or https://ui.perfetto.dev."""
        export(self.events(), Path(path))


_lock = threading.Lock()


def _occupy(recorder: Recorder) -> None:
    with _lock:
        if process.recorder is not None:
            raise RuntimeError("profile: another profile is being made in this process")
        process.recorder = recorder
    set_recorder(recorder)


def _release() -> None:
    set_recorder(None)
    process.recorder = None


class record_function:
    """Give a name to a range of the user's code: a block, or a decorated function.

    In a compiled function the range is that of the trace: Python code is not run at each call.
    """

    def __init__(self, name: str, args: str | None = None) -> None:
        self.name = name if args is None else f"{name} ({args})"
        self._recorder: Recorder | None = None

    def __enter__(self) -> record_function:
        if thread.trace is None and process.recorder is not None:
            self._recorder = process.recorder
            self._recorder.enter(self.name)
        return self

    def __exit__(self, *_: object) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.leave()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def named(*args: P.args, **kwargs: P.kwargs) -> R:
            with record_function(self.name):
                return function(*args, **kwargs)

        return named


def tensorboard_trace_handler(
    dir_name: str | os.PathLike[str], worker_name: str | None = None, use_gzip: bool = False
) -> Callable[[profile], None]:
    """For ``on_trace_ready``: write a trace into a folder, under a name of its own."""
    worker = worker_name or f"{socket.gethostname()}_{os.getpid()}"

    def write(prof: profile) -> None:
        folder = Path(dir_name)
        folder.mkdir(parents=True, exist_ok=True)
        ending = ".pt.trace.json" + (".gz" if use_gzip else "")
        prof.export_chrome_trace(folder / f"{worker}.{time.time_ns()}{ending}")

    return write
