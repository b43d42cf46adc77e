"""Which steps of a loop are profiled. Names and meaning are PyTorch's."""

from __future__ import annotations

import enum
from collections.abc import Callable


class ProfilerAction(enum.Enum):
    """What a profiler does in one step."""

    NONE = 0
    WARMUP = 1  # record, and throw it away
    RECORD = 2
    RECORD_AND_SAVE = 3  # record, and hand over at the end of the step


Schedule = Callable[[int], ProfilerAction]


def schedule(
    *, wait: int, warmup: int, active: int, repeat: int = 0, skip_first: int = 0
) -> Schedule:
    """After ``skip_first`` steps in turns: ``wait`` steps nothing, ``warmup`` and ``active`` steps.

    ``repeat`` bounds how often; 0: without end. ValueError for negative numbers, or if no step
    would be recorded.
    """
    if min(wait, warmup, repeat, skip_first) < 0 or active < 1:
        raise ValueError(
            f"schedule: wait={wait}, warmup={warmup}, repeat={repeat} and skip_first={skip_first} "
            f"must not be negative and active={active} must be at least 1"
        )
    length = wait + warmup + active

    def action(step: int) -> ProfilerAction:
        if step < 0:
            raise ValueError(f"schedule: there is no step {step}")
        turn, place = divmod(step - skip_first, length)
        if turn < 0 or (repeat and turn >= repeat) or place < wait:
            return ProfilerAction.NONE
        if place < wait + warmup:
            return ProfilerAction.WARMUP
        last = place == length - 1
        return ProfilerAction.RECORD_AND_SAVE if last else ProfilerAction.RECORD

    return action
