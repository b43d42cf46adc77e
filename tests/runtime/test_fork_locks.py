"""Locks of other threads in a forked child."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from flamec.runtime import fork_locks
from flamec.runtime.fork_locks import held_in_forks

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def in_child(locks: list[threading.Lock]) -> bool:
    """Whether a forked child finds the locks free."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if all(lock.acquire(timeout=5) for lock in locks) else 1)
    return os.waitpid(pid, 0)[1] == 0


@pytest.fixture
def locks() -> Iterator[list[threading.Lock]]:
    yield [held_in_forks(threading.Lock()) for _ in range(2)]


def test_two_threads_that_take_locks_in_another_order(locks: list[threading.Lock]) -> None:
    """Neither waits for ever, whatever the order in which the fork takes them."""
    ended = threading.Event()

    def work(first: threading.Lock, second: threading.Lock) -> None:
        while not ended.is_set():
            with first:
                if second.acquire(timeout=0.01):
                    second.release()

    threads = [threading.Thread(target=work, args=pair) for pair in (locks, locks[::-1])]
    for thread in threads:
        thread.start()
    try:
        assert all(in_child(locks) for _ in range(20))
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert all(lock.acquire(timeout=5) for lock in locks)


def test_a_lock_that_is_never_given_back_does_not_stop_forks(
    locks: list[threading.Lock], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_locks, "LONGEST_WAIT", 0.2)
    with locks[0]:
        assert in_child(locks[1:])
    assert in_child(locks)


class Slow(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module of ours, whose import takes until it may end."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        found = name == "flamec.imported_slowly"
        return importlib.machinery.ModuleSpec(name, self) if found else None

    def exec_module(self, module: Any) -> None:
        self.begun.set()
        self.may_end.wait(10)
        module.is_whole = True


def test_a_module_that_another_thread_is_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child of a fork meanwhile would wait for it for ever."""
    slow = Slow()
    monkeypatch.setattr(sys, "meta_path", [slow, *sys.meta_path])
    threads = [
        threading.Thread(target=importlib.import_module, args=("flamec.imported_slowly",)),
        threading.Timer(0.2, slow.may_end.set),
    ]
    for thread in threads:
        thread.start()
        slow.begun.wait(10)
    pid = os.fork()
    if pid == 0:
        signal.alarm(5)
        os._exit(0 if importlib.import_module("flamec.imported_slowly").is_whole else 1)
    assert os.waitpid(pid, 0)[1] == 0
    for thread in threads:
        thread.join()
    del sys.modules["flamec.imported_slowly"]
