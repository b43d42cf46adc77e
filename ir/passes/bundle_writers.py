"""One kernel for elementwise groups that stand side by side at the end of a program.

In: groups while fusion is under way. Out: a bundle of those that nothing needs and that move much
more than any merge with their producers would save: the parameters of an optimizer's step.
"""

from __future__ import annotations

from collections.abc import Callable

from flamec.ir.estimates import value_bytes
from flamec.ir.op import OpKind
from flamec.ir.passes.fusion_state import FusionState, WorkingGroup

BUNDLE_SHARE = 4  # a bundled writer moves at least so many times what merging would save


def bundle_writers(
    state: FusionState, is_uniform: Callable[[WorkingGroup], bool], most_scalars: int
) -> list[tuple[WorkingGroup, WorkingGroup]]:
    """Make the bundle, if there is one; the first writer with each of the others.

    Scalars (``is_uniform``) that only they need, or that nobody needs (a count of steps), go with
    them, up to ``most_scalars`` operations.
    """
    writers = [g for g in state.groups() if not is_uniform(g) and _is_writer(state, g)]
    writers.sort(key=lambda g: (g.size > 1, g.position))
    if len(writers) < 2:
        return []
    ends = set(writers)
    shared: list[WorkingGroup] = []
    room = most_scalars
    for group in reversed(state.in_order()):
        if group in ends or not is_uniform(group) or not state.successors(group) <= ends:
            continue
        if group.size <= room and _is_read_plainly(state, group):
            room -= group.size
            ends.add(group)
            shared.append(group)
    state.bundle(writers, shared)
    return [(writers[0], group) for group in writers[1:]]


def _is_writer(state: FusionState, group: WorkingGroup) -> bool:
    if not group.pointwise or state.has_successors(group):
        return False
    read = state.inputs(group.tasks)
    moved = sum(map(value_bytes, read)) + sum(map(value_bytes, state.escapes_of(group)))
    saved = 0
    for value in read:
        producer = state.owner_of(value)
        if producer is not None and value.type.shape:
            saved += value_bytes(value) * (1 if state.is_result(value) else 2)
    return moved >= BUNDLE_SHARE * saved


def _is_read_plainly(state: FusionState, scalars: WorkingGroup) -> bool:
    """Whether others need the results of ``scalars`` for elementwise operations only."""
    inside = set(scalars.tasks)
    return all(
        reader.kind is OpKind.ELEMENTWISE
        for task in scalars.tasks
        for value in task.results
        for reader in state.reading(value)
        if reader not in inside
    )
