"""Locks of other threads in a forked child."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

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
