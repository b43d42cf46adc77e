"""Timing functions side by side: samples, medians, spreads, memory.

The functions are sampled in turn, so that a disturbance of the machine meets all of them.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Call = Callable[[], object]
_SAMPLE_SECONDS = 0.002
_FEWEST_SAMPLES = 5


@dataclass(frozen=True)
class Timing:
    """Seconds a call: median, quartiles, fastest, and how many samples were taken."""

    median: float
    low: float
    high: float
    fastest: float
    samples: int

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles, relative to the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


def time_calls(calls: Mapping[str, Call], seconds: float) -> dict[str, Timing]:
    """Time each call for about ``seconds`` in all; each was called once before."""
    repeats = {name: _repeats(call) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    deadline = time.perf_counter() + seconds * len(calls)
    while True:
        for name, call in calls.items():
            samples[name].append(_sample(call, repeats[name]))
        enough = all(len(s) >= _FEWEST_SAMPLES for s in samples.values())
        if enough and time.perf_counter() >= deadline:
            return {name: summarise(values) for name, values in samples.items()}


def summarise(samples: list[float]) -> Timing:
    """Median and quartiles of samples (at least two)."""
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Timing(median, low, high, min(samples), len(samples))


def _repeats(call: Call) -> int:
    once = max(_sample(call, 1), 1e-9)
    return max(1, round(_SAMPLE_SECONDS / once))


def _sample(call: Call, repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats


def peak_allocation(call: Call) -> int:
    """Bytes by which Python's and NumPy's memory grew at most during one call."""
    call()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        call()
        return max(0, tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
