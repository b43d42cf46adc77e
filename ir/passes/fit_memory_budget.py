"""Compute values again near their use, so that fewer are in memory at once.

In: the stages of a program (its fusion groups in execution order, and the memory they touch) and
a budget from 0 to 1. Out: the stages with some kernels, or parts of them, run a second time just
before their results are read, and a report. 1 does a little work twice, no more than
``Costs.spare``, and none where little memory is needed; 0 asks for the lowest peak that is found;
b for the least work at which the peak is at most b of the way from there to that of 1.

``lower_peak`` looks for programs with a lower peak, once with few large and once with many small
windows. Of all that it finds those stay that have a lower peak than all with less work. Every
budget picks from these, so a smaller one never has a higher peak.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from flamec.ir.estimates import value_bytes
from flamec.ir.graph import Value
from flamec.ir.passes.fusion_groups import Fusion
from flamec.ir.passes.keep_or_repeat import NEVER
from flamec.ir.passes.lower_peak import Costs, PeakSearch
from flamec.ir.stages import Stage
from flamec.ir.tasks import TaskGraph

WINDOWS = (1, 4, 16, 48)  # into which the stages before the peak are divided
WORTHWHILE = 1 << 25  # bytes of temporaries below which nobody looks for less without a budget
MOST_STAGES = 1024  # above which the search would take longer than all other passes together
MOST_PROGRAMS = 32  # whose kernels are made, to know their peaks exactly
FEW_PROGRAMS = 6  # the same without a budget


@dataclass(frozen=True)
class Repeated:
    """A value that is computed a second time; ``nbytes`` are free until then."""

    value: Value
    nbytes: int


@dataclass(frozen=True)
class Kept:
    """A value that waits in memory at the peak, and why."""

    value: Value
    nbytes: int
    reason: str


@dataclass(frozen=True)
class MemoryFit:
    """``peaks``: bytes of temporaries for each program of the chain; ``chosen``: which it is."""

    stages: tuple[Stage, ...]
    peaks: tuple[int, ...]
    chosen: int
    repeated: tuple[Repeated, ...]
    kept: tuple[Kept, ...]


def fit_memory_budget(
    context: TaskGraph,
    fusion: Fusion,
    stages: Sequence[Stage],
    device: Costs,
    budget: float,
    peak: Callable[[Sequence[Stage]], int],
) -> MemoryFit:
    """See the module's docstring.

    ``peak``: the bytes of temporaries of a program's kernels.
    """
    found = [_start(context, fusion, stages, device, 1)]
    if budget < 1:
        for windows in WINDOWS:
            found += _searched(_start(context, fusion, stages, device, windows), NEVER)
    elif found[0].peak >= WORTHWHILE and len(stages) <= MOST_STAGES:
        found += _searched(_start(context, fusion, stages, device, WINDOWS[-1]), device.spare)
    few = max(2, min(FEW_PROGRAMS, MOST_STAGES // max(1, len(stages))))
    promising = _apart(_lower_and_lower(found), MOST_PROGRAMS if budget < 1 else few)
    chain = promising  # a peak is computed where there is a choice
    if len(promising) > 1:
        chain = _lower_and_lower(replace(f, peak=peak(f.stages)) for f in promising)
    peaks = [program.peak for program in chain]
    most = min(p.peak for p in chain if p.work <= device.spare)
    allowed = peaks[-1] + budget * (most - peaks[-1])
    chosen = next(i for i, nbytes in enumerate(peaks) if nbytes <= allowed)
    taken, search = chain[chosen].stages, chain[chosen].search
    return MemoryFit(
        taken, tuple(peaks), chosen, tuple(_repeated(taken)), tuple(_kept(search, taken))
    )


def _start(
    context: TaskGraph, fusion: Fusion, stages: Sequence[Stage], device: Costs, windows: int
) -> _Found:
    """The program as it is."""
    search = PeakSearch(context, fusion, tuple(stages), device, windows)
    return _Found(0.0, search.peak(), search.stages, search)


def _searched(start: _Found, most_work: float) -> Iterator[_Found]:
    """Programs with lower peaks that do at most so much work twice."""
    for work in start.search.lower(most_work):
        yield _Found(work, start.search.peak(), start.search.stages, start.search)


def _lower_and_lower(found: Iterable[_Found]) -> list[_Found]:
    """Those with a lower peak than all that do less work, least work first."""
    chain: list[_Found] = []
    for program in sorted(found, key=lambda f: (f.work, f.peak)):
        if not chain or program.peak < chain[-1].peak:
            chain.append(program)
    return chain


def _apart(chain: list[_Found], most: int) -> list[_Found]:
    """Some of a chain, its ends among them, so that peaks differ enough to be worth a look."""
    least = (chain[0].peak - chain[-1].peak) / most
    kept = chain[:1]
    for program in chain[1:]:
        if kept[-1].peak - program.peak >= least or program is chain[-1]:
            kept.append(program)
    return kept


@dataclass(frozen=True, eq=False)
class _Found:
    """A program with so much work done twice, in bytes of traffic."""

    work: float
    peak: int
    stages: tuple[Stage, ...]
    search: PeakSearch


def _repeated(stages: Sequence[Stage]) -> Iterable[Repeated]:
    for stage in stages:
        if stage.again:
            for value in stage.stores:
                yield Repeated(value, value_bytes(value))


def _kept(search: PeakSearch, stages: Sequence[Stage]) -> Iterable[Kept]:
    """What waits at the peak, the largest first."""
    live = search.live(stages)
    if not live:
        return
    at = live.index(max(live))
    here = {*stages[at].loads.values(), *stages[at].stores.values()}
    before: dict[Hashable, Stage] = {}
    for stage in stages[:at]:
        before.update(dict.fromkeys(stage.stores.values(), stage))
    waiting: dict[Hashable, Value] = {}
    for stage in stages[at:]:
        for value, memory in stage.loads.items():
            if memory in search.size and (memory in before or memory in here):
                waiting[memory] = value
    for memory, value in sorted(waiting.items(), key=lambda pair: -search.size[pair[0]]):
        if memory in here:
            reason = "it is read or written at the peak"
        elif before[memory].again:
            reason = "it has been computed again already"
        else:
            reason = _why_kept(search, value)
        yield Kept(value, search.size[memory], reason)


def _why_kept(search: PeakSearch, value: Value) -> str:
    group = search.maker[value]
    task = search.made[group].get(value)
    if value in search.shared or task is None or search.cost(group, task) == NEVER:
        return f"{task.name if task else 'its operation'} runs once"
    return "to compute it again would cost more, or not lower the peak"
