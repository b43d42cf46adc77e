"""Counters of a compiled function: what its calls led to.

In: events, as ``CompiledFunction`` meets them. Out: numbers that tests and ``flamec explain`` read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flamec.ir.graph import Location
from flamec.prepared import Prepared


@dataclass
class GuardFailure:
    """Why an existing variant could not be used: the assumption, and where the call was made."""

    reason: str
    location: Location | None

    def __str__(self) -> str:
        return f"{self.reason} (call at {self.location})" if self.location else self.reason


@dataclass
class Stats:
    """Counters of one compiled function.

    ``python_runs``: calls in which the function's Python code was run because it has effects
    that a program cannot repeat. ``kernels_compiled`` and ``kernels_from_cache`` count steps of
    execution plans;
    ``size_classes``: programs made for classes of sizes, on a GPU, of what was traced once.
    ``compile_seconds`` is the time spent tracing, compiling and loading, all variants together.
    """

    calls: int = 0
    traces: int = 0
    python_runs: int = 0
    size_classes: int = 0
    kernels_compiled: int = 0
    kernels_from_cache: int = 0
    guard_failures: list[GuardFailure] = field(default_factory=list)
    evictions: int = 0
    compile_seconds: float = 0.0

    def count_kernels(self, program: Prepared) -> None:
        """Kernels of a program that was loaded."""
        self.kernels_compiled += program.kernels_compiled
        self.kernels_from_cache += program.kernels_from_cache

    def count_loaded(self, program: Prepared) -> None:
        """A program for a class of sizes that a call met, or (which has classes) for all others."""
        self.size_classes += not program.sized
        self.count_kernels(program)
        self.compile_seconds += sum(program.seconds.values())
