"""What happened when: the events of a profile, and how they nest.

Times are nanoseconds of ``time.perf_counter_ns``, also for what a GPU did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class Event:
    """One thing that took time.

    ``kind``: ``"operation"`` (eager), ``"program"`` (a call of a compiled program), ``"kernel"``
    (one of its steps), ``"module"``, ``"user"`` (``record_function``) or ``"compile"``.
    ``device``: where the time was spent, ``"cpu"`` or ``"cuda:0"``, there on ``stream``;
    ``thread``: who asked for it. ``moved`` (bytes) and ``flops`` are of this run alone. ``matrix``:
    whether the arithmetic is a matrix product's, of elements of ``dtype``. ``kernel_device``: of an
    eager operation on a GPU, whose work there is an event of its own; ``runs``: how many runs of a
    step the event stands for, of which those after the first took ``more`` nanoseconds (a loop has
    more runs than are kept); ``children``: nanoseconds that belong to events inside.
    """

    name: str
    kind: str
    start: int
    end: int
    thread: int
    device: str = "cpu"
    stream: int = 0
    moved: int = 0
    flops: int = 0
    operations: tuple[str, ...] = ()
    locations: tuple[str, ...] = ()
    module: str = ""
    shapes: tuple[tuple[int, ...], ...] = ()
    matrix: bool = False
    dtype: str = ""
    kernel_device: str = ""
    runs: int = 1
    more: int = 0
    children: int = 0

    @property
    def lane(self) -> tuple[str, int]:
        """Where it stands in line with others: a thread of the host, a stream of a device."""
        return self.device, self.thread if self.device == "cpu" else self.stream

    @property
    def duration(self) -> int:
        """Nanoseconds of all its runs."""
        return self.end - self.start + self.more

    @property
    def self_time(self) -> int:
        """Without what belongs to events inside of it."""
        return max(0, self.duration - self.children)


def assign_children(events: Sequence[Event]) -> None:
    """Set ``children`` of all events. They are sorted by start, outer ones first."""
    for lane in lanes(events):
        enclosing: list[Event] = []
        for event in lane:
            event.children = 0
            while enclosing and enclosing[-1].end <= event.start and enclosing[-1] is not event:
                enclosing.pop()
            while enclosing and enclosing[-1].end < event.end:
                enclosing.pop()
            if enclosing:
                enclosing[-1].children += event.duration
            enclosing.append(event)


def lanes(events: Iterable[Event]) -> list[list[Event]]:
    """The events of each thread of the host and of each stream of a device, in order."""
    found: dict[tuple[str, int], list[Event]] = {}
    for event in events:
        found.setdefault(event.lane, []).append(event)
    return list(found.values())
