"""Timing of contenders against each other, in one process, in turns.

In: a ``Workload`` with contenders (flamec eager and compiled, peers where installed). Out: a
``Report`` with a ``Timing`` for each. Invariants: every contender starts from the same numbers
and its result is compared before it is timed; rounds go in turn over all contenders, so that
what else the machine does falls on all of them; a contender that is missing, wrong or too slow to
prepare is reported with the reason, never left out silently.
"""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np

Step = Callable[[], Any]


class AbsentError(Exception):
    """A contender cannot run here; the message says what is missing."""


class TooSlowError(Exception):
    """The time allowed for preparing a contender was used up."""


@dataclass(frozen=True)
class Contender:
    """One implementation of a workload.

    ``prepare()`` makes its inputs and returns a ``Step`` that does the work once, to its end, and
    returns what is compared: an array, a number, or a tuple of them. With ``self_timed`` the
    step returns the seconds that it measured itself, and nothing is compared.
    """

    name: str
    prepare: Callable[[], Step]
    self_timed: bool = False


@dataclass(frozen=True)
class Workload:
    """What is done, by whom, and how fast the compiled program ought to be.

    ``goal`` in seconds or None. ``tolerance`` is relative to the largest element of the result.
    ``check_after``: which call's result is compared (a training step shows its update only in
    the next loss).
    """

    name: str
    description: str
    contenders: Sequence[Contender]
    goal: float | None = None
    tolerance: float = 1e-4
    check_after: int = 3


@dataclass
class Timing:
    """Seconds for one step of one contender: the median over rounds, and the spread.

    ``problem`` says why there are no times. ``prepare_seconds`` includes the first calls,
    so also compilation.
    """

    name: str
    rounds: list[float] = field(default_factory=list)
    steps_per_round: int = 1
    prepare_seconds: float = 0.0
    problem: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def fastest(self) -> float:
        return min(self.rounds)

    @property
    def slowest(self) -> float:
        return max(self.rounds)


@dataclass
class Report:
    """The timings of one workload."""

    workload: str
    description: str
    goal: float | None
    timings: list[Timing]

    def timing(self, name: str) -> Timing | None:
        """The timing of a contender, or None if it has no times."""
        for timing in self.timings:
            if timing.name == name and timing.rounds:
                return timing
        return None

    def ratio(self, name: str, to: str) -> float | None:
        """How many times longer ``name`` takes than ``to``: the ratio of the medians."""
        first, second = self.timing(name), self.timing(to)
        return None if first is None or second is None else first.median / second.median

    def to_json(self) -> dict[str, Any]:
        """Plain data; times in seconds."""
        return {
            "workload": self.workload,
            "description": self.description,
            "goal": self.goal,
            "contenders": [
                {
                    "name": t.name,
                    "problem": t.problem,
                    "prepare_seconds": t.prepare_seconds,
                    "steps_per_round": t.steps_per_round,
                    "rounds": t.rounds,
                    **({"median": t.median} if t.rounds else {}),
                }
                for t in self.timings
            ],
        }


@dataclass(frozen=True)
class Effort:
    """How much time measuring may take.

    ``rounds`` turns of about ``round_seconds`` for each contender (one step at least);
    ``section_seconds`` bounds the rounds of one workload together, of which two are always
    made; ``prepare_seconds`` bounds each contender's preparation.
    """

    rounds: int = 9
    round_seconds: float = 0.2
    section_seconds: float = 60.0
    prepare_seconds: float = 180.0


def measure(workload: Workload, effort: Effort) -> Report:
    """Prepare every contender, compare their results, then time them in turns."""
    timings = [Timing(c.name) for c in workload.contenders]
    ready: list[tuple[Contender, Timing, Step]] = []
    expected: tuple[np.ndarray, ...] | None = None
    for contender, timing in zip(workload.contenders, timings, strict=True):
        try:
            with _at_most(effort.prepare_seconds):
                started = time.perf_counter()
                step = contender.prepare()
                result = None
                for _ in range(1 if contender.self_timed else workload.check_after):
                    result = step()
                timing.prepare_seconds = time.perf_counter() - started
            if not contender.self_timed:
                arrays = as_arrays(result)
                if expected is None:
                    expected = arrays
                timing.problem = difference(arrays, expected, workload.tolerance)
        except Exception as error:
            timing.problem = _reason(error)
        if timing.problem is None:
            ready.append((contender, timing, step))
    for contender, timing, step in ready:
        timing.steps_per_round = _steps_for(contender, step, effort.round_seconds)
    started = time.perf_counter()
    for number in range(effort.rounds):
        if number >= 2 and time.perf_counter() - started > effort.section_seconds:
            break
        for contender, timing, step in ready:
            timing.rounds.append(_one_round(contender, step, timing.steps_per_round))
    return Report(workload.name, workload.description, workload.goal, timings)


def _one_round(contender: Contender, step: Step, count: int) -> float:
    if contender.self_timed:
        return statistics.median(step() for _ in range(count))
    step()  # the caches, and the other contenders' threads, come to rest
    started = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - started) / count


def _steps_for(contender: Contender, step: Step, seconds: float) -> int:
    """How often a step fits in ``seconds``: once at least."""
    if contender.self_timed:
        return 1
    count = 1
    while True:
        started = time.perf_counter()
        for _ in range(count):
            step()
        took = time.perf_counter() - started
        if took >= seconds / 10:
            return max(1, round(count * seconds / took))
        count *= 4


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise TooSlowError when the body takes longer; for the main thread."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TooSlowError(f"not ready after {seconds:.0f} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _reason(error: Exception) -> str:
    if isinstance(error, (AbsentError, TooSlowError)):
        return str(error)
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else ''}"


def as_arrays(result: Any) -> tuple[np.ndarray, ...]:
    """A step's result as float64 arrays: tensors of any framework, arrays, numbers, tuples."""
    if isinstance(result, (tuple, list)):
        return tuple(a for part in result for a in as_arrays(part))
    if hasattr(result, "detach"):
        result = result.detach()
    return (np.asarray(result, np.float64),)


def difference(
    arrays: Sequence[np.ndarray], expected: Sequence[np.ndarray], tolerance: float
) -> str | None:
    """What is wrong with a result, or None."""
    if [a.shape for a in arrays] != [e.shape for e in expected]:
        return f"gives shapes {[a.shape for a in arrays]}, not {[e.shape for e in expected]}"
    for array, wanted in zip(arrays, expected, strict=True):
        scale = float(np.abs(wanted).max(initial=0.0)) or 1.0
        error = float(np.abs(array - wanted).max(initial=0.0)) / scale
        if not error <= tolerance:
            return f"gives another result: relative error {error:.1e}"
    return None
