"""A worker process: batches on request, until the loader closes the connection.

Messages to a worker: ``("epoch", base seed)``, ``("batch", number, task)``. It answers each batch
with ``("data", number, batch)``, ``("end", number)`` when its iterable dataset is exhausted, or
``("error", number, WorkerError)``.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from flamec.data.fetch import Exhausted, Fetcher, seed_all, seed_of
from flamec.data.transport import Channel

__all__ = ["WorkerError", "WorkerInfo", "WorkerSettings", "get_worker_info", "run_worker"]


@dataclass
class WorkerInfo:
    """Of the worker process that runs: its number, how many there are, its seed, its dataset."""

    id: int
    num_workers: int
    seed: int
    dataset: Any = field(repr=False)


@dataclass
class WorkerSettings:
    """What a worker needs to know of its loader."""

    id: int
    num_workers: int
    dataset: Any
    collate: Callable[[Any], Any]
    is_iterable: bool
    drop_last: bool
    init: Callable[[int], None] | None
    seed: int


@dataclass
class WorkerError:
    """An exception in a worker: its class where it can be made again, and the traceback."""

    kind: type[BaseException] | None
    name: str
    text: str

    @classmethod
    def of(cls, error: BaseException) -> WorkerError:
        kind = type(error)
        is_known = kind.__module__ == "builtins" or kind.__module__.startswith("flamec.")
        return cls(kind if is_known else None, kind.__qualname__, traceback.format_exc())

    def exception(self, where: str) -> BaseException:
        """The exception to raise in the loader's process."""
        message = f"Caught {self.name} in {where}.\nOriginal {self.text}"
        try:
            if self.kind is not None:
                if issubclass(self.kind, KeyError):  # prints its argument's repr otherwise
                    return self.kind(_Plain(message))
                return self.kind(message)
        except TypeError:  # it wants other arguments
            pass
        return RuntimeError(message)


class _Plain(str):
    def __repr__(self) -> str:
        return str(self)


_info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """About the worker process that runs; None in the main process."""
    return _info


def run_worker(
    connection: Connection, inherited: Iterable[Connection], settings: WorkerSettings
) -> None:
    """The body of a worker process.

    ``inherited``: ends of connections that belong to the loader's process and were copied
    into this one; they are closed, so that every worker sees when the loader is gone.
    """
    global _info
    for other in inherited:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the loader, which ends its workers
    _info = WorkerInfo(settings.id, settings.num_workers, settings.seed, settings.dataset)
    channel = Channel(connection)
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, messages), daemon=True).start()
    failure: WorkerError | None = None
    try:
        seed_all(settings.seed)
        if settings.init is not None:
            settings.init(settings.id)
    except Exception as error:
        failure = WorkerError.of(error)
    try:
        _serve(channel, messages, settings, failure)
    except (BrokenPipeError, ConnectionResetError):  # the loader is gone
        os._exit(0)


def _listen(channel: Channel, messages: queue.SimpleQueue[Any]) -> None:
    """Take messages off the socket at once, so that the loader never waits for a busy worker."""
    try:
        while True:
            messages.put(channel.receive())
    except (EOFError, OSError):
        os._exit(0)


def _serve(
    channel: Channel,
    messages: queue.SimpleQueue[Any],
    settings: WorkerSettings,
    failure: WorkerError | None,
) -> None:
    fetcher: Fetcher | None = None
    base = 0
    while True:
        kind, *rest = messages.get()
        if kind == "epoch":
            (base,) = rest
            fetcher = None
            continue
        number, task = rest
        answer: tuple[Any, ...]
        try:
            seed = base + settings.id if settings.is_iterable else base
            seed_all(seed_of(seed, number))
            if failure is None:
                if fetcher is None:
                    fetcher = Fetcher(
                        settings.dataset, settings.collate, settings.is_iterable, settings.drop_last
                    )
                answer = ("data", number, fetcher.fetch(task))
            else:
                answer = ("error", number, failure)
        except Exhausted:
            answer = ("end", number)
        except Exception as error:
            answer = ("error", number, WorkerError.of(error))
        try:
            channel.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # what cannot be pickled
            channel.send(("error", number, WorkerError.of(error)))
