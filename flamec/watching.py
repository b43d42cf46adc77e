"""Looking at what Python calls in a thread while a user's function is traced.

In: an ``Observer``. Out: it is told of each function that is entered, and of each function written
in C that is called, by code that is not ours (``Watch``). From Python 3.12 on the interpreter
reports such calls alone (``sys.monitoring``). Before that it reports all calls, which costs more
than tracing itself; so what runs no code of the user is ``unwatched``.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FrameType, MethodDescriptorType
from typing import Any, ParamSpec, Protocol, TypeVar

from flamec.errors import is_framework_file
from flamec.runtime.fork_locks import held_in_forks
from flamec.state import thread

P = ParamSpec("P")
R = TypeVar("R")

STDLIB = str(Path(os.__file__).parent)
_MADE_BY_DATACLASSES = "__dataclass_builtins_object__"  # a variable of their __init__
_TOOLS = (3, 4, 1, 5, 0, 2)  # numbers of sys.monitoring's tools; others than 3 and 4 have names


def is_of_python(code: CodeType) -> bool:
    """Whether a function is of Python's library, or was made by it (``dataclasses``)."""
    file = code.co_filename
    return file.startswith((STDLIB, "<frozen")) or _MADE_BY_DATACLASSES in code.co_freevars


class Observer(Protocol):
    """What is told of calls; what it does itself is not looked at."""

    def entered(self, frame: FrameType) -> None:
        """A Python function begins that is not Python's own."""

    def called(self, function: Any, file: str) -> None:
        """A function written in C is about to be called by code in ``file``."""


class Watch:
    """Tells an observer of the calls in this thread, from ``begin`` to ``end``."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._outer: Any = None  # what was there before
        self._profiler: Any = None
        self._monitor: _Monitor | None = None
        self._on = False

    def begin(self) -> None:
        self._on = True
        monitor = _monitor()
        if monitor is not None and monitor.start():
            self._monitor = monitor
            self._outer, thread.observer = thread.observer, self._observer
            return
        self._outer, self._profiler = thread.watch, sys.getprofile()
        thread.watch = _profile_function(self._observer)
        sys.setprofile(thread.watch)

    def end(self) -> None:
        """Let things be as they were before; may be repeated."""
        if not self._on:
            return
        if self._monitor is None:
            thread.watch = self._outer
            _resume(self._profiler)
        else:
            thread.observer = self._outer
            self._monitor.stop()
        self._on = False


@contextmanager
def looking_away() -> Iterator[None]:
    """In the block nothing that this thread does is looked at."""
    observer, outer, profiler = thread.observer, thread.watch, sys.getprofile()
    thread.observer = thread.watch = None
    if outer is not None:
        sys.setprofile(None)
    try:
        yield
    finally:
        thread.observer, thread.watch = observer, outer
        if outer is not None:
            sys.setprofile(profiler)


def unwatched(function: Callable[P, R]) -> Callable[P, R]:
    """A function that runs no code of the user: its calls, and those that it makes, are not
    looked at."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        watch, observer = thread.watch, thread.observer
        if watch is None and observer is None:
            return function(*args, **kwargs)
        if watch is not None:
            sys.setprofile(None)
        thread.observer = thread.watch = None
        try:
            return function(*args, **kwargs)
        finally:
            thread.observer, thread.watch = observer, watch
            if watch is not None:
                sys.setprofile(watch)

    return call


# by the profiler's hook ---------------------------------------------------------------------


def _profile_function(observer: Observer) -> Callable[[FrameType, str, Any], None]:
    ours: set[str] = set()  # files of the framework, where most events are

    def on_event(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        file = code.co_filename
        if file in ours:
            return
        if is_framework_file(file):
            ours.add(file)
        elif event == "call":
            if not is_of_python(code):
                observer.entered(frame)
                frame.f_locals  # noqa: B018  # as it is now: CPython 3.11 puts it in place again
        elif event == "c_call":
            observer.called(argument, file)

    return on_event


def _resume(profiler: Any) -> None:
    """Go on with the profiler that was at work: a function, None, or an object as cProfile's."""
    if profiler is None or callable(profiler):
        sys.setprofile(profiler)
    else:
        sys.setprofile(None)
        profiler.enable()


# by monitoring ------------------------------------------------------------------------------


def _calls_nothing_else(code: CodeType) -> bool:
    """Whether a function that runs very often calls the same functions each time, without effects.

    It asks for the frame of the function, so it is for callbacks of monitoring alone.
    """
    if code.co_filename == weakref.__file__:
        return not code.co_qualname.startswith("finalize")
    if _MADE_BY_DATACLASSES in code.co_freevars:  # whose class may have factories of defaults
        module: str = sys._getframe(2).f_globals.get("__name__", "")
        return module.startswith("flamec.")
    return False


class _Monitor:
    """Our events of ``sys.monitoring``, on while any thread is watched."""

    def __init__(self, monitoring: Any) -> None:
        self._monitoring = monitoring
        self._lock = held_in_forks(threading.Lock())
        self._watched = 0  # blocks of all threads
        self._tool: int | None = None

    def start(self) -> bool:
        """Report calls until ``stop``; False where other tools have taken all places."""
        with self._lock:
            if self._tool is None:
                self._tool = self._take()
            if self._tool is None:
                return False
            self._watched += 1
            if self._watched == 1:
                events = self._monitoring.events
                self._monitoring.set_events(self._tool, events.PY_START | events.CALL)
            return True

    def stop(self) -> None:
        with self._lock:
            self._watched -= 1
            if not self._watched:
                self._monitoring.set_events(self._tool, 0)

    def _take(self) -> int | None:
        monitoring = self._monitoring
        free = [tool for tool in _TOOLS if monitoring.get_tool(tool) is None]
        if not free:
            return None
        monitoring.use_tool_id(free[0], "flamec")
        monitoring.register_callback(free[0], monitoring.events.PY_START, self._entered)
        monitoring.register_callback(free[0], monitoring.events.CALL, self._called)
        return free[0]

    def _entered(self, code: CodeType, offset: int) -> Any:
        if is_framework_file(code.co_filename) or is_of_python(code):
            return self._monitoring.DISABLE  # from now on, in all threads
        observer = thread.observer
        if observer is not None:
            frame: FrameType | None = sys._getframe(1)
            while frame is not None and frame.f_code is not code:  # of who calls this for it
                frame = frame.f_back
            if frame is not None:
                observer.entered(frame)
        return None

    def _called(self, code: CodeType, offset: int, function: Any, first: Any) -> Any:
        if is_framework_file(code.co_filename) or _calls_nothing_else(code):
            return self._monitoring.DISABLE
        observer = thread.observer
        if observer is None:
            return None
        kind = type(function)
        if kind is MethodDescriptorType and first is not self._monitoring.MISSING:
            observer.called(function.__get__(first, type(first)), code.co_filename)
        elif kind is BuiltinFunctionType:
            observer.called(function, code.co_filename)
        return None


_found: list[_Monitor | None] = []
_lock = held_in_forks(threading.Lock())


def _monitor() -> _Monitor | None:
    """The process's monitor; None before Python 3.12."""
    with _lock:
        if not _found:
            monitoring = getattr(sys, "monitoring", None)
            _found.append(None if monitoring is None else _Monitor(monitoring))
        return _found[0]
