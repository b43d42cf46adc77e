"""The CPU as a device: compile, cache and load programs, with one thread pool and one BLAS.

In: settings as arguments (never the environment) and plans. Out: ``Executable``. The pool, the
BLAS and the products of uneven operands are shared by all programs of the process; the last two
are loaded when the first program says that it needs them (``plan.notes["needs_blas"]`` and
``plan.notes["needs_products"]``).
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flamec.ir.plan import ExecutionPlan
from flamec.runtime.allocator import Allocator, invalidate_arenas
from flamec.runtime.cpu.blas import Blas, load_blas
from flamec.runtime.cpu.compiler import (
    NO_CONTRACTION,
    Compiler,
    compile_library,
    local_key,
    portable_key,
)
from flamec.runtime.cpu.products import Products
from flamec.runtime.cpu.threads import ThreadPool
from flamec.runtime.device import PlanMemory
from flamec.runtime.executable import Executable, FlamecRuntime, ProgramRuntime
from flamec.runtime.fork_locks import held_in_forks
from flamec.runtime.host_calls import Evaluate, no_host
from flamec.runtime.kernel_cache import PORTABLE, KernelCache

PROFILE_FLAGS = ("-DFLAMEC_PROFILE",)  # of the build with a clock between steps


class CpuDevice:
    """Loads programs; safe to use from several threads.

    ``threads``: how many a parallel loop may use. ``flags``: more flags for the compiler.
    ``keep_folder``: where the source of a failed compilation is kept. ``evaluate``: what computes
    the operations that programs leave to the host.
    """

    name = "cpu"

    def __init__(
        self,
        compiler: Compiler,
        cache: KernelCache,
        plan_memory: PlanMemory,
        threads: int,
        flags: Sequence[str] = (),
        keep_folder: Path | None = None,
        evaluate: Evaluate = no_host,
    ) -> None:
        self.compiler = compiler
        self.cache = cache
        self.flags = tuple(flags)
        self.keep_folder = keep_folder
        self.allocator = Allocator()
        self._plan_memory = plan_memory
        self._evaluate = evaluate
        self._lock = held_in_forks(threading.Lock())
        self._threads = _checked(threads)
        self._functions = FlamecRuntime()
        self._runtime: ProgramRuntime | None = None
        self._blas: Blas | None = None
        self._products = Products(self._load_file)

    def empty(self, nbytes: int) -> tuple[np.ndarray, int]:
        """Uninitialised memory: a uint8 array and its address, a multiple of 64."""
        return self.allocator.empty(nbytes)

    @property
    def threads(self) -> int:
        return self._threads

    def set_threads(self, threads: int) -> None:
        """Change how many threads parallel loops use, from each program's next call on.

        ValueError below 1. Another thread that is inside a program goes on as it began.
        """
        with self._lock:
            self._threads = self._functions.threads = _checked(threads)
            invalidate_arenas()

    def load(self, plan: ExecutionPlan, label: str = "") -> Executable:
        """Take a plan's shared object from the cache, or compile it, and load it.

        CompileError if the compiler fails. ``label``: what profiles call the program.
        """
        runtime = self._prepare(plan)
        facts: dict[str, object] = {"entry": plan.entry, "steps": len(plan.steps)}
        library, built = self._library(plan.source, facts, self.plan_flags(plan))

        def timed() -> ctypes.CDLL:
            flags = (*self.plan_flags(plan), *PROFILE_FLAGS)
            return self._library(plan.source, {**facts, "timed": True}, flags)[0]

        return Executable(plan, library, runtime, self._plan_memory, built, label, timed)

    def plan_flags(self, plan: ExecutionPlan) -> tuple[str, ...]:
        """The compiler's flags for a plan; one may ask that no sum of a product is contracted."""
        return (*self.flags, *(() if plan.notes.get("contract", True) else NO_CONTRACTION))

    def _prepare(self, plan: ExecutionPlan) -> ProgramRuntime:
        with self._lock:
            if self._runtime is None:
                pool = ThreadPool(self._load_file)
                self._functions.parallel_for = pool.parallel_for
                self._functions.threads = self._threads
                self._runtime = ProgramRuntime(
                    self._functions, pool.enter, self._evaluate, pool.clock
                )
            if plan.notes.get("needs_blas") and self._blas is None:
                blas = load_blas(self._load_file)
                self._functions.sgemm = blas.sgemm
                self._functions.dgemm = blas.dgemm
                self._blas = blas
            for lane in plan.notes.get("needs_products", ()):
                setattr(self._functions, f"product_{lane}", self._products.address(lane))
            return self._runtime

    def _load_file(self, source: Path) -> ctypes.CDLL:
        return self._library(source.read_text(), {"file": source.name}, self.flags)[0]

    def _library(
        self, source: str, facts: dict[str, object], flags: tuple[str, ...]
    ) -> tuple[ctypes.CDLL, bool]:
        portable = portable_key(source, flags)
        return self.cache.load(
            local_key(self.compiler, portable),
            "so",
            lambda: compile_library(self.compiler, source, flags, self.keep_folder),
            {**facts, PORTABLE: portable},
            use=lambda path: ctypes.CDLL(str(path)),
        )


def _checked(threads: int) -> int:
    if threads < 1:
        raise ValueError(f"the number of threads must be at least 1, not {threads}")
    return threads
