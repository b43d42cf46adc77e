"""Compile many kernels at once, in processes of their own.

In: kernel sources. Out: their binaries, in the same order, all in the cache. Invariants: a
kernel that fails, or takes its process down, does not touch the others; the user's program is
not run again by the workers, so scripts need no ``if __name__ == "__main__"``.

A worker is a Python process that reads one request and writes one answer a line (JSON); the
results come back through the cache. ``multiprocessing`` would import the user's main module.
Workers that have done their work wait for more, because programs are made one after the other
(classes of sizes, above all) and a worker takes longer to start than to compile a small kernel.
One that is not asked for some seconds ends by itself.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flamec.ir.plan import KernelSource
from flamec.runtime.cuda.kernel_binary import KernelBinary
from flamec.runtime.cuda.triton_compiler import TritonError, cached_kernel, compile_kernel
from flamec.runtime.kernel_cache import KernelCache

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from flamec.runtime.cuda.compile_worker import serve; serve()"
)

_SECONDS_TO_END = 10.0  # from the end of its input
_SECONDS_IDLE = 15.0  # until a worker ends that nobody asks

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """What became of a source: ``binary``, or ``error``. ``compiled``: not from the cache."""

    source: KernelSource
    binary: KernelBinary | None
    error: TritonError | None = None
    compiled: bool = False

    def result(self) -> KernelBinary:
        """The binary; raises the error if there is none."""
        if self.binary is None:
            raise self.error or TritonError(f"kernel {self.source.function} was not compiled")
        return self.binary


def compile_kernels(
    sources: Sequence[KernelSource],
    target: str,
    cache: KernelCache,
    jobs: int = 1,
    progress: Progress | None = None,
    seconds: float | None = None,
) -> list[CompiledKernel]:
    """Take kernels from the cache and compile the others, up to ``jobs`` at a time.

    A single missing kernel is compiled in this process. ``progress`` is called from several
    threads, one at a time, with the number done, the number to do and the kernel's name.
    ``seconds``: give a kernel up that a worker needs longer for. An interrupt ends the workers.
    """
    results: list[CompiledKernel | None] = []
    for source in sources:
        binary = cached_kernel(source, target, cache)
        results.append(None if binary is None else CompiledKernel(source, binary))
    missing = [position for position, result in enumerate(results) if result is None]
    jobs = min(jobs, len(missing))
    report = _Reporter(len(missing), progress)
    if jobs <= 1 or not sys.executable:
        for position in missing:
            results[position] = _compile_here(sources[position], target, cache)
            report(sources[position])
    else:
        workers = _Workers(target, cache, seconds)

        def compile_one(position: int) -> None:
            results[position] = workers.compile(sources[position])
            report(sources[position])

        threads = ThreadPoolExecutor(jobs, "flamec-compile")
        try:
            for done in [threads.submit(compile_one, position) for position in missing]:
                done.result()
        except BaseException:  # an interrupt, above all: do not wait for what is being compiled
            threads.shutdown(wait=False, cancel_futures=True)
            workers.kill()
            raise
        finally:
            threads.shutdown()
            workers.end()
    return [result for result in results if result is not None]


def _compile_here(source: KernelSource, target: str, cache: KernelCache) -> CompiledKernel:
    try:
        binary, compiled = compile_kernel(source, target, cache)
    except TritonError as error:
        return CompiledKernel(source, None, error)
    return CompiledKernel(source, binary, compiled=compiled)


class _Reporter:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._done = 0
        self._lock = threading.Lock()

    def __call__(self, source: KernelSource) -> None:
        if self._progress is not None:
            with self._lock:
                self._done += 1
                self._progress(self._done, self._total, source.function)


class _Worker:
    """A process that compiles one kernel after the other.

    It is a process group of its own: an interrupt at the terminal reaches the user's process
    alone, which then ends this one together with the tools that it started.
    """

    def __init__(self) -> None:
        self.surroundings = _surroundings()
        self.is_new = True
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def ask(self, request: str, seconds: float | None) -> str:
        """The answer to a request, "" if the process ended; TimeoutError if none came in time."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(request + "\n")
            process.stdin.flush()
        except (BrokenPipeError, ValueError):  # it has ended, or was told to
            return ""
        if seconds is not None and not select.select([process.stdout], [], [], seconds)[0]:
            raise TimeoutError
        return process.stdout.readline()

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def close(self) -> None:
        """End its input."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def end(self) -> int:
        """Wait for its end, which comes where its input ends; its exit code."""
        process = self._process
        assert process.stdout is not None
        self.close()
        try:
            code = process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            code = self.kill()
        process.stdout.close()
        return code

    def kill(self) -> int:
        """End it and what it started, now; its exit code."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()


