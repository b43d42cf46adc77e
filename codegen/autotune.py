"""Schedules of a program's kernels: those that are known, and a bounded search for the others.

In: lowered kernels, what is known of their parts, and a function that times programs. Out: a
``Selection``. Invariants: without a timer the result depends on nothing but the kernels and what
is known; with one, each part gets the schedule by rule of thumb unless a measured one is
clearly faster. No device is touched here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from flamec.codegen.lower.group import LoweredKernel
from flamec.codegen.options import CodegenOptions, Schedule
from flamec.codegen.traffic import traffic
from flamec.codegen.triton.choice import Choice, candidates
from flamec.codegen.triton.gpu_form import gpu_form
from flamec.codegen.triton.part_key import PartKey
from flamec.codegen.triton.trial import Trial, has_sizes, make_trial, one_part

MOST_TRIED = {"fast": 8, "max": 64}  # schedules of a part
LEAST_GAIN = 0.02  # of the time; what is less is noise
_LITTLE_BYTES = 1 << 16  # below, and with few operations, a launch costs more than the work
_FEW_FLOPS = 1 << 22
_LABELS = 4  # operations that name a part for people

Known = Callable[[PartKey], Schedule | None]
Timer = Callable[[Sequence[Sequence[Trial]]], Sequence[Sequence[float]]]
"""Seconds for each trial, infinite where one cannot run; trials of a group compete."""


@dataclass(frozen=True)
class Tuned:
    """What a search found; ``seconds`` are None where nothing could be measured."""

    key: PartKey
    schedule: Schedule
    seconds: float | None
    heuristic_seconds: float | None
    tried: int
    label: str


@dataclass
class Selection:
    """``schedules`` for ``CodegenOptions``: all that were known or found. ``parts``: every part
    that was looked up, with its label. ``tuned``: what was searched for now."""

    schedules: dict[str, Schedule] = field(default_factory=dict)
    parts: dict[PartKey, str] = field(default_factory=dict)
    tuned: list[Tuned] = field(default_factory=list)


@dataclass(frozen=True)
class _Search:
    """A part whose schedule is looked for; without trials it gets the one by rule of thumb."""

    choice: Choice
    trials: tuple[Trial, ...]
    label: str


def select_schedules(
    kernels: Sequence[LoweredKernel],
    options: CodegenOptions,
    known: Known,
    timer: Timer | None = None,
    most: int = MOST_TRIED["fast"],
) -> Selection:
    """Choose a schedule for each part of the kernels.

    ``known`` gives the schedule that a part must have, or None. With a ``timer`` up to ``most``
    schedules are timed for each part of which nothing is known and whose sizes are. A schedule
    may leave work to launches of their own (a product's epilogue); those come in the next round.
    """
    found = Selection()
    units = _different_parts(kernels)
    while units:
        searches: dict[PartKey, _Search] = {}
        units = [
            unit
            for unit in units
            if _look_up(unit, options, known, found, None if timer is None else searches, most)
        ]
        measured = [search for search in searches.values() if search.trials]
        times: Sequence[Sequence[float]] = ()
        if timer is not None and measured:
            times = timer([search.trials for search in measured])
        seconds = {s.choice.name: t for s, t in zip(measured, times, strict=True)}
        for search in searches.values():
            tuned = _decide(search, seconds.get(search.choice.name, ()))
            found.schedules[tuned.key.text] = tuned.schedule
            found.tuned.append(tuned)
    return found


def _different_parts(kernels: Sequence[LoweredKernel]) -> list[LoweredKernel]:
    """Each part alone; of those that are one program with the same sizes, the first."""
    units: list[LoweredKernel] = []
    for kernel in {id(kernel.form): kernel.form for kernel in kernels}.values():
        if kernel.kernel.attention is not None:
            units.append(kernel)
        different: dict[object, int] = {}
        for number, part in enumerate(kernel.kernel.parts):
            different.setdefault((id(part.program), part.sizes), number)
        units += [one_part(kernel, number) for number in different.values()]
    return units


def _look_up(
    unit: LoweredKernel,
    options: CodegenOptions,
    known: Known,
    found: Selection,
    searches: dict[PartKey, _Search] | None,
    most: int,
) -> bool:
    """Take over what is known of a kernel's launches; whether a search must come first."""
    while True:
        current = replace(options, schedules={**options.schedules, **found.schedules})
        for choice in gpu_form(unit, current).choices:
            if searches is not None and choice.name in searches:
                return True
            if choice.name in found.parts:
                continue
            label = ", ".join(unit.kernel.operations[:_LABELS])
            found.parts[choice.name] = label
            schedule = known(choice.name)
            if schedule is not None:
                found.schedules[choice.key] = schedule
                break  # it may change the launches that follow
            if searches is not None and is_sized(choice.name):
                searches[choice.name] = _Search(choice, _trials(unit, choice, current, most), label)
                return True
        else:
            return False


def is_sized(key: PartKey) -> bool:
    """Whether the sizes of a part are known, so that it can be timed."""
    return "?" not in key.bucket


def _trials(
    unit: LoweredKernel, choice: Choice, options: CodegenOptions, most: int
) -> tuple[Trial, ...]:
    if not has_sizes(unit, options) or _does_little(unit, options):
        return ()
    found = candidates(choice.part, options, most)
    if len(found) < 2:
        return ()
    return tuple(make_trial(unit, choice.key, schedule, options) for schedule in found)


def _does_little(unit: LoweredKernel, options: CodegenOptions) -> bool:
    read, written, work = traffic(unit)
    moved, computed = options.typical(read + written), options.typical(work)
    few = moved is not None and moved < _LITTLE_BYTES
    return few and computed is not None and computed < _FEW_FLOPS


def _decide(search: _Search, seconds: Sequence[float]) -> Tuned:
    """The fastest schedule, or the first one if that is hardly slower."""
    name, label = search.choice.name, search.label
    best = min(seconds, default=math.inf)
    if math.isinf(best):
        return Tuned(name, search.choice.schedule, None, None, len(seconds), label)
    heuristic = seconds[0]
    number = seconds.index(best) if best < heuristic * (1 - LEAST_GAIN) else 0
    return Tuned(
        name,
        search.trials[number].schedule,
        seconds[number],
        None if math.isinf(heuristic) else heuristic,
        len(seconds),
        label,
    )
