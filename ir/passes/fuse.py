"""Group tasks into kernels.

In: the tasks of a graph. Out: fusion groups in execution order, the values that must
be stored, and for every pair that was looked at whether it was merged and why (not).

What may be merged is not a list of ops: a set of tasks is a kernel if it has one
iteration space (``group_space``) and one loop nest (``loop_nest``). What is merged first is
what saves most bytes. The phases: elementwise chains and siblings; bundles of independent
writers at the end (optimizer steps); everything else along the edges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter

from flamec.ir.estimates import value_bytes
from flamec.ir.graph import Value
from flamec.ir.group_analysis import analyze
from flamec.ir.iteration_space import Incompatible
from flamec.ir.loop_nest import Scope, choose_nest, idle_share, nest_cost
from flamec.ir.op import OpKind
from flamec.ir.passes.absorb_prologues import Absorbed, absorb_prologues
from flamec.ir.passes.bundle_writers import bundle_writers
from flamec.ir.passes.early_tasks import early_tasks
from flamec.ir.passes.epilogues import heavy_epilogue, only_rearranges, wide_epilogue
from flamec.ir.passes.fusion_groups import (
    Fusion,
    FusionDecision,
    FusionGroup,
    FusionOptions,
)
from flamec.ir.passes.fusion_state import (
    LARGEST_SEGMENT,
    Dependencies,
    FusionState,
    WorkingGroup,
    both_pointwise,
    name_of,
)
from flamec.ir.passes.islands import (
    MergedIsland,
    find_islands,
    locations,
    looks,
    record,
)
from flamec.ir.passes.keep_endings import keep_endings
from flamec.ir.passes.recompute import StoredValues, recompute_cheap_values
from flamec.ir.task_signature import Signature, TaskSignatures
from flamec.ir.tasks import Task, TaskGraph, only_scalars

PairRule = Callable[[WorkingGroup, WorkingGroup], bool]
SMALL = 1 << 20  # bytes, which a GPU moves in less time than it takes to begin
SLOWDOWN = 1.5  # by which merged loops may be worse than separate ones


def fuse(context: TaskGraph, options: FusionOptions | None = None) -> Fusion:
    """Merge tasks greedily, most bytes saved first."""
    options = options or FusionOptions()
    signatures = TaskSignatures(context)
    kept = keep_endings(context, signatures, partial(_merged, options))
    fuser = _Fuser(context, options, signatures)
    for model, task in kept:
        fuser.say_merges(model, task.parts)
    if options.enabled:
        fuser.merge_islands(_is_pointwise, (both_pointwise,))
        fuser.merge_siblings(both_pointwise if options.elementwise_epilogues else _any)
        fuser.bundle_writers()
        rules = (_is_epilogue, _any) if options.elementwise_epilogues else (_any,)
        fuser.merge_islands(_is_no_bundle, rules)
        fuser.merge_siblings(_any)
        if options.elementwise_epilogues:
            fuser.merge_edges(_folds_rows)
            fuser.bundle_small_ends()
    groups = [list(fuser.segments(group)) for group in fuser.state.in_order()]
    values = StoredValues(context)
    if options.enabled:
        groups = recompute_cheap_values(
            groups, context, fuser.signatures, values, options.recompute_expensive
        )
    stored, decisions = values.of(groups), fuser.all_decisions()
    absorbed: Absorbed = {}
    if options.enabled and options.prologues:
        groups, absorbed, stored = absorb_prologues(groups, context, stored)
        decisions += tuple(_absorption(task, maker) for (task, _), maker in absorbed.items())
    made = []
    absorbing = {task for task, _ in absorbed}
    for segments in groups:
        tasks = absorbing and absorbing.intersection(t for segment in segments for t in segment)
        own = {k: maker for k, maker in absorbed.items() if k[0] in tasks} if tasks else {}
        made.append(FusionGroup(tuple(segments), own))
    return Fusion(tuple(made), decisions, stored, fuser.signatures)


def _merged(options: FusionOptions, tasks: TaskGraph) -> MergedIsland | None:
    """How elementwise tasks become one kernel, if they do."""
    if not options.enabled:
        return None
    fuser = _Fuser(tasks, options, TaskSignatures(tasks))
    fuser.merge_edges(_any)
    if len(fuser.state.groups()) > 1:
        return None
    return record(tasks.tasks, fuser.state, fuser.merges, fuser.reason)


def _absorption(consumer: Task, maker: Sequence[Task]) -> FusionDecision:
    names = ", ".join(task.name for task in maker)
    return FusionDecision(names, consumer.name, True, "an operand is computed where it is loaded")


_ROW_KINDS = (OpKind.SCAN, OpKind.SCATTER)
_WHOLE_SCOPES = {Scope.ROW, Scope.ALL, Scope.ROWS}
_NestCost = tuple[float, frozenset[Scope]]


class _Fuser:
    def __init__(
        self, context: TaskGraph, options: FusionOptions, signatures: TaskSignatures
    ) -> None:
        self.context = context
        self.options = options
        self._dependencies = Dependencies(context)
        self.signatures = signatures
        self._early = early_tasks(context)
        self._made: list[FusionDecision] = []
        reading = self._dependencies.reading
        arrays = [v for v in context.graph.values() if len(reading.get(v, ())) > 1 and v.type.shape]
        self._arrays = sorted(arrays, key=lambda v: -value_bytes(v))
        self.merges: list[tuple[WorkingGroup, WorkingGroup, int]] = []
        self._refused: dict[tuple[WorkingGroup, WorkingGroup], str] = {}
        self._cost: dict[Signature, _NestCost | str] = {}
        self._own_costs: dict[WorkingGroup, float] = {}
        self._scalar: dict[WorkingGroup, bool] = {}
        self._together: tuple[float, set[Value]] | None = None  # of the pair looked at: its cost
        self._said: set[tuple[int, object]] = set()
        self.state = FusionState(self._dependencies)

    # phases --------------------------------------------------------------------------
    def merge_islands(
        self, wanted: Callable[[WorkingGroup], bool], rules: Sequence[PairRule]
    ) -> None:
        """Merge groups ``wanted`` along the edges, first those that the first rule allows: within
        islands, of which equal ones are looked at once, then between them."""
        groups = {group for group in self.state.groups() if wanted(group)}
        islands = find_islands(self.state, groups, self._is_uniform, self._never_share, _CYCLE)
        known: dict[object, MergedIsland] = {}
        for island in islands.sets:
            key = looks(island, self._dependencies, self.state, self.signatures, self._early)
            model = None if key is None else known.get(key)
            if model is not None and self._repeat(model, island):
                continue
            first = len(self.merges)
            for rule in rules:
                self.merge_edges(partial(_within, set(island), rule), island)
            if key is not None:
                merges = self.merges[first:]
                known[key] = record(island, self.state, merges, self.reason)
        for producer, consumer, reason in islands.apart:
            pair = self.state.current(producer), self.state.current(consumer)
            self._refused.setdefault(pair, reason)
        for rule in rules:
            self.merge_edges(rule, islands.open)

    def _never_share(self, producer: WorkingGroup, consumer: WorkingGroup) -> str:
        """Why two groups can be in no kernel, whatever else is in it; "" if they can."""
        if self._early and self._is_early(producer) != self._is_early(consumer):
            return _EARLY
        if not consumer.placed:
            return ""
        return next(filter(None, (self._waits(t, (producer,)) for t in consumer.placed)), "")

    def _waits(self, task: Task, groups: Sequence[WorkingGroup]) -> str:
        """Why a task can be in no kernel with what groups make; "" if it can."""
        if any(self.state.is_in(before, groups) for before in task.after):
            return "it changes memory that must be filled first"
        for position in task.from_memory:
            makers = self.state.makers(self.context.root(task.operands[position]))
            if any(self.state.is_in(maker, groups) for maker in makers):
                return f"{task.name} reads it at places of its own, so it must be in memory"
        return ""

    def _repeat(self, model: MergedIsland, island: Sequence[Task]) -> bool:
        """Make of an island what was made of an equal one; False if that would be a circle."""
        state = self.state
        for numbers in model.groups:
            groups = state.groups_of(island[i] for i in numbers)
            if len(groups) == 1:
                continue
            if state.would_circle(groups):
                return False
            state.merge(*groups)
        self.say_merges(model, island)
        for a, b, reason in model.refused:
            producer, consumer = state.groups_of((island[a], island[b]))
            self._refused[producer, consumer] = reason
        return True

    def say_merges(self, model: MergedIsland, island: Sequence[Task]) -> None:
        """The decisions that led to an island, unless they are those of an equal one."""
        key = id(model), locations(island)
        if key not in self._said:
            self._said.add(key)
            for producer, consumer, saved in model.merges:
                first, second = (name_of([island[i] for i in n]) for n in (producer, consumer))
                self._made.append(FusionDecision(first, second, True, _saves(saved)))

    def reason(self, producer: WorkingGroup, consumer: WorkingGroup) -> str | None:
        return self._refused.get((producer, consumer))

    def merge_edges(self, wanted: PairRule, tasks: Sequence[Task] | None = None) -> None:
        """Merge producers with consumers until nothing more can be merged. Only what ``tasks``
        make is looked at, if they are given.

        What was refused stays so until one of the two is merged: then it is looked at again.
        """
        state, late = self.state, wanted is _folds_rows
        groups = state.groups() if tasks is None else state.groups_of(tasks)
        values = {v for group in groups for v in state.escapes_of(group)}
        while values:
            merged: list[Task] = []
            for value in self._largest_first(values):
                producer = state.owner_of(value)
                if producer is None or self._stays_apart(producer, value):
                    continue
                for consumer in state.readers(value):
                    consumer = state.current(consumer)
                    if producer is None or producer is consumer or consumer.is_bundle:
                        continue
                    if not wanted(producer, consumer):
                        continue
                    if self._try_merge(producer, consumer, value, late):
                        merged.append(consumer.tasks[0])
                        producer = state.owner_of(value)
            values = state.touching(state.groups_of(merged))

    def _largest_first(self, values: set[Value]) -> list[Value]:
        producers = self.context.producers
        return sorted(values, key=lambda v: (-value_bytes(v), producers[v][0].position))

    def merge_siblings(self, wanted: PairRule) -> None:
        """Merge groups that read the same large value and do not depend on each other."""
        for value in self._arrays:
            readers = self.state.readers(value)
            for i, first in enumerate(readers):
                for second in readers[i + 1 :]:
                    a, b = self.state.current(first), self.state.current(second)
                    if a is not b and wanted(a, b) and not self.state.depends(a, b):
                        self._try_merge(a, b, value)

    def bundle_small_ends(self) -> None:
        """One kernel for elementwise groups that nothing needs and that are done before a GPU has
        begun: in the body of a loop, what it keeps."""
        ends = [group for group in self.state.in_order() if self._is_small_end(group)]
        if len(ends) < 2:
            return
        self.state.bundle(ends, ())
        reason = "a launch would take longer than its work"
        self._made += [FusionDecision(ends[0].name, end.name, True, reason) for end in ends[1:]]

    def _is_small_end(self, group: WorkingGroup) -> bool:
        if not group.pointwise or group.is_bundle or self._is_uniform(group):
            return False
        if self.state.has_successors(group):
            return False
        arrays = (*self.state.inputs(group.tasks), *self.state.escapes_of(group))
        return sum(map(value_bytes, arrays)) <= SMALL

    def bundle_writers(self) -> None:
        """One kernel for all independent writers at the end, such as an optimizer's update."""
        for first, other in bundle_writers(
            self.state, self._is_uniform, self.options.bundled_scalars
        ):
            reason = "independent writers run side by side"
            self._made.append(FusionDecision(first.name, other.name, True, reason))

    # one pair ------------------------------------------------------------------------
    def _try_merge(
        self, producer: WorkingGroup, consumer: WorkingGroup, value: Value, late: bool = False
    ) -> bool:
        key = producer, consumer
        if key in self._refused:
            return False
        self._together = None
        reason = self._objection(producer, consumer, late)
        if reason:
            if reason != _LATER:
                self._refused[key] = reason
            return False
        saved = value_bytes(value)
        self._made.append(FusionDecision(producer.name, consumer.name, True, _saves(saved)))
        self.merges.append((producer, consumer, saved))
        together = self.state.merge(producer, consumer)
        if self._together is not None:
            self._own_costs[together], together.escapes = self._together
        return True

    def _objection(self, producer: WorkingGroup, consumer: WorkingGroup, late: bool) -> str:
        """Why two groups should stay apart; "" if they should not. ``late``: nothing else wants
        to share loops with a fold over rows, so that a product may."""
        if producer.is_bundle or consumer.is_bundle:
            return _BUNDLED
        if self._feeds_many(producer, consumer):
            return _SHARED
        if self._is_early(producer) != self._is_early(consumer):
            return _EARLY
        if producer.size + consumer.size > LARGEST_SEGMENT:
            return f"the kernel would have more than {LARGEST_SEGMENT} operations"
        if self._is_uniform(producer) and self._is_uniform(consumer):  # statements without loops
            return _CYCLE if self.state.makes_cycle(producer, consumer) else ""
        if OpKind.CONTRACTION in producer.kinds and OpKind.CONTRACTION in consumer.kinds:
            return "each has a matrix product of its own"
        for task in sorted((*producer.placed, *consumer.placed), key=attrgetter("position")):
            if reason := self._waits(task, (producer, consumer)):
                return reason
        kinds = producer.kinds | consumer.kinds
        multiplies = OpKind.CONTRACTION in kinds
        tasks = sorted((*producer.tasks, *consumer.tasks), key=attrgetter("position"))
        if multiplies and self.options.elementwise_epilogues:
            for task in tasks:
                if task.kind in _ROW_KINDS or task.one_per_row:
                    return f"{task.name} needs whole rows, and a block of a product has none"
            if not late and OpKind.REDUCTION in kinds:
                return _LATER
        if self.state.makes_cycle(producer, consumer):
            return _CYCLE
        escapes = self.state.escapes_together(producer, consumer)
        try:
            cost, scopes = self._nest_cost(tasks, escapes)
            self._together = cost, escapes
        except Incompatible as error:
            return str(error)
        apart = self._own_cost(producer) + self._own_cost(consumer)
        if cost > SLOWDOWN * apart and not only_rearranges(self.state, tasks, escapes):
            return "no order of loops would be fast for both"
        if multiplies and self.options.elementwise_epilogues:
            if scopes & _WHOLE_SCOPES:
                return "it folds whole rows, and a block of a product has none"
            return wide_epilogue(self.state, tasks, escapes)
        return heavy_epilogue(self.state, tasks, escapes) if multiplies else ""

    def _stays_apart(self, producer: WorkingGroup, value: Value) -> bool:
        """Whether no reader of a value can be merged with what makes it, as ``_refusal`` says: a
        scalar that hundreds of updates read need not be asked about hundreds of times."""
        if producer.is_bundle:
            return True
        if value.type.shape or not self._is_uniform(producer):
            return False
        scalar = any(only_scalars((task,)) for task in self.state.reading(value))
        return not scalar and self.state.has_several_successors(producer)

    def _feeds_many(self, producer: WorkingGroup, consumer: WorkingGroup) -> bool:
        """Merging a scalar into one of its readers would make the others wait for that one."""
        if not self._is_uniform(producer) or self._is_uniform(consumer):
            return False
        return self.state.has_several_successors(producer)

    def _is_uniform(self, group: WorkingGroup) -> bool:
        """Whether a group computes only scalars from scalars."""
        known = self._scalar.get(group)
        if known is None:
            known = self._scalar[group] = group.pointwise and only_scalars(group.tasks)
        return known

    def _is_early(self, group: WorkingGroup) -> bool:
        return bool(self._early) and not self._early.isdisjoint(group.tasks)

    def _nest_cost(self, tasks: Sequence[Task], escapes: set[Value]) -> _NestCost:
        """What a group's loops cost, and what its reductions fold."""
        signature, _ = self.signatures.of(tasks, escapes)
        known = self._cost.get(signature)
        if known is None:
            try:
                space = analyze(tasks, self.context)
                nest = choose_nest(space, escapes)
                cost = nest_cost(space, escapes, nest) * idle_share(nest, self.options.blocks)
                known = cost, frozenset(nest.scope.values())
            except Incompatible as error:
                known = str(error)
            self._cost[signature] = known
        if isinstance(known, str):
            raise Incompatible(known)
        return known

    def _own_cost(self, group: WorkingGroup) -> float:
        known = self._own_costs.get(group)
        if known is None:
            known, _ = self._nest_cost(group.tasks, self.state.escapes_of(group))
            self._own_costs[group] = known
        return known

    def all_decisions(self) -> tuple[FusionDecision, ...]:
        """The merges in order, then why those that are left next to each other were not merged."""
        groups = self.state.groups()
        left = []
        for producer in groups:
            for consumer in sorted(self.state.successors(producer), key=attrgetter("position")):
                pair = producer, consumer
                reason = self._refused.get(pair) or self._refusal(*pair)
                left.append(FusionDecision(producer.name, consumer.name, False, reason))
        return tuple(dict.fromkeys([*self._made, *left]))

    def _refusal(self, producer: WorkingGroup, consumer: WorkingGroup) -> str:
        """Why a pair that was not looked at stays apart."""
        if producer.is_bundle or consumer.is_bundle:
            return _BUNDLED
        return _SHARED if self._feeds_many(producer, consumer) else _CYCLE

    def segments(self, group: WorkingGroup) -> tuple[tuple[Task, ...], ...]:
        """The task sets of a group; those of a bundle's scalars come first."""
        shared = (group.shared,) if group.shared else ()
        return (*shared, *group.segments)