def _surroundings() -> tuple[object, ...]:
    """What a worker has from this process: another one must not be asked in its place."""
    return os.getpid(), _START, tuple(sys.path)


_idle: list[_Worker] = []
_idle_lock = threading.Lock()


def _idle_worker() -> _Worker | None:
    """One that waits for work, if there is one."""
    wanted = _surroundings()
    with _idle_lock:
        for worker in list(_idle):
            if worker.surroundings[0] != wanted[0]:
                continue  # of the process that this one was forked from
            if worker.has_ended:
                _idle.remove(worker)
                worker.end()
            elif worker.surroundings == wanted:
                _idle.remove(worker)
                worker.is_new = False
                return worker
    return None


@atexit.register
def end_idle_workers() -> None:
    """End the workers that wait for work, and wait until they are gone."""
    with _idle_lock:
        own = [worker for worker in _idle if worker.surroundings[0] == os.getpid()]
        for worker in own:
            _idle.remove(worker)
    for worker in own:
        worker.close()
    for worker in own:
        worker.end()


class _Workers:
    """One worker process for each thread that asks; another one if it dies."""

    def __init__(self, target: str, cache: KernelCache, seconds: float | None) -> None:
        self._target = target
        self._cache = cache
        self._seconds = seconds
        self._of_thread: dict[int, _Worker] = {}
        self._lock = threading.Lock()
        self._closed = False

    def compile(self, source: KernelSource) -> CompiledKernel:
        request = {
            "source": source.to_json(),
            "target": self._target,
            "folder": str(self._cache.folder.absolute()),  # the worker may be elsewhere
            "max_bytes": self._cache.max_bytes,
        }
        worker = self._worker()
        try:
            answer = worker.ask(json.dumps(request), self._seconds)
        except TimeoutError:
            worker.kill()
            self._forget(worker)
            text = f"kernel {source.function} was not compiled within {self._seconds:g} seconds"
            return CompiledKernel(source, None, TritonError(text))
        if not answer.endswith("\n"):
            code = self._forget(worker)
            if code == 0 and not worker.is_new:  # it had waited too long just then
                return self.compile(source)
            ending = _ending(code)
            text = f"the process that compiled kernel {source.function} {ending}"
            return CompiledKernel(source, None, TritonError(text))
        facts = json.loads(answer)
        if "error" in facts:
            path = Path(facts["path"]) if facts["path"] else None
            return CompiledKernel(source, None, TritonError(facts["error"], path))
        binary = cached_kernel(source, self._target, self._cache)
        if binary is None:  # a cache folder that cannot be written: the worker's copy is lost
            return _compile_here(source, self._target, self._cache)
        return CompiledKernel(source, binary, compiled=facts["compiled"])

    def _worker(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise TritonError("the compilation was stopped")
            worker = self._of_thread.get(threading.get_ident())
            if worker is None:
                worker = _idle_worker() or _Worker()
                self._of_thread[threading.get_ident()] = worker
            return worker

    def _forget(self, worker: _Worker) -> int:
        """Leave a worker that is of no more use; its exit code."""
        with self._lock:
            self._of_thread.pop(threading.get_ident(), None)
        return worker.end()

    def end(self) -> None:
        """Let the processes wait for other work."""
        workers = self._close()
        with _idle_lock:
            _idle.extend(workers)

    def kill(self) -> None:
        """End the processes whatever they are doing."""
        for worker in self._close():
            worker.kill()

    def _close(self) -> list[_Worker]:
        with self._lock:
            self._closed = True
            workers, self._of_thread = self._of_thread, {}
            return list(workers.values())


def _ending(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (is the machine out of memory?)" if -code == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"


def serve() -> None:
    """Be a worker: answer requests until the input ends, or none has come for a while.

    Whatever Triton prints goes to standard error, so that answers stay apart. If who asked has
    ended meanwhile, so does the worker: the kernel is in the cache.
    """
    answers = os.dup(1)
    os.dup2(2, 1)
    while select.select([sys.stdin], [], [], _SECONDS_IDLE)[0]:
        line = sys.stdin.readline()
        if not line:
            return
        rest = (json.dumps(_answer(json.loads(line))) + "\n").encode()
        try:
            while rest:
                rest = rest[os.write(answers, rest) :]
        except BrokenPipeError:
            return


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    source = KernelSource.from_json(request["source"])
    cache = KernelCache(Path(request["folder"]), request["max_bytes"])
    try:
        _, compiled = compile_kernel(source, request["target"], cache)
    except TritonError as error:
        path = error.source_path
        return {"error": error.message, "path": None if path is None else str(path)}
    except (ValueError, OSError) as error:
        return {"error": f"kernel {source.function}: {error}", "path": None}
    return {"compiled": compiled}
