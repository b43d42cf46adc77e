"""Streams and events: the order of work on a device.

In: device numbers or raw handles. Out: ``Stream`` and ``Event``, which have the methods and
names of PyTorch's. Invariants: the current stream belongs to a thread and a device; at first
it is the legacy default stream (handle 0), as in PyTorch, so that work of both is ordered
without events; a stream made here does not wait for that one.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flamec.runtime.cuda.driver import CudaContext, check, context, driver, release

_NON_BLOCKING = 1
_DISABLE_TIMING = 2
_BLOCKING_SYNC = 1
_NOT_READY = 600
_DEFAULTS = (0, 1, 2)  # handles of the streams that are always there


class Stream:
    """A queue of work on one device.

    ``priority``: lower numbers go first (the device clips them to its range). ``handle``: a
    stream that someone else made and keeps; it is not destroyed with this object.
    ``raw`` is the driver's object, ``cuda_stream`` the handle as a number. ``lasts``: whether the
    driver's stream is there as long as this object.
    """

    __slots__ = ("__weakref__", "_owned", "context", "cuda_stream", "raw")

    def __init__(self, device: int = 0, priority: int = 0, *, handle: int | None = None) -> None:
        self._owned = False
        self.context: CudaContext = context(device)
        cu = driver()
        if handle is None:
            self.context.activate()
            result = cu.cuStreamCreateWithPriority(_NON_BLOCKING, priority)
            self.raw: Any = check(result, "cuStreamCreateWithPriority")
            self._owned = True
        else:
            self.raw = cu.CUstream(handle)
        self.cuda_stream = int(self.raw)

    def __del__(self) -> None:
        if self._owned and sys is not None and not sys.is_finalizing():  # modules go first
            release(self.context, "cuStreamDestroy", self.raw)

    def __repr__(self) -> str:
        return f"Stream(cuda:{self.device_index}, handle={self.cuda_stream:#x})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Stream):
            return NotImplemented
        return (self.cuda_stream, self.context) == (other.cuda_stream, other.context)

    def __hash__(self) -> int:
        return hash((self.cuda_stream, self.context.index))

    @property
    def device_index(self) -> int:
        return self.context.index

    @property
    def lasts(self) -> bool:
        return self._owned or self.cuda_stream in _DEFAULTS

    def synchronize(self) -> None:
        """Wait until all work in the stream is done; errors of that work are raised here."""
        self.context.activate()
        check(driver().cuStreamSynchronize(self.raw), "cuStreamSynchronize")

    def query(self) -> bool:
        """Whether all work in the stream is done."""
        self.context.activate()
        result = driver().cuStreamQuery(self.raw)
        if result[0] == _NOT_READY:
            return False
        check(result, "cuStreamQuery")
        return True

    def record_event(self, event: Event | None = None) -> Event:
        """Mark the present end of the stream; a new event if none is given."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Let later work in this stream wait for the event."""
        event.wait(self)

    def wait_stream(self, stream: Stream) -> None:
        """Let later work in this stream wait for what is in the other one now."""
        self.wait_event(stream.record_event())


class Event:
    """A mark in a stream; made on the device of the stream that first records it."""

    __slots__ = ("__weakref__", "_context", "_flags", "_raw")

    def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None:
        self._flags = (0 if enable_timing else _DISABLE_TIMING) | (_BLOCKING_SYNC * blocking)
        self._context: CudaContext | None = None
        self._raw: Any = None

    def __del__(self) -> None:
        if self._context is not None:
            release(self._context, "cuEventDestroy", self._raw)

    def record(self, stream: Stream | None = None) -> None:
        """Mark the present end of ``stream`` (of device 0's current stream if None)."""
        stream = stream or current_stream()
        cu = driver()
        stream.context.activate()
        if self._context is None:
            self._raw = check(cu.cuEventCreate(self._flags), "cuEventCreate")
            self._context = stream.context
        check(cu.cuEventRecord(self._raw, stream.raw), "cuEventRecord")

    def wait(self, stream: Stream | None = None) -> None:
        """Let later work in ``stream`` wait; at once if the event was never recorded."""
        stream = stream or current_stream()
        if self._context is not None:
            stream.context.activate()
            check(driver().cuStreamWaitEvent(stream.raw, self._raw, 0), "cuStreamWaitEvent")

    def query(self) -> bool:
        """Whether all work before the mark is done; True if it was never recorded."""
        if self._context is None:
            return True
        self._context.activate()
        result = driver().cuEventQuery(self._raw)
        if result[0] == _NOT_READY:
            return False
        check(result, "cuEventQuery")
        return True

    def synchronize(self) -> None:
        """Wait until all work before the mark is done."""
        if self._context is not None:
            self._context.activate()
            check(driver().cuEventSynchronize(self._raw), "cuEventSynchronize")

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds from this event to ``end_event``.

        ValueError unless both have timing enabled and were recorded; CudaError if one is not
        done yet.
        """
        for name, event in (("the first event", self), ("end_event", end_event)):
            if event._flags & _DISABLE_TIMING:
                raise ValueError(f"elapsed_time: {name} was made without enable_timing=True")
            if event._context is None:
                raise ValueError(f"elapsed_time: {name} was not recorded")
        result = driver().cuEventElapsedTime(self._raw, end_event._raw)
        return float(check(result, "cuEventElapsedTime"))


class _StreamsOfThread(dict[int, "Stream"]):
    """By device: the one that was set, else the default one."""

    def __missing__(self, device: int) -> Stream:
        stream = self[device] = default_stream(device)
        return stream


class _CurrentStreams(threading.local):
    def __init__(self) -> None:
        self.of_device = _StreamsOfThread()


current_streams = _CurrentStreams()  # what ``current_stream`` reads, for callers in a hurry
_default: dict[int, Stream] = {}


def default_stream(device: int = 0) -> Stream:
    """The device's legacy default stream."""
    stream = _default.get(device)
    if stream is None:
        stream = _default.setdefault(device, Stream(device, handle=0))
    return stream


def current_stream(device: int = 0) -> Stream:
    """The stream in which the calling thread works on the device."""
    return current_streams.of_device[device]


def set_stream(stream: Stream) -> None:
    """Make it the calling thread's current stream of its device."""
    current_streams.of_device[stream.context.index] = stream


@contextmanager
def use_stream(stream: Stream) -> Iterator[Stream]:
    """Work in ``stream`` within the block."""
    before = current_stream(stream.context.index)
    set_stream(stream)
    try:
        yield stream
    finally:
        set_stream(before)