_LATER = "a fold over a product's rows goes to a kernel of rows if there is one"
_BUNDLED = "it is part of a bundle of independent writers"
_SHARED = "a scalar that several kernels read is computed once"
_EARLY = "what later rows need of all rows is computed before them"
_CYCLE = "another kernel between them needs the one and is needed by the other"


def _saves(count: int) -> str:
    return f"saves {count} bytes"


def _within(inside: set[Task], rule: PairRule, a: WorkingGroup, b: WorkingGroup) -> bool:
    return a.tasks[0] in inside and b.tasks[0] in inside and rule(a, b)


def _is_pointwise(group: WorkingGroup) -> bool:
    return group.pointwise


def _is_no_bundle(group: WorkingGroup) -> bool:
    return not group.is_bundle


def _any(_producer: WorkingGroup, _consumer: WorkingGroup) -> bool:
    return True


def _is_epilogue(producer: WorkingGroup, consumer: WorkingGroup) -> bool:
    """Whether a product is followed by elementwise work."""
    return consumer.pointwise and OpKind.CONTRACTION in producer.kinds


def _folds_rows(producer: WorkingGroup, consumer: WorkingGroup) -> bool:
    """Whether a product is followed by reductions."""
    return OpKind.REDUCTION in consumer.kinds and OpKind.CONTRACTION in producer.kinds
