"""One pass over batches that worker processes make, in the order of the tasks.

Tasks go to the workers in turn, so many ahead; each batch that is taken makes room for another
task. Where batches are to lie in pinned memory, a thread takes and copies the next ones while the
caller uses one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from flamec.data.pinning_ahead import PinnedAhead
from flamec.data.workers import Workers

__all__ = ["WorkerBatches"]

MOST_PINNED = 2  # batches in pinned memory that the caller has not asked for yet


class WorkerBatches(Iterator[Any]):
    """``ahead``: how many tasks are under way; ``pins``: whether batches are to be pinned.

    ``keeps_workers``: whether the workers go on after the pass. An error ends them.
    """

    def __init__(
        self,
        workers: Workers,
        tasks: Iterator[Any],
        seed: int,
        *,
        ahead: int,
        pins: bool,
        keeps_workers: bool,
        count: Callable[[], int],
    ) -> None:
        self.workers = workers
        self.tasks = enumerate(tasks)
        self.keeps_workers = keeps_workers
        self.is_done = False
        self.owed: deque[tuple[int, int]] = deque()  # (batch, the worker that makes it)
        self.asked: deque[tuple[int, int]] = deque()  # those that the thread waits for
        self.active = list(range(workers.count))
        self.turn = 0
        self._count = count
        self._pinned = PinnedAhead(workers.wait_for) if pins else None
        try:
            for worker in self.active:
                workers.send(worker, ("epoch", seed))
            for _ in range(ahead):
                self._assign()
        except BaseException:
            self._fail()
            raise

    def __len__(self) -> int:
        return self._count()

    def _assign(self) -> None:
        """Give the next task to the next worker that still has samples."""
        if not self.active:
            return
        entry = next(self.tasks, None)
        if entry is None:
            return
        worker = self.active[self.turn % len(self.active)]
        self.turn = (self.turn + 1) % len(self.active)
        number, task = entry
        self.owed.append((number, worker))
        self.workers.send(worker, ("batch", number, task))

    def __next__(self) -> Any:
        try:
            return self._next()
        except StopIteration:
            self._finish()
            raise
        except BaseException:
            self._fail()
            raise

    def _next(self) -> Any:
        while (self.owed or self.asked) and not self.is_done:
            number, worker, (kind, answered, *content) = self._answer()
            assert answered == number, "answers come in the order of the tasks"
            if kind == "end":
                if worker in self.active:
                    place = self.active.index(worker)
                    self.active.remove(worker)
                    self.turn -= 1 if place < self.turn else 0
                self._assign()
                continue
            if kind == "error":
                raise content[0].exception(f"DataLoader worker process {worker}")
            self._assign()
            self._look_ahead()
            return content[0]
        raise StopIteration

    def _answer(self) -> tuple[int, int, Any]:
        """The next batch's number, its worker and what that answered."""
        if self._pinned is None:
            number, worker = self.owed.popleft()
            return number, worker, self.workers.receive(worker)
        if not self.asked:
            self._look_ahead()
        number, worker = self.asked.popleft()
        try:
            return number, worker, self._pinned.take(self.workers.timeout or None)
        except TimeoutError:
            raise self.workers.too_slow(worker) from None

    def _look_ahead(self) -> None:
        """Let the thread wait for the next batches."""
        while self._pinned is not None and self.owed and len(self.asked) < MOST_PINNED:
            self.asked.append(self.owed.popleft())
            self._pinned.ask(self.asked[-1][1])

    def _finish(self) -> None:
        self.is_done = True
        if self._pinned is not None:
            self._pinned.stop()
            self._pinned.join()
        if not self.keeps_workers:
            self.workers.close()

    def _fail(self) -> None:
        self.is_done = True
        self.owed.clear()
        self.asked.clear()
        if self._pinned is not None:
            self._pinned.stop()
        self.workers.close()
        if self._pinned is not None:
            self._pinned.join()

    def abandon(self) -> None:
        """Another pass begins with the same workers: take what they still owe, and drop it."""
        if self.is_done:
            return
        self.is_done = True
        try:
            if self._pinned is not None:
                while len(self._pinned):
                    self._pinned.take(None)
                self._pinned.stop()
                self._pinned.join()
            for _, worker in self.owed:
                self.workers.receive(worker)
            self.owed.clear()
        except BaseException:
            self._fail()
            raise
