"""Locks that no other thread holds while the process is forked.

In: locks. Invariant: a forked child finds each of them free, and what it protects whole; a lock
that another thread held at a fork would never be released in the child. The forking thread has all
of them during the fork, as ``logging`` has its own; it never waits for one while it holds another,
so the order in which other threads take them does not matter.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Any, TypeVar

Lock = TypeVar("Lock")

LONGEST_WAIT = 60.0  # seconds; a fork that waits for a thread that waits for it goes on then
_locks: weakref.WeakSet[Any] = weakref.WeakSet()
_registering = threading.Lock()
_held: list[Any] = []
_holders: list[int] = []  # the thread that forks


def held_in_forks(lock: Lock) -> Lock:
    """The lock, which is held by the forking thread in every fork from now on.

    It must be one that its holder can take again (an RLock) if what it protects may fork.
    """
    with _registering:
        _locks.add(lock)
    return lock


def _acquire() -> None:
    end = time.monotonic() + LONGEST_WAIT
    while (busy := _acquire_all()) is not None:
        if not busy.acquire(timeout=max(0.0, end - time.monotonic())):
            return
        busy.release()


def _acquire_all() -> Any:
    """All locks, or none and the first that another thread has."""
    if not _registering.acquire(blocking=False):
        return _registering
    _held.append(_registering)  # who has it has the list, too
    for lock in list(_locks):
        if not lock.acquire(blocking=False):
            _release_all()
            return lock
        _held.append(lock)
    _holders.append(threading.get_ident())
    return None


def _release_all() -> None:
    for lock in reversed(_held[:]):
        _held.pop()
        lock.release()


def _release() -> None:
    if _holders == [threading.get_ident()]:
        _holders.clear()
        _release_all()


os.register_at_fork(before=_acquire, after_in_parent=_release, after_in_child=_release)
