"""Compute values again instead of storing and loading them.

In: fusion groups in order. Out: the groups, some with tasks that other groups have, too. A
value is computed again by all its readers if a few elementwise operations lead to it from what
is in memory anyway, or from something much smaller that then is put there, and if that moves
fewer bytes. A task may so belong to several groups; its value needs no memory.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from flamec.ir.graph import Value
from flamec.ir.group_analysis import analyze
from flamec.ir.iteration_space import Incompatible
from flamec.ir.loop_nest import choose_nest, nest_cost, value_bytes
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


def stored_values(groups: Segments, context: TaskGraph) -> set[Value]:
    """The values that need memory: results, and what a segment reads and its kernel does not
    know."""
    stored = {*context.outputs, *context.updates.values()}
    for segments in groups:
        known = {v for task in shared_scalars(segments) for v in task.results} if segments else ()
        for segment in segments:
            read = _read(segment, context)
            stored.update(v for v in read if v in context.producers and v not in known)
    return stored | {v for tasks in context.producers.values() for v in _shared(tasks)}


def _shared(tasks: Sequence[Task]) -> list[Value]:
    """Values that several tasks fill part by part."""
    return [v for v in tasks[0].results if len(tasks) > 1 or tasks[0].is_copy]


def _read(segment: Segment, context: TaskGraph) -> set[Value]:
    """The roots that a segment reads and does not make."""
    made = {v for task in segment for v in task.results}
    return {context.root(v) for task in segment for v in task.operands} - made


def recompute_cheap_values(
    groups: Segments, context: TaskGraph, signatures: TaskSignatures, expensive: bool = False
) -> Segments:
    """See the module's docstring; large values first. Groups that nothing is left of are gone.

    ``expensive``: operations such as exp may be done again, too.
    """
    recomputer = _Recomputer(groups, context, signatures, expensive)
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


class _Recomputer:
    def __init__(
        self,
        groups: Segments,
        context: TaskGraph,
        signatures: TaskSignatures,
        expensive: bool,
    ) -> None:
        self.groups = groups
        self.context = context
        self.signatures = signatures
        self.expensive = expensive
        self.stored = stored_values(groups, context)
        self._results = {*context.outputs, *context.updates.values()}
        self._costs: dict[Signature, float | None] = {}
        self._reads: dict[Place, set[Value]] = {}
        self._readers: dict[Value, dict[Place, None]] = {}
        self._makers: dict[Task, dict[Place, None]] = {}
        self._changed: set[Place] = set()
        for g, segments in enumerate(groups):
            for s, segment in enumerate(segments):
                self._put((g, s), segment)

    def _segment(self, place: Place) -> Segment:
        return self.groups[place[0]][place[1]]

    def _put(self, place: Place, segment: Segment) -> None:
        for value in self._reads.get(place, ()):
            self._readers[value].pop(place)
        for task in self._segment(place):
            self._makers.get(task, {}).pop(place, None)
        self.groups[place[0]][place[1]] = segment
        self._reads[place] = _read(segment, self.context)
        for value in self._reads[place]:
            self._readers.setdefault(value, {})[place] = None
        for task in segment:
            self._makers.setdefault(task, {})[place] = None

    def round(self) -> bool:
        """Look at every stored value once; whether anything changed."""
        changed = False
        for value in sorted(self._candidates(), key=lambda v: -value_bytes(v)):
            way = self._way(value, False) or self._way(value, True)
            if way is not None and self._recompute(value, way):
                changed = True
        self._remove_dead_tasks()
        return changed

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

    def _way(self, value: Value, may_store: bool) -> _Way | None:
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
            for operand in task.operands:
                source = self.context.root(operand)
                if source not in self.context.roots:
                    continue
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

    def _recompute(self, value: Value, way: _Way) -> bool:
        """Add the tasks to the readers of the value, if that pays. If all of them get them,
        and the value is no result, it needs no memory."""
        (last,) = self.context.producers[value]
        stays = value in self._results
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
        stored = self.stored | way.new.keys()
        if not stays:
            stored.discard(value)
        if not self._replace(way, loads, stored, value):
            return False
        self._changed.update(self._makers[last])
        self.stored = stored
        return True

    def _replace(
        self, way: _Way, places: Collection[Place], stored: set[Value], value: Value
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
        for place, longer in replaced.items():
            before = self._cost(self._segment(place), self.stored)
            after = self._cost(longer, stored - {value} if place in places else stored)
            if before is None or after is None or after > SLOWDOWN * before:
                return False
        for place, longer in replaced.items():
            self._put(place, longer)
        return True

    def _cost(self, segment: Segment, stored: set[Value]) -> float | None:
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
            before, self.stored = self.stored, stored_values(self.groups, self.context)
            unused = [t for v in before - self.stored for t in self.context.producers[v]]
            self._changed = {place for task in unused for place in self._makers[task]}

    def _live(self, place: Place) -> Segment:
        """The tasks of a segment whose results something needs."""
        segments = self.groups[place[0]]
        needed = set(self.stored)
        if place[1] == 0 and shared_scalars(segments):
            needed.update(*(self._reads[place[0], i] for i in range(1, len(segments))))
        live = []
        for task in reversed(self._segment(place)):
            if not needed.isdisjoint(task.results):
                live.append(task)
                needed.update(self.context.root(operand) for operand in task.operands)
        return tuple(live[::-1])
