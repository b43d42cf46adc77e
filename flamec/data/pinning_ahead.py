"""Batches of workers in pinned memory, copied there while the caller computes.

In: which worker's answer is wanted next. Out: the answers in that order, the batches in them
pinned; an error is raised where its answer is taken. A thread waits for the workers and makes the
copies, so that the caller only waits for what is not there yet.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from flamec.pinning import pinned

__all__ = ["PinnedAhead"]

Receive = Callable[[int, threading.Event], Any]
Questions = SimpleQueue["tuple[int, Future[Any]] | None"]


class PinnedAhead:
    """Answers that were asked for and not taken yet; ``len`` of it says how many.

    ``receive(worker, ended)`` waits for a worker's answer until the event is set.
    """

    def __init__(self, receive: Receive) -> None:
        self._questions: Questions = SimpleQueue()
        self._answers: deque[Future[Any]] = deque()
        self._ended = threading.Event()
        self._stop = weakref.finalize(self, _stop, self._ended, self._questions)
        self._thread = threading.Thread(
            target=_answer_all,
            args=(receive, self._ended, self._questions),
            name="flamec pinning",
            daemon=True,
        )
        self._thread.start()

    def __len__(self) -> int:
        return len(self._answers)

    def ask(self, worker: int) -> None:
        """Let the next answer of a worker be taken and pinned after those asked for before."""
        answer: Future[Any] = Future()
        self._answers.append(answer)
        self._questions.put((worker, answer))

    def take(self, timeout: float | None) -> Any:
        """The first answer that was not taken; TimeoutError if it takes longer than seconds."""
        return self._answers.popleft().result(timeout)

    def stop(self) -> None:
        """Let the thread end without what it waits for."""
        self._stop()

    def join(self) -> None:
        """Wait for the thread's end: processes that are forked later must not find it."""
        self._thread.join()


def _stop(ended: threading.Event, questions: Questions) -> None:
    ended.set()
    questions.put(None)


def _answer_all(receive: Receive, ended: threading.Event, questions: Questions) -> None:
    while _answer_one(receive, ended, questions):
        pass


def _answer_one(receive: Receive, ended: threading.Event, questions: Questions) -> bool:
    question = questions.get()
    if question is None:
        return False
    worker, answer = question
    try:
        kind, *content = receive(worker, ended)
        if kind == "data":
            content[1] = pinned(content[1])
        answer.set_result((kind, *content))
    except BaseException as error:  # raised where the answer is taken
        answer.set_exception(error)
    return True
