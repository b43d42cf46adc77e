"""The worker processes of a loader: started, given tasks in turn, watched and stopped."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from flamec.data.transport import Channel
from flamec.data.worker import WorkerSettings, run_worker

__all__ = ["Workers"]

INTERVAL = 0.1  # seconds after which a thread that waits sees that it is to end
PATIENCE = 5.0  # seconds for a worker to end after its connection was closed

_open_ends: weakref.WeakSet[Connection] = weakref.WeakSet()  # this process's, of all loaders


class Workers:
    """Worker processes, one connection each. ``close`` ends them; so does the end of the object."""

    def __init__(self, settings: list[WorkerSettings], context: Any, timeout: float) -> None:
        self.timeout = timeout
        self.count = len(settings)
        self._channels: list[Channel] = []
        self.connections: list[Connection] = []
        self.processes: list[Any] = []
        self._stop = weakref.finalize(self, _stop, os.getpid(), self.connections, self.processes)
        for each in settings:
            mine, theirs = multiprocessing.Pipe()
            _open_ends.add(mine)
            is_fork = context.get_start_method() == "fork"
            inherited = list(_open_ends) if is_fork else []
            process = context.Process(
                target=run_worker,
                args=(theirs, inherited, each),
                daemon=True,
                name=f"flamec data worker {each.id}",
            )
            self.connections.append(mine)
            self._channels.append(Channel(mine))
            self.processes.append(process)
            try:
                process.start()
            except BaseException:
                self.processes.pop()
                self.close()
                raise
            finally:
                theirs.close()

    def send(self, worker: int, message: tuple[Any, ...]) -> None:
        """Send a message to a worker. That it is dead is said where its answer is awaited."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._channels[worker].send(message)

    def receive(self, worker: int) -> Any:
        """The next answer of a worker; RuntimeError if it died or took longer than ``timeout``."""
        if not self._wait(worker, self.timeout or None):
            raise self.too_slow(worker)
        return self._received_from(worker)

    def wait_for(self, worker: int, ended: threading.Event) -> Any:
        """The next answer of a worker, for another thread; RuntimeError if it died.

        InterruptedError when the event is set before there is an answer.
        """
        while not self._wait(worker, INTERVAL):
            if ended.is_set():
                raise InterruptedError
        return self._received_from(worker)

    def _wait(self, worker: int, timeout: float | None) -> bool:
        """Whether there is an answer, or the worker is dead, within so many seconds."""
        return bool(wait([self.connections[worker], self.processes[worker].sentinel], timeout))

    def _received_from(self, worker: int) -> Any:
        connection = self.connections[worker]
        try:
            if connection.poll():
                return self._channels[worker].receive()
        except (EOFError, ConnectionResetError):
            pass
        self._raise_death(worker)

    def too_slow(self, worker: int) -> RuntimeError:
        """The error of a worker that gave nothing for ``timeout`` seconds."""
        return RuntimeError(
            f"DataLoader timed out after {self.timeout} seconds: worker {worker} (pid "
            f"{self.processes[worker].pid}) gave no batch"
        )

    @property
    def is_closed(self) -> bool:
        return not self._stop.alive

    def _raise_death(self, worker: int) -> Any:
        process = self.processes[worker]
        process.join(PATIENCE)
        code = process.exitcode
        if code is None:
            how = "closed its connection"
        elif code < 0:
            how = f"was killed by signal {_signal_name(-code)}"
            if -code == signal.SIGKILL:
                how += " (the system does this when memory runs out)"
        else:
            how = f"exited with exit code {code}"
        raise RuntimeError(f"DataLoader worker {worker} (pid {process.pid}) {how}")

    def close(self) -> None:
        """End the workers and wait for them; memory that they shared stays where it is used."""
        self._stop()
        self._channels.clear()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _stop(owner: int, connections: list[Connection], processes: list[Any]) -> None:
    if os.getpid() != owner:  # a copy in a forked process
        return
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.close()
    for process in processes:
        for end in _endings(process):
            process.join(PATIENCE)
            if process.exitcode is not None:
                break
            end()
        process.join()
        process.close()
    processes.clear()


def _endings(process: Any) -> Iterator[Any]:
    yield process.terminate
    yield process.kill
