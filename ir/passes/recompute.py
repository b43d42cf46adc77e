"""Compute cheap values again instead of storing and loading them.

In: fusion groups in order. Out: the groups, some with tasks that another group has,
too. A value is computed again by all its readers if it follows elementwise from what is in
memory anyway, or from smaller values that can be put there, and if that moves fewer bytes. A
task then belongs to several groups; its value needs no memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flamec.ir.graph import Value
from flamec.ir.group_analysis import analyze
from flamec.ir.iteration_space import Incompatible
from flamec.ir.loop_nest import choose_nest, estimate, nest_cost
from flamec.ir.op import OpKind
from flamec.ir.plan import dense_elements
from flamec.ir.tasks import Task, TaskGraph

Segment = tuple[Task, ...]
Segments = list[list[Segment]]  # of each group
SLOWDOWN = 1.1
LONGEST_CHAIN = 12  # tasks that are done again for one value


def stored_values(groups: Segments, context: TaskGraph) -> set[Value]:
    """The values that need memory: results, and what a segment reads and does not compute."""
    stored = {*context.outputs, *context.updates.values()}
    for segments in groups:
        for segment in segments:
            made = {v for task in segment for v in task.results}
            for task in segment:
                roots = {context.root(operand) for operand in task.operands}
                stored |= {r for r in roots if r not in made and r in context.producers}
    return stored | {v for tasks in context.producers.values() for v in _shared(tasks)}


def _shared(tasks: Sequence[Task]) -> list[Value]:
    """Values that several tasks fill part by part."""
    return [v for v in tasks[0].results if len(tasks) > 1 or tasks[0].is_copy]


def recompute_cheap_values(
    groups: Segments, context: TaskGraph, expensive: bool = False
) -> Segments:
    """See the module's docstring; large values first. Groups that nothing is left of are gone.

    ``expensive``: operations such as exp may be done again, too.
    """
    changed = True
    while changed:
        changed = False
        stored = stored_values(groups, context)
        results = {*context.outputs, *context.updates.values()}
        for value in sorted(stored - results, key=lambda v: -_bytes(v)):
            chain = _chain(value, context, stored, expensive) if value.type.shape else None
            if chain is not None and _recompute(value, chain, groups, context, stored):
                stored.discard(value)
                stored |= chain.new
                changed = True
        groups = _without_dead_tasks(groups, context)
    return groups


def _without_dead_tasks(groups: Segments, context: TaskGraph) -> Segments:
    stored = stored_values(groups, context)
    result = []
    for segments in groups:
        live = [_shortened(segment, context, stored) for segment in segments]
        kept = [segment for segment in live if segment]
        if kept:
            result.append(kept)
    return result


def _shortened(segment: Segment, context: TaskGraph, stored: set[Value]) -> Segment:
    """The live tasks of a segment; all of it if a dead one is what holds the others together."""
    live = tuple(_live(segment, context, stored))
    if live and live != segment:
        try:
            analyze(live, context)
        except Incompatible:
            return segment
    return live


def _live(segment: Segment, context: TaskGraph, stored: set[Value]) -> list[Task]:
    needed = set(stored)
    live = []
    for task in reversed(segment):
        if not needed.isdisjoint(task.results):
            live.append(task)
            needed.update(context.root(operand) for operand in task.operands)
    return live[::-1]


@dataclass(frozen=True)
class _Chain:
    """How a value follows elementwise: ``tasks`` in order, from ``sources`` in memory; those in
    ``new`` are not there yet."""

    tasks: tuple[Task, ...]
    sources: frozenset[Value]
    new: frozenset[Value]


def _chain(value: Value, context: TaskGraph, stored: set[Value], expensive: bool) -> _Chain | None:
    """The shortest chain to values in memory or, where there is no other way, to others."""
    tasks: dict[Task, None] = {}
    sources: set[Value] = set()
    new: set[Value] = set()
    pending = [value]
    while pending:
        made = pending.pop()
        task = _elementwise_task(made, context, expensive)
        if task is None:
            if made is value:
                return None
            new.add(made)
        elif task not in tasks:
            tasks[task] = None
            if len(tasks) > LONGEST_CHAIN:
                return None
            for root in dict.fromkeys(context.root(operand) for operand in task.operands):
                if root in stored or root not in context.producers:
                    sources.add(root)
                else:
                    pending.append(root)
    ordered = tuple(sorted(tasks, key=lambda t: t.position))
    return _Chain(ordered, frozenset(sources & context.roots | new), frozenset(new))


def _elementwise_task(value: Value, context: TaskGraph, expensive: bool) -> Task | None:
    """The one task that makes a value, if it is elementwise."""
    (task, *others) = context.producers[value]
    if others or task.is_copy or task.node is None or task.from_memory:
        return None
    op = task.node.op
    if op.kind is not OpKind.ELEMENTWISE or (op.expensive and not expensive):
        return None
    return task


def _recompute(
    value: Value, chain: _Chain, groups: Segments, context: TaskGraph, stored: set[Value]
) -> bool:
    """Add a value's chain to all its readers, if that pays."""
    last = chain.tasks[-1]
    readers = [
        (g, s)
        for g, segments in enumerate(groups)
        for s, segment in enumerate(segments)
        if last not in segment and value in _read(segment, context)
    ]
    saved, added = _bytes(value), sum(_bytes(source) for source in chain.new)
    for g, s in readers:
        segment = groups[g][s]
        known = _read(segment, context) | {v for t in segment for v in t.results}
        saved += _bytes(value)
        added += sum(_bytes(source) for source in chain.sources - known)
    if not readers or added >= saved:
        return False
    without = stored - {value} | chain.new
    replaced = []
    for g, s in readers:
        segment = groups[g][s]
        longer = tuple(sorted({*segment, *chain.tasks}, key=lambda t: t.position))
        if any(context.root(t.operands[i]) is value for t in segment for i in t.from_memory):
            return False
        try:
            before = _cost(segment, context, stored)
            if _cost(longer, context, without) > SLOWDOWN * before:
                return False
        except Incompatible:
            return False
        replaced.append((g, s, longer))
    for g, s, longer in replaced:
        groups[g][s] = longer
    return True


def _read(segment: Segment, context: TaskGraph) -> set[Value]:
    made = {v for task in segment for v in task.results}
    return {context.root(v) for task in segment for v in task.operands} - made


def _cost(segment: Segment, context: TaskGraph, stored: set[Value]) -> float:
    space = analyze(segment, context)
    escapes = {v for task in segment for v in task.results if v in stored}
    return nest_cost(space, escapes, choose_nest(space, escapes))


def _bytes(value: Value) -> int:
    return estimate(dense_elements(value.type)) * value.type.dtype.itemsize
