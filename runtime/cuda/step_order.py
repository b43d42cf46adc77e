"""What each step of a program has to wait for, so that a captured graph runs others beside it.

In: a plan, where its temporaries lie, and which buffers each launch is given. Out: for each launch
the earlier ones that it follows, without those that these follow themselves. Invariant: of two
launches that touch the same bytes, one of which writes them, the later follows the earlier; parts
of one array that different steps fill are not the same bytes.

The order is loosened only beside launches that take long: the last blocks of one leave
multiprocessors idle which the first blocks of another can have. Between short ones an edge costs
less than a fork.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from flamec.ir.plan import MOST_OVERTAKEN, ExecutionPlan, MemoryLayout
from flamec.ir.shape import evaluate_dim

MOST_LAUNCHES = 4096  # in larger programs each launch follows the one before

Order = tuple[tuple[int, ...], ...]
_ALL = 1 << 62


def step_order(
    plan: ExecutionPlan,
    layout: MemoryLayout,
    bindings: Mapping[str, int],
    numbers: Sequence[int],
    uses: Mapping[int, Iterable[int]],
    alone: Iterable[int] = (),
    shortest: bool = False,
) -> Order:
    """For each launch those that it follows; empty where each follows the one before.

    ``numbers``: the plan's step of each launch, -1 for what follows all before it and precedes all
    behind it. ``uses``: for each buffer the launches that get its address. ``alone``: launches
    that share memory of the kernels' own. ``shortest``: beside the shortest launches, too.
    """
    if plan.loops or not 2 < len(numbers) <= MOST_LAUNCHES:
        return ()
    long = [n >= 0 and (shortest or plan.steps[n].is_long(bindings)) for n in numbers]
    if not any(long):
        return ()
    touched = _touched(plan, layout, bindings, numbers, uses, alone)
    order = _Order(len(numbers))
    barrier, memory = -1, _Memory()
    for launch, number in enumerate(numbers):
        if number < 0:
            order.follows(launch, range(launch))
            barrier, memory = launch, _Memory()
            continue
        needed = [barrier] if barrier >= 0 else []
        met = {other for found in touched[launch] for other in memory.touch(found)}
        needed += met - {launch}
        before = launch - 1
        if launch and not (long[launch] or long[before]):
            needed.append(before)
        if launch >= MOST_OVERTAKEN:
            needed.append(launch - MOST_OVERTAKEN)
        order.follows(launch, needed)
    return tuple(order.edges)


class _Access(NamedTuple):
    """What a launch of the step ``number`` does with a buffer, the bytes from ``first`` to ``end``
    of a piece of memory. ``part``: it fills a part of it, of which other steps fill the rest."""

    launch: int
    number: int
    buffer: int
    memory: object
    first: int
    end: int
    writes: bool
    part: bool

    def meets(self, other: _Access) -> bool:
        of_one = self.part and other.part and self.buffer == other.buffer
        if of_one and self.number != other.number:
            return False
        return self.first < other.end and other.first < self.end

    def replaces(self, other: _Access) -> bool:
        """Whether what meets ``other`` meets this one, too."""
        return self.first <= other.first and other.end <= self.end and self.meets(other)


class _Memory:
    """The accesses that later ones may have to follow."""

    def __init__(self) -> None:
        self._writes: defaultdict[object, list[_Access]] = defaultdict(list)
        self._reads: defaultdict[object, list[_Access]] = defaultdict(list)

    def touch(self, new: _Access) -> list[int]:
        """The launches that one which does this has to follow."""
        writes, reads = self._writes[new.memory], self._reads[new.memory]
        found = [other.launch for other in writes if new.meets(other)]
        if not new.writes:
            reads.append(new)
            return found
        found += [other.launch for other in reads if new.meets(other)]
        for accesses in (writes, reads) if not new.part else ():
            accesses[:] = [other for other in accesses if not new.replaces(other)]
        writes.append(new)
        return found


class _Order:
    """Edges, and for each launch all that it follows, as bits."""

    def __init__(self, count: int) -> None:
        self.edges: list[tuple[int, ...]] = []
        self._before = [0] * count

    def follows(self, launch: int, others: Iterable[int]) -> None:
        """``launch`` is the next one, and follows ``others``."""
        found, direct = 0, []
        for other in sorted(set(others), reverse=True):
            if not found >> other & 1:
                direct.append(other)
                found |= self._before[other] | 1 << other
        self._before[launch] = found
        self.edges.append(tuple(reversed(direct)))


def _touched(
    plan: ExecutionPlan,
    layout: MemoryLayout,
    bindings: Mapping[str, int],
    numbers: Sequence[int],
    uses: Mapping[int, Iterable[int]],
    alone: Iterable[int],
) -> list[list[_Access]]:
    """What each launch does with memory."""
    parts = frozenset(plan.notes.get("filled_in_parts", ()))
    found: list[list[_Access]] = [[] for _ in numbers]
    for buffer, launches in uses.items():
        if plan.buffers[buffer].kind == "errors":  # any launch may set this word
            continue
        place = _place(plan, layout, bindings, buffer)
        for launch in dict.fromkeys(launches):
            number = numbers[launch]
            if number < 0:
                continue
            step = plan.steps[number]
            read = buffer in step.reads
            part = buffer in parts and not read
            written = buffer in step.writes or not read
            found[launch].append(_Access(launch, number, buffer, *place, written, part))
    for launch in alone:
        found[launch].append(_Access(launch, -1, -1, "scratch", 0, _ALL, True, False))
    return found


def _place(
    plan: ExecutionPlan, layout: MemoryLayout, bindings: Mapping[str, int], buffer: int
) -> tuple[object, int, int]:
    """In which piece of memory a buffer lies, and from where to where."""
    kind = plan.buffers[buffer].kind
    if kind in ("input", "counters"):  # inputs may be one another; counters are all the same words
        return kind, 0, _ALL
    nbytes = evaluate_dim(plan.buffers[buffer].bytes, bindings)
    if buffer in layout.guests:
        lender, offset = layout.guests[buffer]
        return lender, offset, offset + nbytes
    if buffer in layout.offsets:
        offset = layout.offsets[buffer]
        return "arena", offset, offset + nbytes
    return buffer, 0, nbytes
