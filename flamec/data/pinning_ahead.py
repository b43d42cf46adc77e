"""Batches of workers in pinned memory, copied there while the caller computes.

In: an iterator over batches that can say whether the next one has arrived. Out: the same batches,
pinned, in order. Invariants: no batch is waited for before it is asked for, and an error of a
batch is raised when that batch is asked for. A thread makes the copies; it ends with the batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from flamec.pinning import pinned

__all__ = ["PinnedAhead"]


class Arriving(Protocol):
    """An iterator over batches that are made elsewhere."""

    def __next__(self) -> Any: ...

    def __len__(self) -> int: ...

    def is_ready(self) -> bool:
        """Whether the next batch is there, so that taking it does not wait."""


class PinnedAhead(Iterator[Any]):
    """While the caller uses one batch, the next one is copied if it has arrived."""

    def __init__(self, batches: Arriving) -> None:
        self._batches = batches
        self._copies: ThreadPoolExecutor | None = None
        self._next: Future[Any] | None = None

    def __len__(self) -> int:
        return len(self._batches)

    def __next__(self) -> Any:
        ahead, self._next = self._next, None
        try:
            batch = pinned(next(self._batches)) if ahead is None else ahead.result()
        except BaseException:
            self._end()
            raise
        self._look_ahead()
        return batch

    def _look_ahead(self) -> None:
        if not self._batches.is_ready():
            return
        try:
            batch = next(self._batches)
        except Exception as error:  # of a batch that nobody has asked for yet
            self._next = Future()
            self._next.set_exception(error)
            return
        if self._copies is None:
            self._copies = ThreadPoolExecutor(1, thread_name_prefix="flamec pinning")
        self._next = self._copies.submit(pinned, batch)

    def _end(self) -> None:
        """Let the thread end: processes that are forked later must not find it."""
        copies, self._copies = self._copies, None
        if copies is not None:
            copies.shutdown()
