"""The stages of a program: which kernels run in which order, and the memory they touch.

In: parts of fusion groups. Invariant: stages are never changed; a changed program is another list.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from flamec.ir.graph import Value
from flamec.ir.op import OpKind
from flamec.ir.passes.fusion_groups import FusionGroup
from flamec.ir.passes.live_ranges import Access
from flamec.ir.tasks import Task, TaskGraph


@dataclass(frozen=True, eq=False)
class Stage:
    """A kernel: ``tasks`` of the fusion group number ``group``.

    ``loads`` and ``stores``: root -> the memory that it is in. ``private``: other memory and its
    bytes. ``again``: whether it is a second run. ``whole``: whether it is all of the group.
    """

    group: int
    tasks: tuple[Task, ...]
    loads: Mapping[Value, Hashable]
    stores: Mapping[Value, Hashable]
    in_place: tuple[tuple[Hashable, Hashable], ...] = ()
    private: Mapping[Hashable, int] = field(default_factory=dict)
    again: bool = False
    whole: bool = True

    @cached_property
    def access(self) -> Access[Hashable]:
        return Access(
            tuple(self.loads.values()),
            (*self.stores.values(), *self.private),
            self.in_place,
        )

    @property
    def is_replaceable(self) -> bool:
        """Whether the stage can be told to read a value from other memory."""
        return not any(task.is_control or task.kind is OpKind.HOST for task in self.tasks)

    def reading(self, value: Value, memory: Hashable) -> Stage:
        """The same with ``value`` taken from ``memory``."""
        old = self.loads[value]
        pairs = tuple((w, memory if r is old else r) for w, r in self.in_place)
        return replace(self, loads={**self.loads, value: memory}, in_place=pairs)

    def without(self, dropped: Iterable[Value], context: TaskGraph) -> Stage | None:
        """The same without storing some values and without what leads to them only; None if
        nothing is left."""
        gone = set(dropped)
        stores = {v: m for v, m in self.stores.items() if v not in gone}
        wanted = set(stores)
        needed: list[Task] = []
        for task in reversed(self.tasks):
            if task.after or not wanted.isdisjoint(task.results):
                needed.append(task)
                wanted.update(context.root(v) for v in task.operands)
        if not needed:
            return None
        tasks = tuple(reversed(needed))
        loads = {v: self.loads[v] for v in read_roots(tasks, context)}
        touched = {*loads.values(), *stores.values()}
        pairs = tuple(pair for pair in self.in_place if touched.issuperset(pair))
        return replace(self, tasks=tasks, loads=loads, stores=stores, in_place=pairs, whole=False)


class Scene:
    """What is in memory at stage ``at``: where ``written`` values were first stored, what is used
    ``here`` and by whom memory is read ``later``; ``groups``: those that have run once by then."""

    def __init__(self, stages: Sequence[Stage], at: int) -> None:
        self.written: dict[Value, int] = {}
        self.written_again: set[Value] = set()
        self.groups = {stage.group for stage in stages[:at] if not stage.again}
        for position, stage in enumerate(stages[:at]):
            if stage.again:
                self.written_again.update(stage.stores)
            else:
                self.written.update(dict.fromkeys(stage.stores, position))
        self.here = {*stages[at].loads.values(), *stages[at].stores.values()}
        self.later: dict[Hashable, list[Stage]] = {}
        for stage in stages[at + 1 :]:
            for memory in stage.loads.values():
                self.later.setdefault(memory, []).append(stage)


def read_roots(tasks: Sequence[Task], context: TaskGraph) -> list[Value]:
    """The roots that tasks read and do not make."""
    made = {v for task in tasks for v in task.results}
    roots = (context.root(v) for task in tasks for v in task.operands)
    return [v for v in dict.fromkeys(roots) if v in context.roots and v not in made]


def part_of(group: FusionGroup, tasks: Iterable[Task]) -> FusionGroup:
    """The group with some of its tasks only."""
    wanted = set(tasks)
    segments = (tuple(t for t in segment if t in wanted) for segment in group.segments)
    absorbed = {key: makers for key, makers in group.absorbed.items() if key[0] in wanted}
    return FusionGroup(tuple(s for s in segments if s), absorbed)
