"""The groups while fusion is under way, and the dependencies between them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from flamec.ir.graph import Value
from flamec.ir.op import CONTROL, OpKind
from flamec.ir.tasks import Task, TaskGraph

NEEDS_OWN_LOOPS = frozenset(
    (
        OpKind.REDUCTION,
        OpKind.CONTRACTION,
        OpKind.SCAN,
        OpKind.SCATTER,
        OpKind.SORT,
        OpKind.HOST,
        OpKind.KERNEL,
        OpKind.ATTENTION,
        *CONTROL,
    )
)

LARGEST_SEGMENT = 96  # tasks; beyond that compiling costs more than it saves

Kinds = frozenset[OpKind | None]
_ONE_KIND: dict[OpKind | None, Kinds] = {kind: frozenset((kind,)) for kind in (None, *OpKind)}


class WorkingGroup:
    """A set of tasks that will be one kernel. ``shared`` are the scalar tasks of a bundle.

    ``bits`` stand for the group in sets of groups; a merged group has those of its parts.
    ``size``: how many operations it has.
    ``kinds`` are those of its operations; ``pointwise``: none of them has loops of its own.
    ``placed``: its tasks, in order, that wait for others or must find operands in memory.
    ``escapes``: see ``FusionState``.
    """

    __slots__ = (
        "_name",
        "bits",
        "escapes",
        "kinds",
        "number",
        "placed",
        "pointwise",
        "position",
        "segments",
        "shared",
        "size",
        "tasks",
    )

    def __init__(
        self,
        number: int,
        bits: int,
        kinds: Kinds,
        placed: Sequence[Task],
        segments: Sequence[tuple[Task, ...]],
        shared: tuple[Task, ...] = (),
    ) -> None:
        self.number = number
        self.bits = bits
        self.segments = tuple(segments)
        self.shared = shared
        (first, *others) = self.segments
        self.tasks = (
            (*shared, *[t for s in self.segments for t in s]) if others or shared else first
        )
        self.size, self.position = len(self.tasks), first[0].position
        if others or shared:  # else they are in order
            self.position = min([task.position for task in self.tasks])
        for task in self.tasks:
            if task.ending is not None:
                self.size += task.size - 1
        self.kinds, self.placed = kinds, placed
        self.pointwise = kinds.isdisjoint(NEEDS_OWN_LOOPS)
        self.escapes: set[Value] | None = None
        self._name = ""

    @property
    def is_bundle(self) -> bool:
        return len(self.segments) > 1

    @property
    def name(self) -> str:
        """The operations, for messages: ``sub, exp, sum (model.py:12)``."""
        if not self._name:  # asked for in every decision about the group
            self._name = name_of(self.tasks)
        return self._name


def name_of(tasks: Sequence[Task]) -> str:
    """What a set of tasks is called in messages."""
    names = list(dict.fromkeys(name for task in tasks for name in task.names))
    text = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
    last = tasks[-1].origin
    return f"{text} ({last.location})" if last and last.location else text


def both_pointwise(a: WorkingGroup, b: WorkingGroup) -> bool:
    """Whether neither of two groups has an operation with loops of its own."""
    return a.pointwise and b.pointwise


class Dependencies:
    """What tasks, of a graph or some of it, need of each other.

    ``reading``: the tasks that read a root, in order; ``needs``, ``needed_by``: tasks by task;
    ``results``: what the program gives back.
    """

    def __init__(self, context: TaskGraph, tasks: Sequence[Task] | None = None) -> None:
        self.context = context
        self.tasks = context.tasks if tasks is None else tasks
        self.results = {*context.outputs, *context.updates.values()}
        self.reading: dict[Value, list[Task]] = {}
        self.needs: dict[Task, list[Task]] = {}
        self.needed_by: dict[Task, list[Task]] = {}
        self._users: dict[Task, tuple[Task, ...]] = {}
        inside = None if tasks is None else set(tasks)
        for task in self.tasks:
            for root in dict.fromkeys(context.roots_of(task)):
                self.reading.setdefault(root, []).append(task)
            needs = context.dependencies(task)
            if inside is not None:
                needs = [other for other in needs if other in inside]
            self.needs[task] = needs
            for other in needs:
                self.needed_by.setdefault(other, []).append(task)

    def users(self, task: Task) -> Sequence[Task]:
        """The tasks that need a task, in order, each once."""
        found = self._users.get(task)
        if found is None:
            found = self._users[task] = tuple(dict.fromkeys(self.needed_by.get(task, ())))
        return found


class FusionState:
    """Which group every task is in, and what groups need of each other."""

    def __init__(self, dependencies: Dependencies) -> None:
        self.context = dependencies.context
        self._groups: dict[int, WorkingGroup] = {}
        self._owner: dict[Task, WorkingGroup] = {}
        self._results = dependencies.results
        self._reading = dependencies.reading
        self._needs, self._needed_by = dependencies.needs, dependencies.needed_by
        self._count = 0
        self._below: dict[int, int] = {}  # for each group the set of those that need it, as bits
        for task in dependencies.tasks:
            placed = [task] if task.after or task.from_memory else []
            self._new_group(1 << self._count, _ONE_KIND[task.kind], placed, ((task,),))
        for task in reversed(dependencies.tasks):
            below = 0
            for user in self._needed_by.get(task, ()):
                owner = self._owner[user]
                if not below & owner.bits:  # else all that needs it is there, too
                    below |= self._below[owner.number] | owner.bits
            self._below[self._owner[task].number] = below

    def _new_group(
        self,
        bits: int,
        kinds: Kinds,
        placed: Sequence[Task],
        segments: Sequence[tuple[Task, ...]],
        shared: tuple[Task, ...] = (),
    ) -> WorkingGroup:
        group = WorkingGroup(self._count, bits, kinds, placed, segments, shared)
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
        makers = self.context.producers.get(value, ())
        if len(makers) == 1:
            return self._owner.get(makers[0])
        groups = {self._owner.get(t) for t in makers}
        return groups.pop() if len(groups) == 1 else None

    def makers(self, value: Value) -> Sequence[Task]:
        """The tasks that compute a value."""
        return self.context.producers.get(value, ())

    def needing(self, tasks: Iterable[Task], among: Mapping[int, int], all_bits: int) -> list[int]:
        """What of ``among`` needs one of ``tasks``, directly or not: numbers by groups' bits, which
        together are ``all_bits``."""
        below = 0
        for group in self.groups_of(tasks):
            below |= self._below[group.number]
        below &= all_bits
        return [number for bits, number in among.items() if below & bits] if below else []

    def below(self, group: WorkingGroup) -> int:
        """The groups that need a group, directly or not: their bits together."""
        return self._below[group.number]

    def bits_of(self, task: Task) -> int:
        """Those of the task's group."""
        return self._owner[task].bits

    def is_in(self, task: Task, groups: Sequence[WorkingGroup]) -> bool:
        """Whether a task belongs to one of these groups."""
        return self._owner.get(task) in groups  # None where the state has some tasks only

    def groups_of(self, tasks: Iterable[Task]) -> list[WorkingGroup]:
        """The groups that tasks are in now, in order, each once."""
        return list(dict.fromkeys(self._owner[task] for task in tasks))

    def reading(self, value: Value) -> Sequence[Task]:
        """The tasks that read a root, in order."""
        return self._reading.get(value, ())

    def touching(self, groups: Iterable[WorkingGroup]) -> set[Value]:
        """The values that groups make for others, and those that they read and others make."""
        found: set[Value] = set()
        for group in groups:
            found |= self.escapes_of(group)
            found.update(v for v in self.inputs(group.tasks) if v in self.context.producers)
        return found

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
        roots = {v for t in tasks for v in self.context.roots_of(t)}
        return {v for v in roots if v not in made and v in self.context.roots}

    def escapes_of(self, group: WorkingGroup) -> set[Value]:
        """The values that a group makes and others need; the group keeps them."""
        if group.escapes is None:
            group.escapes = self.escapes(group.tasks)
        return group.escapes

    def escapes_together(self, a: WorkingGroup, b: WorkingGroup) -> set[Value]:
        """``escapes`` of the tasks of two groups."""
        return {
            value
            for group in (a, b)
            for value in self.escapes_of(group)
            if value in self._results
            or any(
                owner is not a and owner is not b
                for owner in map(self._owner.__getitem__, self._reading.get(value, ()))
            )
        }

    def escapes(self, tasks: Iterable[Task]) -> set[Value]:
        """The values that tasks make and others need."""
        inside = set(tasks)
        return {
            value
            for task in inside
            for value in task.results
            if value in self._results or any(t not in inside for t in self._reading.get(value, ()))
        }

    def has_successors(self, group: WorkingGroup) -> bool:
        """Whether some other group needs it."""
        owner = self._owner
        return any(
            owner[user] is not group
            for task in group.tasks
            for user in self._needed_by.get(task, ())
        )

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
        for first, last in ((a, b), (b, a)):
            if self.reaches(first, last):
                below = self._below
                if self._few_needs(last, first):
                    reached = below[first.number]
                    between = self.predecessors(last)
                    return any(g is not first and reached & g.bits for g in between)
                bits, between = last.bits, self.successors(first)
                return any(g is not last and below[g.number] & bits for g in between)
        return False

    def _few_needs(self, group: WorkingGroup, needed: WorkingGroup) -> bool:
        """Whether a group needs fewer tasks than ``needed`` is needed by: a scalar may be needed by
        the updates of all parameters."""
        users = sum(len(self._needed_by.get(task, ())) for task in needed.tasks)
        return users > sum(len(self._needs[task]) for task in group.tasks)

    def would_circle(self, groups: Sequence[WorkingGroup]) -> bool:
        """Whether a group that is none of them would need one of them and be needed by another."""
        inside, bits = set(groups), 0
        for group in groups:
            bits |= group.bits
        between = {g for group in groups for g in self.successors(group)} - inside
        return any(self._below[g.number] & bits for g in between)

    # changes -------------------------------------------------------------------------
    def merge(self, *groups: WorkingGroup) -> WorkingGroup:
        tasks = [task for group in groups for task in group.tasks]
        tasks.sort(key=_position)
        return self._replace(groups, [tuple(tasks)])

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
        kinds: Kinds = frozenset()
        placed: list[Task] = []
        for group in old:
            merged |= group.bits
            kinds |= group.kinds
            placed += group.placed
            below |= self._below.pop(group.number)
            del self._groups[group.number]
        placed.sort(key=_position)
        new = self._new_group(merged, kinds, placed, segments, shared)
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


_position = attrgetter("position")


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
