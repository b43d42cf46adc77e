"""Let a matrix product compute an operand where it loads it.

In: fusion groups in order, and the values that are stored. Out: the groups without those whose
only result is one operand of one product, and for that product the tasks that give its elements.
An operand is computed in place where that moves fewer bytes: each of its elements is needed by
at most two blocks of the product, because the other operand has few rows (or columns). The
source of that measure is that a block of a product has about 128 rows and columns.

A copy that only arranges memory for products, such as the windows of a convolution, is left out
where all products can look elements up: they are more than there are in memory, or lie next to
each other in runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flamec.ir.graph import Value
from flamec.ir.group_analysis import analyze
from flamec.ir.group_rules import find
from flamec.ir.group_space import GroupSpace, Operand
from flamec.ir.iteration_space import Incompatible, leaves
from flamec.ir.layout import is_view
from flamec.ir.loop_nest import LoopNest, nest_of
from flamec.ir.memory_order import all_addresses
from flamec.ir.op import OpKind
from flamec.ir.shape import is_multiple, product, structurally_equal
from flamec.ir.tasks import Task, TaskGraph

BLOCK = 128  # rows or columns of a product that one block computes
REPEATED = 2  # copies of an element from which on it is better looked up where it is
RUN = 16  # bytes next to each other that a thread loads at once

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
    batch = consumer.node.attributes["batch"][position]
    rest = [i for i in range(len(operand.dims)) if i not in (*contract, *batch)]
    free = leaves(axis for i in (*batch, *rest) for axis in operand.dims[i])
    contracted = leaves(axis for i in contract for axis in operand.dims[i])
    rows, inner = (free, contracted) if position == 0 else (contracted, free)
    if set(space.all_axes()) != {*rows, *inner} or len({*rows, *inner}) != len([*rows, *inner]):
        raise Incompatible("the tasks run over other elements than the operand's")
    return OperandSpace(space, nest_of(space, rows, inner), operand)


def absorb_prologues(
    groups: Sequence[Sequence[Segment]], context: TaskGraph, stored: set[Value]
) -> tuple[list[list[Segment]], dict[tuple[Task, int], Segment], set[Value]]:
    """The groups that are left, what was absorbed, and the values that are still stored."""
    places = _Places(groups, context)
    absorbed: dict[tuple[Task, int], Segment] = {}
    without = set(stored)
    products = [
        task
        for segments in groups
        for segment in segments
        for task in segment
        if task.node is not None and task.node.op.kind is OpKind.CONTRACTION
    ]
    for arranges in (True, False):  # what is looked up and what is computed do not meet
        for task, position in ((t, p) for t in products for p in (0, 1)):
            value = context.root(task.operands[position])
            maker = places.maker(value, without)
            if maker is None or _arranges(maker) is not arranges:
                continue
            beside = absorbed.get((task, 1 - position))
            if not arranges and beside is not None and _arranges(beside):
                continue
            readers = places.operands_of_products(value, maker)
            if readers is None or not _may_absorb(maker, readers, places, context):
                continue
            places.absorbed.add(maker)
            absorbed.update(dict.fromkeys(readers, maker))
            without.discard(value)
    kept = [list(s) for s in groups if len(s) > 1 or s[0] not in places.absorbed]
    return kept, absorbed, without


class _Places:
    """Where values are made and read. ``absorbed``: the segments that have no group any more."""

    def __init__(self, groups: Sequence[Sequence[Segment]], context: TaskGraph) -> None:
        self.absorbed: set[Segment] = set()
        self.results = {*context.outputs, *context.updates.values()}
        self.new = {context.graph.inputs[i]: v for i, v in context.updates.items()}
        self.order = [segment for segments in groups for segment in segments]
        self.position: dict[Task, int] = {}  # of the segment, in execution order
        self._alone: dict[Value, Segment] = {}  # the only segment of the first group that makes it
        self._readers: dict[Value, list[tuple[int, Task, int]]] = {}
        for segments in groups:
            if len(segments) == 1:
                for value in (v for task in segments[0] for v in task.results):
                    self._alone.setdefault(value, segments[0])
        for number, segment in enumerate(self.order):
            for task in segment:
                self.position.setdefault(task, number)
                for place, operand in enumerate(task.operands):
                    root = context.root(operand)
                    self._readers.setdefault(root, []).append((number, task, place))

    def maker(self, value: Value, stored: set[Value]) -> Segment | None:
        """The elementwise tasks, or the view, of a group whose only result is the value."""
        segment = self._alone.get(value)
        if segment is None or segment in self.absorbed:
            return None
        plain = all(t.kind is OpKind.ELEMENTWISE for t in segment)
        results = {v for t in segment for v in t.results if v in stored}
        return segment if (plain or _arranges(segment)) and results == {value} else None

    def operands_of_products(self, value: Value, maker: Segment) -> list[tuple[Task, int]] | None:
        """All readers of a value, by the positions of their operands; None if others need it."""
        if value in self.results:
            return None
        found = []
        for number, task, position in self._readers.get(value, ()):
            if self.order[number] == maker:
                continue
            if task.node is None or task.node.op.kind is not OpKind.CONTRACTION:
                return None
            found.append((task, position))
        return found


def _may_absorb(
    maker: Segment,
    readers: Sequence[tuple[Task, int]],
    places: _Places,
    context: TaskGraph,
) -> bool:
    """Whether all readers can compute the operand, and whether that pays."""
    arranges = _arranges(maker)
    if not arranges and len(readers) > 1:
        return False
    if arranges and not _is_better_looked_up(maker[0], context):
        return False
    for task, position in readers:
        if not _has_instructions(task, position, context):
            return False
        if not arranges and not _pays(task, position, maker):
            return False
        if _is_overwritten(maker, task, places, context):
            return False
        try:
            operand_space(maker, task, position, context)
        except Incompatible:
            return False
    return True


def _arranges(maker: Segment) -> bool:
    """Whether the tasks are a view that was to be copied."""
    return len(maker) == 1 and maker[0].node is not None and is_view(maker[0].node)


def _is_better_looked_up(task: Task, context: TaskGraph) -> bool:
    value = task.results[0]
    source = context.root(task.operands[0])
    have, wanted = product(source.type.shape), product(value.type.shape)
    if isinstance(have, int) and isinstance(wanted, int) and wanted >= REPEATED * have > 0:
        return True
    space = analyze((task,), context)
    addresses = all_addresses(space, set())
    if not addresses:
        return False  # of a constant, which is nowhere in memory
    strides = addresses[0].strides()
    least = RUN // value.type.dtype.itemsize
    runs = [axis.size for axis, s in strides.items() if structurally_equal(s, 1)]
    others = [s for s in strides.values() if not structurally_equal(s, 1)]
    return bool(runs) and all(is_multiple(d, least) for d in (runs[0], *others))


def _has_instructions(consumer: Task, position: int, context: TaskGraph) -> bool:
    """Whether there are instructions for products of all that a value's memory would hold."""
    value = consumer.operands[position]
    dtype = value.type.dtype
    whole = product(context.root(value).type.shape)
    suits = dtype.kind == "float" or dtype.itemsize == 1
    return suits and structurally_equal(product(value.type.shape), whole)


def _pays(consumer: Task, position: int, maker: Segment) -> bool:
    """Whether computing an operand in the product's blocks costs less than storing it."""
    assert consumer.node is not None
    attributes, other = consumer.node.attributes, 1 - position
    used = (*attributes["contract"][other], *attributes["batch"][other])
    shape = consumer.operands[other].type.shape
    opposite = product(n for i, n in enumerate(shape) if i not in used)
    if not isinstance(opposite, int) or opposite > 2 * BLOCK:
        return False
    expensive = any(t.node is not None and t.node.op.expensive for t in maker)
    return opposite <= BLOCK or not expensive


def _is_overwritten(maker: Segment, reader: Task, places: _Places, context: TaskGraph) -> bool:
    """Whether an input that the maker reads gets its new value before the product runs."""
    read = {context.root(operand) for task in maker for operand in task.operands}
    new = {places.new[v] for v in read if v in places.new}
    if not new:
        return False
    between = places.order[places.position[maker[0]] : places.position[reader]]
    return any(v in new for segment in between for task in segment for v in task.results)
