"""The groups while fusion is under way, and the dependencies between them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from flamec.ir.graph import Value
from flamec.ir.tasks import Task, TaskGraph


class WorkingGroup:
    """A set of tasks that will be one kernel. ``shared`` are the scalar tasks of a bundle.

    ``bits`` stand for the group in sets of groups; a merged group has those of its parts.
    """

    __slots__ = ("_name", "bits", "number", "segments", "shared", "tasks")

    def __init__(
        self,
        number: int,
        bits: int,
        segments: Sequence[tuple[Task, ...]],
        shared: tuple[Task, ...] = (),
    ) -> None:
        self.number = number
        self.bits = bits
        self.segments = tuple(segments)
        self.shared = shared
        self.tasks = (*shared, *(task for segment in self.segments for task in segment))
        self._name = ""

    @property
    def is_bundle(self) -> bool:
        return len(self.segments) > 1

    @property
    def position(self) -> int:
        return min(task.position for task in self.tasks)

    @property
    def name(self) -> str:
        """The operations, for messages: ``sub, exp, sum (model.py:12)``."""
        if not self._name:  # asked for in every decision about the group
            names = list(dict.fromkeys(task.name for task in self.tasks))
            text = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
            last = self.tasks[-1].origin
            located = last is not None and last.location
            self._name = f"{text} ({last.location})" if last and located else text
        return self._name


class FusionState:
    """Which group every task is in, and what groups need of each other."""

    def __init__(self, context: TaskGraph) -> None:
        self.context = context
        self._groups: dict[int, WorkingGroup] = {}
        self._owner: dict[Task, WorkingGroup] = {}
        self._results = {*context.outputs, *context.updates.values()}
        self._reading: dict[Value, list[Task]] = {}
        self._needs: dict[Task, list[Task]] = {}
        self._needed_by: dict[Task, list[Task]] = {}
        self._count = 0
        self._below: dict[int, int] = {}  # for each group the set of those that need it, as bits
        for task in context.tasks:
            self._new_group(1 << self._count, [(task,)])
            for root in dict.fromkeys(context.root(operand) for operand in task.operands):
                self._reading.setdefault(root, []).append(task)
            self._needs[task] = context.dependencies(task)
            for other in self._needs[task]:
                self._needed_by.setdefault(other, []).append(task)
        for task in reversed(context.tasks):
            group = self._owner[task]
            below = 0
            for user in self.successors(group):
                below |= self._below[user.number] | user.bits
            self._below[group.number] = below

    def _new_group(
        self, bits: int, segments: Sequence[tuple[Task, ...]], shared: tuple[Task, ...] = ()
    ) -> WorkingGroup:
        group = WorkingGroup(self._count, bits, segments, shared)
        self._count += 1
        self._groups[group.number] = group
        for task in group.tasks:
            self._owner[task] = group
        return group

    # questions -----------------------------------------------------------------------
    def groups(self) -> list[WorkingGroup]:
        return list(self._groups.values())

    def current(self, group: WorkingGroup) -> WorkingGroup:
        """The group that a (perhaps merged) group is part of now."""
        return self._owner[group.tasks[0]]

    def owner_of(self, value: Value) -> WorkingGroup | None:
        """The group that makes a value; None for inputs and for values made by several."""
        groups = {self._owner[t] for t in self.context.producers.get(value, ())}
        return groups.pop() if len(groups) == 1 else None

    def readers(self, value: Value) -> list[WorkingGroup]:
        return list(dict.fromkeys(self._owner[t] for t in self._reading.get(value, ())))

    def is_result(self, value: Value) -> bool:
        return value in self._results

    def in_memory(self, value: Value) -> bool:
        """Whether some task can read the value from memory only."""
        readers = self._reading.get(value, ())
        return any(
            self.context.root(t.operands[i]) is value for t in readers for i in t.from_memory
        )

    def inputs(self, tasks: Iterable[Task]) -> set[Value]:
        """The roots that tasks read and do not make."""
        tasks = list(tasks)
        made = {v for t in tasks for v in t.results}
        roots = {self.context.root(v) for t in tasks for v in t.operands}
        return {v for v in roots if v not in made and v in self.context.roots}

    def escapes(self, tasks: Iterable[Task]) -> set[Value]:
        """The values that tasks make and others need."""
        inside = set(tasks)
        return {
            value
            for task in inside
            for value in task.results
            if value in self._results or any(t not in inside for t in self._reading.get(value, ()))
        }

    def has_several_successors(self, group: WorkingGroup) -> bool:
        """Whether more than one other group needs it; looks at no more than that takes."""
        first: WorkingGroup | None = None
        for task in group.tasks:
            for user in self._needed_by.get(task, ()):
                owner = self._owner[user]
                if owner is not group and owner is not first:
                    if first is not None:
                        return True
                    first = owner
        return False

    def successors(self, group: WorkingGroup) -> set[WorkingGroup]:
        found = {self._owner[t] for task in group.tasks for t in self._needed_by.get(task, ())}
        return found - {group}

    def predecessors(self, group: WorkingGroup) -> set[WorkingGroup]:
        return {self._owner[t] for task in group.tasks for t in self._needs[task]} - {group}

    def reaches(self, start: WorkingGroup, goal: WorkingGroup) -> bool:
        """Whether ``goal`` needs ``start``, directly or not."""
        return bool(self._below[start.number] & goal.bits)

    def depends(self, a: WorkingGroup, b: WorkingGroup) -> bool:
        """Whether one of two groups needs the other."""
        return self.reaches(a, b) or self.reaches(b, a)

    def makes_cycle(self, a: WorkingGroup, b: WorkingGroup) -> bool:
        """Whether a third group would stand between the two after a merge."""
        return any(self.reaches(g, b) for g in self.successors(a) - {b}) or any(
            self.reaches(g, a) for g in self.successors(b) - {a}
        )

    # changes -------------------------------------------------------------------------
    def merge(self, a: WorkingGroup, b: WorkingGroup) -> WorkingGroup:
        tasks = sorted((*a.tasks, *b.tasks), key=lambda t: t.position)
        return self._replace((a, b), [tuple(tasks)])

    def bundle(self, groups: Sequence[WorkingGroup], shared: Sequence[WorkingGroup]) -> None:
        """Make one kernel of independent groups and the scalars that only they need."""
        scalars = sorted((t for g in shared for t in g.tasks), key=lambda t: t.position)
        self._replace((*groups, *shared), [g.tasks for g in groups], tuple(scalars))

    def _replace(
        self,
        old: Sequence[WorkingGroup],
        segments: Sequence[tuple[Task, ...]],
        shared: tuple[Task, ...] = (),
    ) -> WorkingGroup:
        merged, below = 0, 0
        for group in old:
            merged |= group.bits
            below |= self._below.pop(group.number)
            del self._groups[group.number]
        new = self._new_group(merged, segments, shared)
        below &= ~merged
        self._below[new.number] = below
        self._add_below(new, below)
        return new

    def _add_below(self, group: WorkingGroup, below: int) -> None:
        """Whatever a group needs is needed by all ``below``, too.

        That the group itself needs it is known: one of its bits is.
        """
        pending = [group]
        while pending:
            for above in self.predecessors(pending.pop()):
                known = self._below[above.number]
                if below & ~known:
                    self._below[above.number] = known | below
                    pending.append(above)

    # order ---------------------------------------------------------------------------
    def in_order(self) -> list[WorkingGroup]:
        """All groups, each after what it needs; a writer of an input's new value comes after
        the readers of the old one where that is possible."""
        waits: dict[WorkingGroup, set[WorkingGroup]] = {
            group: self.predecessors(group) for group in self.groups()
        }
        awaited = {group for needed in waits.values() for group in needed}
        for position, value in self.context.updates.items():
            writer = self.owner_of(value)
            if writer is None:
                continue
            for reader in self.readers(self.context.graph.inputs[position]):
                if reader is writer or reader in waits[writer]:
                    continue
                if writer not in awaited or not _leads(waits, writer, reader):
                    waits[writer].add(reader)
                    awaited.add(reader)
        order: list[WorkingGroup] = []
        missing = {group: len(needed) for group, needed in waits.items()}
        users: dict[WorkingGroup, list[WorkingGroup]] = {}
        for group, needed in waits.items():
            for other in needed:
                users.setdefault(other, []).append(group)
        ready = [(g.position, g.number, g) for g, needed in waits.items() if not needed]
        heapq.heapify(ready)
        while ready:
            _, _, group = heapq.heappop(ready)
            order.append(group)
            for user in users.get(group, ()):
                missing[user] -= 1
                if not missing[user]:
                    heapq.heappush(ready, (user.position, user.number, user))
        assert len(order) == len(waits), "the groups depend on each other in a circle"
        return order


def _leads(
    waits: dict[WorkingGroup, set[WorkingGroup]], start: WorkingGroup, goal: WorkingGroup
) -> bool:
    """Whether ``goal`` must wait for ``start``."""
    seen: set[WorkingGroup] = set()
    pending = [goal]
    while pending:
        group = pending.pop()
        if group is start:
            return True
        if group not in seen:
            seen.add(group)
            pending.extend(waits[group])
    return False
