"""Give buffers their places: in memory that is lent, and in one arena.

In: steps, sizes and spans (``live_ranges.py``), and the results of the program that may lend their
memory. Out: an ``Arrangement``. Invariant: blocks that are in use in the same step lie apart; the
memory of a result has guests only before the first step that touches the result.

All is known before, so no allocator is simulated: a block is placed at the tightest gap between
those that were placed before and are in use at the same time ("greedy by size", Pisarchyk and Lee,
"Efficient memory management for deep neural net inference", 2020, section 5). Guests are found
where most bytes are in use, the largest first, until nothing there fits any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple

import numpy as np

from flamec.ir.passes.live_ranges import (
    Access,
    K,
    Lifetimes,
    Span,
    aligned,
    lifetimes,
    live_ranges,
)

NO_GAP = 1 << 62
GOOD_ENOUGH = 1 + 1 / 256  # times what is in use at once


class Arrangement(NamedTuple, Generic[K]):
    """``offsets`` in an arena of ``peak`` bytes; ``guests``: the result in whose memory a buffer
    is instead, and where there."""

    offsets: dict[K, int]
    peak: int
    guests: dict[K, tuple[K, int]]


class Rest(NamedTuple):
    """How many steps a block of at most so many bytes rests before others have its memory."""

    steps: int
    most: int


class Lender(NamedTuple):
    """A result of so many bytes that is not touched before a step."""

    room: int
    until: int


def arrange(
    steps: Sequence[Access[K]],
    size: Mapping[K, int],
    spans: Sequence[Span[K]] = (),
    results: Mapping[K, int] | None = None,
    rest: Rest | None = None,
) -> Arrangement[K]:
    """Places for all buffers in ``size`` (bytes), all of which are touched.

    ``results``: bytes of results that may lend their memory. ``rest``: of small blocks.
    """
    sizes = {key: aligned(nbytes) for key, nbytes in size.items()}
    lives = lifetimes(steps, sizes, spans)
    if rest is not None:
        for key, last in lives.last.items():
            if sizes[key] <= rest.most:
                lives.last[key] = min(last + rest.steps, len(steps) - 1)
    lent: dict[K, tuple[K, int]] = {}
    if results:
        untouched = live_ranges(steps, results, spans)[0]
        lenders = {key: Lender(results[key], first) for key, first in untouched.items() if first}
        lent = _guests(lives, sizes, lenders, len(steps))
    blocks = [_Block(lives.first[b], lives.last[b], sizes[b], b) for b in lives.first]
    offsets, peak = _tightest([block for block in blocks if block.key not in lent])
    owner = lives.owner
    return Arrangement(
        {b: offsets[o] for b, o in owner.items() if o in offsets},
        peak,
        {b: lent[o] for b, o in owner.items() if o in lent},
    )


class _Block(NamedTuple):
    first: int
    last: int
    size: int
    key: Any


def _tightest(blocks: Sequence[_Block]) -> tuple[dict[Any, int], int]:
    """Offsets and the arena's size, by the better of two orders."""
    needed = _most_in_use(blocks)
    orders: list[Callable[[_Block], tuple[int, ...]]] = [
        lambda b: (-b.size * (b.last - b.first + 1), b.first),
        lambda b: (-b.size, b.first - b.last, b.first),
    ]
    best: dict[Any, int] = {}
    peak = -1
    for order in orders:
        room = _Room()
        offsets = {block.key: room.place(block) for block in sorted(blocks, key=order)}
        if peak < 0 or room.end < peak:
            best, peak = offsets, room.end
        if peak <= needed * GOOD_ENOUGH:
            break
    return best, peak


def _most_in_use(blocks: Sequence[_Block]) -> int:
    change: dict[int, int] = {}
    for block in blocks:
        change[block.first] = change.get(block.first, 0) + block.size
        change[block.last + 1] = change.get(block.last + 1, 0) - block.size
    most = now = 0
    for step in sorted(change):
        now += change[step]
        most = max(most, now)
    return most


class _Room:
    """Memory of at most ``size`` bytes, without a bound if None; ``end``: of what is used."""

    def __init__(self, size: int | None = None) -> None:
        self.end = 0
        self._size = size
        self._count = 0
        # offset, end, first, last; a column for each, by offset
        self._placed = np.empty((4, 16), np.int64)

    def place(self, block: _Block) -> int:
        """The offset of the tightest gap, else behind all that is in use then; -1 if that is full.

        What is placed is taken.
        """
        offset, end, first, last = self._placed[:, : self._count]
        in_use = np.flatnonzero((last >= block.first) & (first <= block.last))
        at = 0
        if len(in_use):
            ends = np.maximum.accumulate(end[in_use])
            starts = np.concatenate(([0], ends[:-1]))
            gaps = offset[in_use] - starts
            gaps[gaps < block.size] = NO_GAP
            tightest = int(np.argmin(gaps))
            at = int(starts[tightest] if gaps[tightest] < NO_GAP else ends[-1])
        if self._size is not None and at + block.size > self._size:
            return -1
        if self._count == self._placed.shape[1]:
            self._placed = np.concatenate((self._placed, np.empty_like(self._placed)), axis=1)
        column = int(offset.searchsorted(at, "right"))
        self._placed[:, column + 1 : self._count + 1] = self._placed[:, column : self._count]
        self._placed[:, column] = at, at + block.size, block.first, block.last
        self._count += 1
        self.end = max(self.end, at + block.size)
        return at


def _guests(
    lives: Lifetimes[K], size: Mapping[K, int], lenders: Mapping[K, Lender], steps: int
) -> dict[K, tuple[K, int]]:
    """Which blocks are placed in which result's memory.

    A lender that is soon touched is taken before one that could have another guest for longer.
    """
    live = [0] * steps
    for b in lives.first:
        for step in range(lives.first[b], lives.last[b] + 1):
            live[step] += size[b]
    blocks = [_Block(lives.first[b], lives.last[b], size[b], b) for b in lives.first if size[b]]
    blocks.sort(key=lambda b: (-b.size, b.first - b.last, b.first))
    rooms = {key: _Room(lender.room) for key, lender in lenders.items()}
    order = sorted(lenders, key=lambda key: (lenders[key].until, lenders[key].room))
    found: dict[K, tuple[K, int]] = {}
    tried: set[K] = set()  # rooms only become fuller
    while True:
        top = live.index(max(live))
        here = (b for b in blocks if b.first <= top <= b.last and b.key not in tried)
        for block in here:
            tried.add(block.key)
            place = _place_of(block, order, lenders, rooms)
            if place is not None:
                break
        else:
            return found
        found[block.key] = place
        for step in range(block.first, block.last + 1):
            live[step] -= block.size


def _place_of(
    block: _Block, order: Sequence[K], lenders: Mapping[K, Lender], rooms: Mapping[K, _Room]
) -> tuple[K, int] | None:
    for key in order:
        if lenders[key].room >= block.size and block.last < lenders[key].until:
            at = rooms[key].place(block)
            if at >= 0:
                return key, at
    return None
