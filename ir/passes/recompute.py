"""Compute values again instead of storing and loading them.

In: fusion groups in order. Out: the groups, some with tasks that other groups have, too. A
value is computed again by all its readers if a few elementwise operations lead to it from what
is in memory anyway, or from something much smaller that then is put there, and if that moves
fewer bytes. A task may so belong to several groups; its value needs no memory.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass, field

from flamec.ir.estimates import value_bytes
from flamec.ir.graph import Value
from flamec.ir.group_analysis import analyze
from flamec.ir.iteration_space import Incompatible
from flamec.ir.loop_nest import choose_nest, nest_cost
from flamec.ir.op import OpKind
from flamec.ir.task_signature import Signature, TaskSignatures
from flamec.ir.tasks import Task, TaskGraph, shared_scalars

Segment = tuple[Task, ...]
Segments = list[list[Segment]]  # of each group
Place = tuple[int, int]  # group and segment
SLOWDOWN = 1.1
SMALLER = 2  # how many times smaller a value must be to be stored instead of another
LONGEST_CHAIN = 16  # tasks that are done again for one value
LONGEST = 128  # tasks of a segment that is made longer


class StoredValues:
    """What needs memory, of one graph. ``read``: the roots that a segment reads and does not make,
    found once for each."""

    def __init__(self, context: TaskGraph) -> None:
        self._context = context
        self._read: dict[Segment, set[Value]] = {}
        self._always = {*context.outputs, *context.updates.values()}
        for tasks in context.producers.values():
            if len(tasks) > 1 or tasks[0].is_copy:  # filled part by part
                self._always.update(tasks[0].results)

    def of(self, groups: Segments) -> set[Value]:
        """The values that need memory: results, and what a segment reads and its kernel does not
        know."""
        stored, producers = set(self._always), self._context.producers
        for segments in groups:
            scalars = shared_scalars(segments) if segments else ()
            known = {v for task in scalars for v in task.results}
            for segment in segments:
                read = self.read(segment)
                stored.update([v for v in read if v in producers and v not in known])
        return stored

    def read(self, segment: Segment) -> set[Value]:
        known = self._read.get(segment)
        if known is None:
            roots_of = self._context.roots_of
            read = {v for task in segment for v in roots_of(task)}
            known = read.difference([v for task in segment for v in task.results])
            self._read[segment] = known
        return known


def recompute_cheap_values(
    groups: Segments,
    context: TaskGraph,
    signatures: TaskSignatures,
    values: StoredValues,
    expensive: bool = False,
) -> Segments:
    """See the module's docstring; large values first. Groups that nothing is left of are gone.

    ``expensive``: operations such as exp may be done again, too.
    """
    recomputer = _Recomputer(groups, context, signatures, values, expensive)
    while recomputer.round():
        pass
    kept = ([s for s in segments if s] for segments in recomputer.groups)
    return [segments for segments in kept if segments]


@dataclass
class _Way:
    """How a value is computed again: ``tasks`` from ``sources``, of which those in ``new``
    are not in memory so far."""

    tasks: dict[Task, None] = field(default_factory=dict)
    sources: dict[Value, None] = field(default_factory=dict)
    new: dict[Value, None] = field(default_factory=dict)


@dataclass(frozen=True)
class _Changed:
    """A set of values with some more and some less, which is not made."""

    base: Container[Value]
    added: Container[Value]
    gone: Container[Value]

    def __contains__(self, value: object) -> bool:
        return value not in self.gone and (value in self.base or value in self.added)


@dataclass
class _Look:
    """What a decision about a value rests on: values (in memory or not), segments and those that
    have some tasks, at a time."""

    time: int
    values: set[Value] = field(default_factory=set)
    places: set[Place] = field(default_factory=set)
    makers: list[Task] = field(default_factory=list)


class _Recomputer:
    def __init__(
        self,
        groups: Segments,
        context: TaskGraph,
        signatures: TaskSignatures,
        values: StoredValues,
        expensive: bool,
    ) -> None:
        self.groups = groups
        self.values = values
        self.context = context
        self.signatures = signatures
        self.expensive = expensive
        self.stored = values.of(groups)
        self._results = {*context.outputs, *context.updates.values()}
        self._costs: dict[Signature, float | None] = {}
        self._own_costs: dict[Place, float | None] = {}  # as things are now
        self._reads: dict[Place, set[Value]] = {}
        self._readers: dict[Value, dict[Place, None]] = {}
        self._makers: dict[Task, dict[Place, None]] = {}
        self._changed: set[Place] = set()
        self._clock = 0  # of changes
        self._stored_at: dict[Value, int] = {}  # when a value was last put in memory, or out of it
        self._put_at: dict[Place, int] = {}
        self._looked: dict[Value, _Look] = {}
        for g, segments in enumerate(groups):
            for s, segment in enumerate(segments):
                self._put((g, s), segment)

    def _segment(self, place: Place) -> Segment:
        return self.groups[place[0]][place[1]]

    def _put(self, place: Place, segment: Segment) -> None:
        self._put_at[place] = self._clock
        self._own_costs.pop(place, None)
        for value in self._reads.get(place, ()):
            self._readers[value].pop(place)
        for task in self._segment(place):
            self._makers.get(task, {}).pop(place, None)
        self.groups[place[0]][place[1]] = segment
        self._reads[place] = self.values.read(segment)
        for value in self._reads[place]:
            self._readers.setdefault(value, {})[place] = None
        for task in segment:
            self._makers.setdefault(task, {})[place] = None

    def round(self) -> bool:
        """Look at every stored value once; whether anything changed."""
        changed = False
        for value in sorted(self._candidates(), key=lambda v: -value_bytes(v)):
            look = self._looked.get(value)
            if look is not None and not self._differs(value, look):
                continue
            self._clock += 1
            look = self._looked[value] = _Look(self._clock)
            way = self._way(value, False, look) or self._way(value, True, look)
            if way is not None and self._recompute(value, way, look):
                changed = True
        self._remove_dead_tasks()
        return changed

    def _differs(self, value: Value, look: _Look) -> bool:
        """Whether anything that was decided about a value rests on has changed since."""
        stored, put, time = self._stored_at, self._put_at, look.time
        places = [*self._readers.get(value, ()), *look.places]
        places += [place for task in look.makers for place in self._makers[task]]
        return any(put[place] >= time for place in places) or any(
            stored.get(source, 0) >= time for source in look.values
        )

    def _store(self, added: Collection[Value], gone: Collection[Value]) -> None:
        """These values are in memory from now on, and those are not."""
        self.stored.update(added)
        self.stored.difference_update(gone)
        for value in (*added, *gone):
            self._stored_at[value] = self._clock
            for task in self.context.producers[value]:
                for place in self._makers.get(task, ()):
                    self._put_at[place] = self._clock
                    self._own_costs.pop(place, None)

    def _candidates(self) -> list[Value]:
        return [
            value
            for value, tasks in self.context.producers.items()
            if value in self.stored and value.type.shape and self._repeatable(tasks)
        ]

    def _repeatable(self, tasks: Sequence[Task]) -> bool:
        (task, *others) = tasks
        if others or task.is_copy or task.node is None:
            return False
        op = task.node.op
        return op.kind is OpKind.ELEMENTWISE and (self.expensive or not op.expensive)

    def _way(self, value: Value, may_store: bool, look: _Look) -> _Way | None:
        """The operations that lead to ``value`` from memory. ``may_store``: also from values
        that are not in memory so far, best from much smaller ones."""
        way = _Way()
        pending = [value]
        while pending:
            (task,) = self.context.producers[pending.pop()]
            if task in way.tasks:
                continue
            way.tasks[task] = None
            if len(way.tasks) > LONGEST_CHAIN:
                return None
            for source in self.context.roots_of(task):
                if source not in self.context.roots:
                    continue
                look.values.add(source)
                if source not in self.context.producers or source in self.stored:
                    way.sources[source] = None
                elif may_store and SMALLER * value_bytes(source) <= value_bytes(value):
                    way.sources[source] = way.new[source] = None
                elif self._repeatable(self.context.producers[source]):
                    pending.append(source)
                elif may_store:
                    way.sources[source] = way.new[source] = None
                else:
                    return None
        return way if may_store <= bool(way.new) else None

    def _recompute(self, value: Value, way: _Way, look: _Look) -> bool:
        """Add the tasks to the readers of the value, if that pays. If all of them get them,
        and the value is no result, it needs no memory."""
        (last,) = self.context.producers[value]
        stays = value in self._results
        look.places.update(self._readers.get(value, ()))
        look.makers += [self.context.producers[source][0] for source in way.new]
        loads: dict[Place, int] = {}  # what the readers would load instead, in bytes
        for place in self._readers.get(value, ()):
            segment = self._segment(place)
            reads = (t.operands[i] for t in segment for i in t.from_memory)
            if any(self.context.root(operand) is value for operand in reads):
                stays = True
                continue
            known = self._reads[place] | {v for t in segment for v in t.results}
            loads[place] = sum(value_bytes(source) for source in way.sources if source not in known)
        if stays:
            loads = {place: added for place, added in loads.items() if added < value_bytes(value)}
        gain = value_bytes(value) * (len(loads) + (not stays)) - sum(loads.values())
        if not loads or gain <= sum(map(value_bytes, way.new)) or (stays and way.new):
            return False
        gone = set() if stays else {value}
        if not self._replace(way, loads, _Changed(self.stored, way.new, gone), value):
            return False
        self._changed.update(self._makers[last])
        self._store(way.new.keys() - self.stored, gone)
        return True

    def _replace(
        self, way: _Way, places: Collection[Place], stored: _Changed, value: Value
    ) -> bool:
        """Give ``places`` the tasks, unless the loops of a segment became worse for it.

        They store what is in ``stored``, and ``value`` in no case: another segment does that.
        """
        replaced: dict[Place, Segment] = {}
        for place in places:
            tasks = {*self._segment(place), *way.tasks}
            if len(way.tasks) > 1 and len(tasks) > LONGEST:
                return False
            replaced[place] = tuple(sorted(tasks, key=lambda t: t.position))
        for source in way.new:
            for place in self._makers[self.context.producers[source][0]]:
                replaced.setdefault(place, self._segment(place))
        elsewhere = _Changed(stored.base, stored.added, {value})
        for place, longer in replaced.items():
            before = self._own_cost(place)
            after = self._cost(longer, elsewhere if place in places else stored)
            if before is None or after is None or after > SLOWDOWN * before:
                return False
        for place, longer in replaced.items():
            self._put(place, longer)
        return True

    def _own_cost(self, place: Place) -> float | None:
        """What the loops of a segment cost as it is."""
        if place not in self._own_costs:
            self._own_costs[place] = self._cost(self._segment(place), self.stored)
        return self._own_costs[place]

    def _cost(self, segment: Segment, stored: Container[Value]) -> float | None:
        """What a segment's loops cost; None if they cannot be shared."""
        signature, _ = self.signatures.of(segment, stored)
        if signature not in self._costs:
            cost: float | None
            try:
                space = analyze(segment, self.context)
                escapes = {v for task in segment for v in task.results if v in stored}
                cost = nest_cost(space, escapes, choose_nest(space, escapes))
            except Incompatible:
                cost = None
            self._costs[signature] = cost
        return self._costs[signature]

    def _remove_dead_tasks(self) -> None:
        while self._changed:
            for place in sorted(self._changed):
                segment = self._segment(place)
                live = self._live(place)
                # a dead task may be what holds the others together
                if live != segment and (not live or self._cost(live, self.stored) is not None):
                    self._put(place, live)
            stored = self.values.of(self.groups)
            gone = self.stored - stored
            self._store(stored - self.stored, gone)
            unused = [t for v in gone for t in self.context.producers[v]]
            self._changed = {place for task in unused for place in self._makers[task]}

    def _live(self, place: Place) -> Segment:
        """The tasks of a segment whose results something needs."""
        segments = self.groups[place[0]]
        needed: set[Value] = set()
        if place[1] == 0 and shared_scalars(segments):
            needed.update(*(self._reads[place[0], i] for i in range(1, len(segments))))
        live = []
        for task in reversed(self._segment(place)):
            if any(v in self.stored or v in needed for v in task.results):
                live.append(task)
                needed.update(self.context.roots_of(task))
        return tuple(live[::-1])
