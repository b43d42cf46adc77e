"""Let a matrix product compute an operand where it loads it.

In: fusion groups in order, and the values that are stored. Out: the groups without those whose
only result is one operand of one product, and for that product the tasks that give its elements.
An operand is computed in place where that moves fewer bytes: each of its elements is needed by
at most two blocks of the product, because the other operand has few rows (or columns). The
source of that measure is that a block of a product has about 128 rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flamec.ir.graph import Value
from flamec.ir.group_analysis import analyze
from flamec.ir.group_rules import find
from flamec.ir.group_space import GroupSpace, Operand
from flamec.ir.iteration_space import Axis, Incompatible, leaves
from flamec.ir.loop_nest import LoopNest, nest_of
from flamec.ir.op import OpKind
from flamec.ir.shape import product, structurally_equal
from flamec.ir.tasks import Task, TaskGraph

BLOCK = 128  # rows or columns of a product that one block computes

Segment = tuple[Task, ...]
Absorbed = Mapping[tuple[Task, int], Segment]


@dataclass(frozen=True)
class OperandSpace:
    """The loops in which an operand's elements are computed: left, rows x depth of all batches;
    right, depth x columns. ``operand`` is the value in the space of its tasks."""

    space: GroupSpace
    nest: LoopNest
    operand: Operand


def operand_space(
    tasks: Sequence[Task], consumer: Task, position: int, context: TaskGraph
) -> OperandSpace:
    """The loops of an operand that ``tasks`` compute; Incompatible if it has none."""
    assert consumer.node is not None
    space = analyze(tasks, context)
    value = consumer.operands[position]
    operand = find(space, value)
    if not operand.computed:
        raise Incompatible("the operand is not what the tasks compute")
    contract = consumer.node.attributes["contract"][position]
    free: list[Axis] = []
    contracted: list[Axis] = []
    for axis, dims in enumerate(operand.dims):
        (contracted if axis in contract else free).extend(leaves(dims))
    rows, inner = (free, contracted) if position == 0 else (contracted, free)
    if set(space.all_axes()) != {*rows, *inner} or len({*rows, *inner}) != len([*rows, *inner]):
        raise Incompatible("the tasks run over other elements than the operand's")
    return OperandSpace(space, nest_of(space, rows, inner), operand)


def absorb_prologues(
    groups: Sequence[Sequence[Segment]], context: TaskGraph, stored: set[Value]
) -> tuple[list[list[Segment]], dict[tuple[Task, int], Segment], set[Value]]:
    """The groups that are left, what was absorbed, and the values that are still stored."""
    kept = [list(segments) for segments in groups]
    absorbed: dict[tuple[Task, int], Segment] = {}
    without = set(stored)
    for segments in groups:
        for segment in segments:
            for task in segment:
                if task.node is None or task.node.op.kind is not OpKind.CONTRACTION:
                    continue
                for position in (0, 1):
                    value = context.root(task.operands[position])
                    maker = _maker(value, kept, without)
                    if maker is None or not _pays(task, position, maker, context):
                        continue
                    if _is_read_elsewhere(value, task, position, groups, context):
                        continue
                    if _is_overwritten(maker, segment, groups, context):
                        continue
                    try:
                        operand_space(maker, task, position, context)
                    except Incompatible:
                        continue
                    kept = [s for s in kept if s != [maker]]
                    absorbed[task, position] = maker
                    without.discard(value)
    return kept, absorbed, without


def _maker(value: Value, groups: Sequence[list[Segment]], stored: set[Value]) -> Segment | None:
    """The elementwise tasks of a group whose only result is the value."""
    for segments in groups:
        if len(segments) != 1 or not any(value in task.results for task in segments[0]):
            continue
        (segment,) = segments
        plain = all(
            not t.is_copy and t.node is not None and t.node.op.kind is OpKind.ELEMENTWISE
            for t in segment
        )
        results = {v for t in segment for v in t.results if v in stored}
        return segment if plain and results == {value} else None
    return None


def _pays(consumer: Task, position: int, maker: Segment, context: TaskGraph) -> bool:
    """Whether computing an operand in the product's blocks costs less than storing it."""
    assert consumer.node is not None
    attributes, other = consumer.node.attributes, 1 - position
    used = (*attributes["contract"][other], *attributes["batch"][other])
    shape = consumer.operands[other].type.shape
    opposite = product(n for i, n in enumerate(shape) if i not in used)
    value = consumer.operands[position]
    dtype = value.type.dtype
    has_instructions = dtype.kind == "float" or dtype.itemsize == 1
    whole = product(context.root(value).type.shape)
    if not has_instructions or not structurally_equal(product(value.type.shape), whole):
        return False
    if not isinstance(opposite, int) or opposite > 2 * BLOCK:
        return False
    expensive = any(t.node is not None and t.node.op.expensive for t in maker)
    return opposite <= BLOCK or not expensive


def _is_overwritten(
    maker: Segment, consumer: Segment, groups: Sequence[Sequence[Segment]], context: TaskGraph
) -> bool:
    """Whether an input that the maker reads gets its new value before the product runs."""
    read = {context.root(operand) for task in maker for operand in task.operands}
    new = {v for i, v in context.updates.items() if context.graph.inputs[i] in read}
    order = [segment for segments in groups for segment in segments]
    between = order[order.index(maker) : order.index(consumer)]
    return any(v in new for segment in between for task in segment for v in task.results)


def _is_read_elsewhere(
    value: Value,
    consumer: Task,
    position: int,
    groups: Sequence[Sequence[Segment]],
    context: TaskGraph,
) -> bool:
    """Whether anything but one operand of the product needs the value."""
    if value in context.outputs or value in context.updates.values():
        return True
    for segments in groups:
        for segment in segments:
            if any(value in task.results for task in segment):
                continue
            for task in segment:
                for number, operand in enumerate(task.operands):
                    same = task is consumer and number == position
                    if not same and context.root(operand) is value:
                        return True
    return False
