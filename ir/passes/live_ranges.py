"""When buffers are in use, and which may have one place.

In: steps with the buffers that they read and write, sizes of buffers, spans of loops. Out: first
and last steps, and bytes in use. What a loop is given or gives is in use in all of its steps.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar

ALIGNMENT = 64
K = TypeVar("K", bound=Hashable)


class Access(NamedTuple, Generic[K]):
    """What a step does with memory: keys of buffers; ``in_place``: (written, read) pairs that may
    share memory."""

    reads: Sequence[K]
    writes: Sequence[K]
    in_place: Sequence[tuple[K, K]] = ()


class Span(NamedTuple, Generic[K]):
    """The steps from ``first`` to ``last`` are a loop, in all of which ``buffers`` are in use."""

    first: int
    last: int
    buffers: Sequence[K]


class Lifetimes(NamedTuple, Generic[K]):
    """``owner``: in whose block each buffer lives; ``first`` and ``last``: of the owners."""

    owner: dict[K, K]
    first: dict[K, int]
    last: dict[K, int]


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


def lifetimes(
    steps: Sequence[Access[K]], size: Mapping[K, int], spans: Sequence[Span[K]] = ()
) -> Lifetimes[K]:
    """Live ranges of blocks: a buffer that is born where another of its size dies may have its
    block, if the step allows that."""
    first, last = live_ranges(steps, size, spans)
    owner = _share_in_place(steps, first, last, size)
    for buffer, block in owner.items():
        if buffer != block:
            last[block] = max(last[block], last[buffer])
    owners = set(owner.values())
    return Lifetimes(
        owner, {b: first[b] for b in owner if b in owners}, {b: last[b] for b in owners}
    )


def live_bytes(
    steps: Sequence[Access[K]],
    size: Mapping[K, int],
    spans: Sequence[Span[K]] = (),
    results: Mapping[K, int] | None = None,
) -> list[int]:
    """The bytes in use in each step: an arena without gaps would be as large as the largest.

    ``results``: bytes of results, which are in use from the first step that touches them to the
    end.
    """
    every = {**size, **results} if results else size
    first, last = live_ranges(steps, every, spans)
    last.update(dict.fromkeys(results or (), len(steps) - 1))
    owner = _share_in_place(steps, first, last, size)
    change = [0] * (len(steps) + 1)
    for buffer, block in owner.items():
        if buffer == block:
            change[first[buffer]] += aligned(every[buffer])
        elif last[block] < last[buffer]:
            last[block] = last[buffer]
    for buffer, block in owner.items():
        if buffer == block:
            change[last[buffer] + 1] -= aligned(every[buffer])
    return list(accumulate(change[:-1]))


def aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


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
            if not dies_here or first[source] == position:
                continue
            if aligned(size[written]) == aligned(size[source]):
                host[written] = host[source]
                taken.add(source)
    return host
