"""Reads the clock between the steps of a program in C (``flamec_profile.h``).

In: a shared object built with ``FLAMEC_PROFILE``. Out: after each call the spans and totals of the
plan's steps. Used by one thread.
"""

from __future__ import annotations

import ctypes

import numpy as np

from flamec.ir.plan import ExecutionPlan
from flamec.runtime.recording import StepSpan, StepTotal

STOPPED = -1  # what a program returns that was stopped
_MOST_SPANS = 1 << 14  # of one call; of more, only the totals are known


class _Profile(ctypes.Structure):
    """The C structure ``FlamecProfile``."""

    _fields_ = (
        ("now", ctypes.c_void_p),
        ("capacity", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("stop", ctypes.c_int64),
        ("spans", ctypes.c_void_p),
        ("totals", ctypes.c_void_p),
    )


class StepClock:
    """The memory into which one thread's calls of one program write their times.

    ``clock``: the address of a function that gives nanoseconds.
    """

    def __init__(self, library: ctypes.CDLL, plan: ExecutionPlan, clock: int) -> None:
        functions: list[int] = plan.notes["functions"]
        self._steps = {number: step for step, number in enumerate(functions)}
        self._functions = functions
        count = max(functions, default=-1) + 1
        self._spans = np.zeros((_MOST_SPANS, 3), np.int64)
        self._totals = np.zeros((max(count, 1), 4), np.int64)
        self._profile = _Profile(
            now=clock,
            capacity=_MOST_SPANS,
            stop=-1,
            spans=self._spans.ctypes.data,
            totals=self._totals.ctypes.data,
        )
        self._pointer = ctypes.byref(self._profile)
        self._begin = library.flamec_profile_into
        self._begin.restype = None

    def start(self, stop: int = -1) -> None:
        """The calling thread's next call writes here; it ends before the plan's step ``stop``."""
        self._profile.count = 0
        self._profile.stop = self._functions[stop] if stop >= 0 else -1
        self._totals[:] = 0
        self._begin(self._pointer)

    def read(self) -> tuple[list[StepSpan], list[StepTotal]]:
        """What the call wrote: the first spans, and the totals of all the plan's steps."""
        count = min(self._profile.count, _MOST_SPANS)
        steps = self._steps
        spans = [StepSpan(steps[n], start, end) for n, start, end in self._spans[:count].tolist()]
        totals = self._totals.tolist()
        return spans, [StepTotal(*totals[n]) for n in self._functions]
