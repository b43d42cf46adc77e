"""Place the temporary buffers of a plan in one arena.

In: an ``ExecutionPlan`` and the values of its symbols. Out: a ``MemoryLayout``.
Invariant: two buffers overlap in the arena only if one is dead before the other
is first written, or if the step between them may write in place. What a loop is given or
gives is alive in all of its steps.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping

from flamec.ir.plan import ExecutionPlan, MemoryLayout
from flamec.ir.shape import evaluate_dim

ALIGNMENT = 64


def plan_memory(plan: ExecutionPlan, bindings: Mapping[str, int]) -> MemoryLayout:
    """Offsets by a simulated allocator that takes the tightest free block.

    Buffers open at the first step that touches them and close after the last one. At each
    step all openings come before the closings, because a step reads while it writes.
    """
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for position, step in enumerate(plan.steps):
        for buffer in (*step.reads, *step.writes):
            if plan.buffers[buffer].kind == "temporary":
                first.setdefault(buffer, position)
                last[buffer] = position
    for loop in plan.loops:
        for buffer in loop.buffers:
            if plan.buffers[buffer].kind == "temporary":
                first[buffer] = min(first[buffer], loop.first)
                last[buffer] = max(last[buffer], loop.last)
    size = {b: _aligned(evaluate_dim(plan.buffers[b].bytes, bindings)) for b in first}
    host = _share_in_place(plan, first, last, size)
    closes_with: dict[int, int] = {}
    for buffer, owner in host.items():
        closes_with[owner] = max(closes_with.get(owner, -1), last[buffer])

    opening: dict[int, list[int]] = {}
    closing: dict[int, list[int]] = {}
    for buffer, owner in host.items():
        if buffer == owner:
            opening.setdefault(first[buffer], []).append(buffer)
            closing.setdefault(closes_with[buffer], []).append(buffer)

    arena = _Arena()
    offsets: dict[int, int] = {}
    for position in range(len(plan.steps)):
        for buffer in sorted(opening.get(position, ()), key=lambda b: -size[b]):
            offsets[buffer] = arena.allocate(size[buffer])
        for buffer in closing.get(position, ()):
            arena.release(offsets[buffer], size[buffer])
    return MemoryLayout({b: offsets[owner] for b, owner in host.items()}, arena.peak)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _share_in_place(
    plan: ExecutionPlan, first: dict[int, int], last: dict[int, int], size: dict[int, int]
) -> dict[int, int]:
    """Whose block each temporary lives in: its own, or that of one that dies as it is born."""
    host = {buffer: buffer for buffer in first}
    taken: set[int] = set()
    for position, step in enumerate(plan.steps):
        for written, read in step.in_place:
            if written not in host or read not in host or host[written] != written:
                continue
            dies_here = first[written] == position == last[read] and read not in taken
            if dies_here and size[written] == size[read] and first[read] < position:
                host[written] = host[read]
                taken.add(read)
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
