"""Place the temporary buffers of a plan in one arena.

In: an ``ExecutionPlan`` and the values of its symbols. Out: a ``MemoryLayout``.
Invariant: two buffers overlap in the arena only if one is dead before the other
is first written, or if the step between them may write in place. What a loop is given or
gives is alive in all of its steps.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar

from flamec.ir.plan import ExecutionPlan, MemoryLayout
from flamec.ir.shape import evaluate_dim

ALIGNMENT = 64
K = TypeVar("K", bound=Hashable)


class Access(NamedTuple, Generic[K]):
    """What a step does with memory: keys of buffers; ``in_place``: (written, read) pairs that may
    share memory."""

    reads: Sequence[K]
    writes: Sequence[K]
    in_place: Sequence[tuple[K, K]] = ()


class MemoryUse(NamedTuple):
    """Bytes of a call: of its inputs, of the outputs that it makes, and of the arena."""

    inputs: int
    outputs: int
    arena: int

    @property
    def total(self) -> int:
        """All that is in memory while the program runs."""
        return self.inputs + self.outputs + self.arena


class Span(NamedTuple, Generic[K]):
    """The steps from ``first`` to ``last`` are a loop, in all of which ``buffers`` are in use."""

    first: int
    last: int
    buffers: Sequence[K]


def plan_memory(plan: ExecutionPlan, bindings: Mapping[str, int]) -> MemoryLayout:
    """The layout of a plan for these values of its symbols."""
    return MemoryLayout(*arrange(*accesses_of(plan, bindings)))


def accesses_of(
    plan: ExecutionPlan, bindings: Mapping[str, int]
) -> tuple[list[Access[int]], dict[int, int], list[Span[int]]]:
    """What a plan does with its temporaries, as ``arrange`` takes it: steps, sizes, loops."""
    steps = [Access(step.reads, step.writes, step.in_place) for step in plan.steps]
    spans = [Span(loop.first, loop.last, loop.buffers) for loop in plan.loops]
    touched = {b for step in steps for b in (*step.reads, *step.writes)}
    size = {
        position: evaluate_dim(buffer.bytes, bindings)
        for position, buffer in enumerate(plan.buffers)
        if buffer.kind == "temporary" and position in touched
    }
    return steps, size, spans


def memory_use(plan: ExecutionPlan, bindings: Mapping[str, int], threads: int = 1) -> MemoryUse:
    """What a call is predicted to take; each of ``threads`` has private memory in the arena."""

    def together(buffers: Iterable[int]) -> int:
        return sum(evaluate_dim(plan.buffers[b].bytes, bindings) for b in set(buffers))

    private = _aligned(evaluate_dim(plan.scratch, bindings)) * threads
    return MemoryUse(
        together(plan.inputs),
        together(output.buffer for output in plan.outputs),
        plan_memory(plan, bindings).peak_bytes + private,
    )


def arrange(
    steps: Sequence[Access[K]], size: Mapping[K, int], spans: Sequence[Span[K]] = ()
) -> tuple[dict[K, int], int]:
    """Offsets by a simulated allocator that takes the tightest free block, and the arena's size.

    ``size``: bytes of each buffer that is to be placed; all of them are touched. Buffers open at
    the first step that touches them and close after the last one. At each
    step all openings come before the closings, because a step reads while it writes.
    """
    aligned = {key: _aligned(nbytes) for key, nbytes in size.items()}
    host, first, last = _lifetimes(steps, aligned, spans)
    opening: dict[int, list[K]] = {}
    closing: dict[int, list[K]] = {}
    for buffer in first:
        opening.setdefault(first[buffer], []).append(buffer)
        closing.setdefault(last[buffer], []).append(buffer)

    arena = _Arena()
    offsets: dict[K, int] = {}
    for position in range(len(steps)):
        for buffer in sorted(opening.get(position, ()), key=lambda b: -aligned[b]):
            offsets[buffer] = arena.allocate(aligned[buffer])
        for buffer in closing.get(position, ()):
            arena.release(offsets[buffer], aligned[buffer])
    return {b: offsets[owner] for b, owner in host.items()}, arena.peak


def live_bytes(
    steps: Sequence[Access[K]], size: Mapping[K, int], spans: Sequence[Span[K]] = ()
) -> list[int]:
    """The bytes in use in each step: an arena without gaps would be as large as the largest."""
    aligned = {key: _aligned(nbytes) for key, nbytes in size.items()}
    _, first, last = _lifetimes(steps, aligned, spans)
    change = [0] * (len(steps) + 1)
    for buffer in first:
        change[first[buffer]] += aligned[buffer]
        change[last[buffer] + 1] -= aligned[buffer]
    return list(accumulate(change[:-1]))


def _lifetimes(
    steps: Sequence[Access[K]], size: Mapping[K, int], spans: Sequence[Span[K]]
) -> tuple[dict[K, K], dict[K, int], dict[K, int]]:
    """In whose block each buffer lives, and for each owner the first and the last step of that."""
    first, last = live_ranges(steps, size, spans)
    host = _share_in_place(steps, first, last, size)
    for buffer, owner in host.items():
        if buffer != owner:
            last[owner] = max(last[owner], last[buffer])
    owners = set(host.values())
    return host, {b: first[b] for b in host if b in owners}, {b: last[b] for b in owners}


def live_ranges(
    steps: Sequence[Access[K]], size: Mapping[K, int], spans: Sequence[Span[K]] = ()
) -> tuple[dict[K, int], dict[K, int]]:
    """The first and the last step that touches each buffer."""
    first: dict[K, int] = {}
    last: dict[K, int] = {}
    for position, step in enumerate(steps):
        for buffer in (*step.reads, *step.writes):
            if buffer in size:
                first.setdefault(buffer, position)
                last[buffer] = position
    for span in spans:
        for buffer in span.buffers:
            if buffer in size:
                first[buffer] = min(first[buffer], span.first)
                last[buffer] = max(last[buffer], span.last)
    return first, last


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _share_in_place(
    steps: Sequence[Access[K]], first: dict[K, int], last: dict[K, int], size: Mapping[K, int]
) -> dict[K, K]:
    """Whose block each buffer lives in: its own, or that of one that dies as it is born."""
    host = {buffer: buffer for buffer in first}
    taken: set[K] = set()
    for position, step in enumerate(steps):
        for written, source in step.in_place:
            if written not in size or source not in size:
                continue
            if host[written] != written:
                continue
            dies_here = first[written] == position == last[source] and source not in taken
            if dies_here and size[written] == size[source] and first[source] < position:
                host[written] = host[source]
                taken.add(source)
    return host


class _Arena:
    """Free blocks below a growing top; neighbours are merged."""

    def __init__(self) -> None:
        self.peak = 0
        self._free: list[tuple[int, int]] = []  # (offset, size), by offset

    def allocate(self, size: int) -> int:
        fitting = [block for block in self._free if block[1] >= size]
        if fitting:
            offset, room = min(fitting, key=lambda block: (block[1], block[0]))
            self._free.remove((offset, room))
            if room > size:
                insort(self._free, (offset + size, room - size))
            return offset
        if self._free and sum(self._free[-1]) == self.peak:
            offset, _ = self._free.pop()
        else:
            offset = self.peak
        self.peak = offset + size
        return offset

    def release(self, offset: int, size: int) -> None:
        if not size:
            return
        insort(self._free, (offset, size))
        merged: list[tuple[int, int]] = []
        for block in self._free:
            if merged and sum(merged[-1]) == block[0]:
                merged[-1] = (merged[-1][0], merged[-1][1] + block[1])
            else:
                merged.append(block)
        self._free = merged
