"""Compile many kernels at once, in processes of their own.

In: kernel sources. Out: their binaries, in the same order, all in the cache. Invariants: a
kernel that fails, or takes its process down, does not touch the others; the user's program is
not run again by the workers, so scripts need no ``if __name__ == "__main__"``.

A worker is a Python process that reads one request and writes one answer a line (JSON); the
results come back through the cache. ``multiprocessing`` would import the user's main module.
"""

from __future__ import annotations

import json
import os
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
) -> list[CompiledKernel]:
    """Take kernels from the cache and compile the others, up to ``jobs`` at a time.

    A single missing kernel is compiled in this process. ``progress`` is called from several
    threads, one at a time, with the number done, the number to do and the kernel's name.
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
        workers = _Workers(target, cache)

        def compile_one(position: int) -> None:
            results[position] = workers.compile(sources[position])
            report(sources[position])

        try:
            with ThreadPoolExecutor(jobs, "flamec-compile") as threads:
                for done in [threads.submit(compile_one, position) for position in missing]:
                    done.result()
        finally:
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


class _Workers:
    """One worker process for each thread that asks; started again if it dies."""

    def __init__(self, target: str, cache: KernelCache) -> None:
        self._target = target
        self._cache = cache
        self._local = threading.local()
        self._started: list[subprocess.Popen[str]] = []

    def compile(self, source: KernelSource) -> CompiledKernel:
        worker = self._worker()
        request = {
            "source": source.to_json(),
            "target": self._target,
            "folder": str(self._cache.folder),
            "max_bytes": self._cache.max_bytes,
        }
        assert worker.stdin is not None and worker.stdout is not None
        try:
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()
            answer = worker.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._local.worker = None
            code = worker.wait()
            return CompiledKernel(
                source,
                None,
                TritonError(f"the process that compiled {source.function} ended with code {code}"),
            )
        facts = json.loads(answer)
        if "error" in facts:
            path = Path(facts["path"]) if facts["path"] else None
            return CompiledKernel(source, None, TritonError(facts["error"], path))
        binary = cached_kernel(source, self._target, self._cache)
        if binary is None:  # a cache folder that cannot be written: the worker's copy is lost
            return _compile_here(source, self._target, self._cache)
        return CompiledKernel(source, binary, compiled=facts["compiled"])

    def _worker(self) -> subprocess.Popen[str]:
        worker: subprocess.Popen[str] | None = getattr(self._local, "worker", None)
        if worker is None:
            worker = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._local.worker = worker
            self._started.append(worker)
        return worker

    def end(self) -> None:
        """End the processes: a worker stops where its input does."""
        for worker in self._started:
            assert worker.stdin is not None and worker.stdout is not None
            worker.stdin.close()
            worker.wait()
            worker.stdout.close()


def serve() -> None:
    """Be a worker: answer requests until the input ends.

    Whatever Triton prints goes to standard error, so that answers stay apart.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()


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
