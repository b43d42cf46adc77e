"""Locks that no other thread holds while the process is forked.

In: locks. Invariant: a forked child finds each of them free, and what it protects whole; a lock
that another thread held at a fork would never be released in the child. The forking thread has all
of them during the fork, as ``logging`` has its own; it never waits for one while it holds another,
so the order in which other threads take them does not matter. Imports of our modules, which happen
where they are first needed, are such a lock, too (``Imports``).
"""

from __future__ import annotations

import _imp
import os
import threading
import time
import weakref
from importlib import _bootstrap
from typing import Any, TypeVar

Lock = TypeVar("Lock")

LONGEST_WAIT = 60.0  # seconds; a fork that waits for a thread that waits for it goes on then
_STEP = 0.001  # seconds, between looks at what is imported
_OURS = __name__.partition(".")[0]
_module_locks: dict[str, Any] = vars(_bootstrap)["_module_locks"]  # by name, weak references
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


class Imports:
    """As a lock: who has it has Python's own, without which no import begins, and no other thread
    is importing a module of ours, which the child would wait for for ever."""

    def acquire(self, blocking: bool = True, timeout: float = -1.0) -> bool:
        end = time.monotonic() + timeout if timeout >= 0 else float("inf")
        while True:
            _imp.acquire_lock()
            if not _others_import():
                return True
            _imp.release_lock()
            if not blocking or time.monotonic() > end:
                return False
            time.sleep(_STEP)

    def release(self) -> None:
        _imp.release_lock()


def _others_import() -> bool:
    """Whether another thread has the lock that Python gives a module while it is imported."""
    me = threading.get_ident()
    for name, reference in list(_module_locks.items()):
        if name.partition(".")[0] == _OURS:
            lock: Any = reference()
            if lock is not None and lock.owner not in (None, me):
                return True
    return False


_imports = held_in_forks(Imports())


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
