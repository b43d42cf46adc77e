"""Compute cheap values again instead of storing and loading them.

In: fusion groups in order. Out: the groups, some with a task that another group has,
too. A value is computed again by all its readers if it is one elementwise operation on
what is in memory anyway, and if that moves fewer bytes. A task then belongs to several
groups; its value needs no memory.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def recompute_cheap_values(groups: Segments, context: TaskGraph) -> Segments:
    """See the module's docstring; large values first. Groups that nothing is left of are gone."""
    changed = True
    while changed:
        changed = False
        stored = stored_values(groups, context)
        for value in sorted(stored & _candidates(context, stored), key=lambda v: -_bytes(v)):
            if _recompute(value, groups, context, stored):
                stored.discard(value)
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


def _candidates(context: TaskGraph, stored: set[Value]) -> set[Value]:
    results = {*context.outputs, *context.updates.values()}
    found = set()
    for value, tasks in context.producers.items():
        (task, *others) = tasks
        if others or value in results or task.is_copy or task.node is None:
            continue
        op = task.node.op
        if op.kind is not OpKind.ELEMENTWISE or op.expensive or not value.type.shape:
            continue
        roots = {context.root(operand) for operand in task.operands}
        if all(r in stored or r not in context.producers for r in roots):
            found.add(value)
    return found


def _recompute(value: Value, groups: Segments, context: TaskGraph, stored: set[Value]) -> bool:
    """Add the value's task to all its readers, if that pays."""
    (task,) = context.producers[value]
    readers = [
        (g, s)
        for g, segments in enumerate(groups)
        for s, segment in enumerate(segments)
        if task not in segment and value in _read(segment, context)
    ]
    saved, added = _bytes(value), 0
    sources = {context.root(v) for v in task.operands} & context.roots
    for g, s in readers:
        segment = groups[g][s]
        known = _read(segment, context) | {v for t in segment for v in t.results}
        saved += _bytes(value)
        added += sum(_bytes(source) for source in sources - known)
    if not readers or added >= saved:
        return False
    without = stored - {value}
    replaced = []
    for g, s in readers:
        segment = groups[g][s]
        longer = tuple(sorted((*segment, task), key=lambda t: t.position))
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
