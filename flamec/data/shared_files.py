"""Memory files that two processes share, and that are used again.

The sender lends a file with each message, the receiver maps it and says when nothing refers to
its content any more; then the sender may fill it again, without new memory from the system.
A file has no name, so nothing is left behind by a process that dies. Invariants: a file is written
only while nobody reads it, and a receiver that forks keeps for good what the child can see.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["HAS_FILES", "LentFiles", "ReceivedFiles"]

HAS_FILES = hasattr(os, "memfd_create")
MOST_IDLE = 4  # files that a sender keeps for its next messages

Returned = tuple[list[int], list[int]]  # numbers of files: to be used again, and not to be


class LentFile:
    """A memory file of the sender. ``content``: its bytes; ``is_new``: it was not sent yet."""

    descriptor = -1  # none, also where the system refuses one

    def __init__(self, number: int, size: int) -> None:
        self.number, self.size = number, size
        self.descriptor = os.memfd_create("flamec-data", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.descriptor, size)
            self.content = np.frombuffer(mmap.mmap(self.descriptor, size), np.uint8)
        except BaseException:
            self.close_descriptor()
            raise

    @property
    def is_new(self) -> bool:
        return self.descriptor >= 0

    def close_descriptor(self) -> None:
        """After it was sent: the mapping stays."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close_descriptor()


class LentFiles:
    """The sender's files: which of them wait to be filled, and which the receiver has."""

    def __init__(self) -> None:
        self._made = 0
        self._idle: list[LentFile] = []
        self._lent: dict[int, LentFile] = {}
        self._dropped: list[int] = []
        self._lock = threading.Lock()

    def lend(self, size: int) -> LentFile:
        """The smallest idle file of at least so many bytes, or a new one."""
        with self._lock:
            fitting = [file for file in self._idle if file.size >= size]
            if fitting:
                file = min(fitting, key=_size)
                self._idle.remove(file)
            else:
                if self._idle:  # sizes grow: the new one takes its place
                    self._drop(min(self._idle, key=_size))
                self._made += 1
                file = LentFile(self._made, size)
            self._lent[file.number] = file
            return file

    def take_back(self, returned: Returned) -> None:
        """The receiver does not use these any more, or keeps them for good."""
        again, kept = returned
        with self._lock:
            for number in kept:
                del self._lent[number]
            self._idle.extend(self._lent.pop(number) for number in again)
            while len(self._idle) > MOST_IDLE:
                self._drop(min(self._idle, key=_size))

    def dropped(self) -> list[int]:
        """Files that will not be sent again, of which the receiver does not know yet."""
        with self._lock:
            dropped, self._dropped = self._dropped, []
            return dropped

    def _drop(self, file: LentFile) -> None:
        self._idle.remove(file)
        self._dropped.append(file.number)


def _size(file: LentFile) -> int:
    return file.size


class ReceivedFiles:
    """The receiver's mappings of a sender's files."""

    def __init__(self) -> None:
        self._mappings: dict[int, mmap.mmap] = {}
        self._uses: dict[int, weakref.finalize[Any, Any]] = {}
        self._unused: deque[int] = deque()
        self._kept: list[int] = []
        _receivers.add(self)

    def add(self, number: int, descriptor: int, size: int) -> None:
        """Map a file that was received; closes the descriptor."""
        try:
            self._mappings[number] = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)

    def borrowed(self, number: int) -> np.ndarray:
        """The bytes of a file; when the array is gone, the file may be used again."""
        content = np.frombuffer(self._mappings[number], np.uint8)
        use = weakref.finalize(content, self._unused.append, number)
        use.atexit = False
        self._uses[number] = use
        return content

    def forget(self, numbers: Iterable[int]) -> None:
        """The sender has dropped these."""
        for number in numbers:
            self._mappings.pop(number, None)
            self._uses.pop(number, None)

    def returned(self) -> Returned:
        """What the sender is to be told: files to be used again, and files not to be."""
        again = []
        while self._unused:
            again.append(self._unused.popleft())
        kept, self._kept = self._kept, []
        return again, kept

    def keep_what_is_used(self) -> None:
        """Before a fork: a child sees the same memory, and nobody hears when it stops to."""
        for number, use in list(self._uses.items()):
            if use.detach() is not None:
                self._kept.append(number)
                self._mappings.pop(number, None)
                del self._uses[number]


_receivers: weakref.WeakSet[ReceivedFiles] = weakref.WeakSet()


def _before_fork() -> None:
    for files in list(_receivers):
        files.keep_what_is_used()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)
