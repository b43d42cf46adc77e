"""Divide the axes of a group between rows and the inside of a row.

A fused kernel is a *row program*: for each row (``rows``, in parallel) it makes
one or more passes over the row's elements (``inner``). A reduction over exactly
the inner axes gives a row value that later passes use; one over the row axes,
or over everything, is finished only after the last row. ``Incompatible`` says
why no division serves all reductions of a group.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from flamec.ir.graph import Value
from flamec.ir.group_space import GroupSpace, Operand, is_assembled
from flamec.ir.iteration_space import Axis, Incompatible, leaves
from flamec.ir.memory_order import accesses, even_run, extent, memory_order
from flamec.ir.op import OpKind
from flamec.ir.shape import product, structurally_equal
from flamec.ir.tasks import Task

SHORT_ROW = 1 << 15  # elements that one thread may fold alone
FEW_ROWS = 64
UNKNOWN_ROW = 1.1  # what a lone row of symbolic size costs beside a flat loop of that size
ALONG = "along rows"
APART = 8.0  # what lanes that are not neighbours cost beside others
FLAT_BLOCK = 4096  # elements of one block of a flat loop
LANES = 128  # rows side by side in a block of a device
BLOCK_ELEMENTS = 1 << 16  # that one such block may work on for as long as a launch takes


class Level(enum.IntEnum):
    """How often a value is computed."""

    UNIFORM = 0  # once
    ROW = 1  # for each row
    ELEMENT = 2  # for each element
    POST_UNIFORM = 3  # once, after the last row
    POST_COLUMN = 4  # for each element of one row, after the last row


class Scope(enum.Enum):
    """What a reduction folds."""

    NOTHING = "nothing"  # only dimensions of size 1
    ROW = "row"  # the elements of a row
    COLUMN = "column"  # the rows: one result for each inner element
    ALL = "all"  # rows and elements
    ROWS = "rows"  # row values over all rows


@dataclass
class LoopNest:
    """The division, and for each value where it is computed.

    ``stage`` counts the passes over a row that must be finished before. ``along_rows``: the
    vector runs along the last row axis instead of the last inner one, and each lane is a row.
    ``flat``: there are no row axes, and blocks of the inner elements take their place.
    """

    rows: list[Axis]
    inner: list[Axis]
    along_rows: bool = False
    flat: bool = False
    level: dict[Value, Level] = field(default_factory=dict)
    stage: dict[Value, int] = field(default_factory=dict)
    scope: dict[Task, Scope] = field(default_factory=dict)

    @cached_property
    def _row_axes(self) -> frozenset[Axis]:
        return frozenset(self.rows)

    @cached_property
    def _inner_axes(self) -> frozenset[Axis]:
        return frozenset(self.inner)

    def level_of(self, axes: Collection[Axis]) -> Level:
        """How often something is computed that differs along ``axes``."""
        if not self._inner_axes.isdisjoint(axes):
            return Level.ELEMENT
        return Level.UNIFORM if self._row_axes.isdisjoint(axes) else Level.ROW


NestCost = Callable[[GroupSpace, set[Value], LoopNest], float]


def idle_share(nest: LoopNest, blocks: int) -> float:
    """How many of the blocks that a device wants there are for each one that it gets.

    Rows that are only folded can be divided; where passes follow, a block has whole rows.
    """
    if not any(stage > 0 and nest.level[v] is Level.ELEMENT for v, stage in nest.stage.items()):
        return 1.0
    rows, inner = extent(nest.rows), extent(nest.inner)
    wide = min(rows, LANES) if nest.along_rows else 1
    if inner * wide <= BLOCK_ELEMENTS:
        return 1.0
    return max(1.0, blocks * wide / max(rows, 1))


# choosing ----------------------------------------------------------------------------
def choose_nest(
    space: GroupSpace, escapes: set[Value], cost_of: NestCost | None = None, decided: bool = False
) -> LoopNest:
    """The division of a group's axes that suits its reductions best: of the least ``cost_of``
    (``nest_cost``). ``decided``: the group has one, perhaps by the order of something that it
    stored when it was made, and another group stores now."""
    cost_of = cost_of or nest_cost
    _check_anchors(space)
    contraction = _product_of(space)
    if contraction is not None:
        return _panel_nest(space, contraction, escapes)
    ordered = next((t for t in space.tasks if _is_ordered(t)), None)
    if ordered is not None:
        return _ordered_nest(space, ordered, escapes)
    order = memory_order(space, escapes)
    folds = [t for t in space.tasks if is_fold(space, t)]
    folded = [frozenset(_folded_axes(space, t)) for t in folds]
    folded = [axes for axes in folded if axes]
    split = len(order) - even_run(space, escapes, order)
    if not folded:
        try:
            return _nest(space, escapes, order[:split], order[split:], flat=split == 0)
        except Incompatible:
            found = _nest_of_stored_rows(space, escapes, order) if decided else None
            if found is None:
                raise
            return found
    everything = frozenset(order)
    candidates: dict[tuple[frozenset[Axis], str], None] = {}
    for axes in folded:
        candidates[(axes, "")] = None
        if axes != everything:
            candidates[(axes, ALONG)] = None
            candidates[(everything - axes, "")] = None
    candidates[(frozenset(order[split:]), "" if split else "flat")] = None
    best: tuple[float, LoopNest] | None = None
    reason = Incompatible("no order of loops serves all its reductions")
    for chosen, form in candidates:
        rows = [a for a in order if a not in chosen]
        inner = [a for a in order if a in chosen]
        try:
            nest = _nest(space, escapes, rows, inner, form == ALONG, form == "flat")
        except Incompatible as error:
            reason = error
            continue
        cost = cost_of(space, escapes, nest)
        if best is None or cost < best[0]:
            best = (cost, nest)
    if best is None:
        raise reason
    return best[1]


def _nest_of_stored_rows(
    space: GroupSpace, escapes: set[Value], order: list[Axis]
) -> LoopNest | None:
    """The first nest whose rows are the elements of something that is stored."""
    for task in space.tasks:
        if escapes.isdisjoint(task.results):
            continue
        axes = set(leaves(axis for dim in space.task_dims[task] for axis in dim))
        rows, inner = ([a for a in order if (a in axes) is there] for there in (True, False))
        try:
            return _nest(space, escapes, rows, inner)
        except Incompatible:
            continue
    return None


def _check_anchors(space: GroupSpace) -> None:
    """A product, a scan and a scatter each have loops of their own."""
    kinds = {t.kind for t in space.tasks if _is_ordered(t) or t.kind is OpKind.CONTRACTION}
    if len(kinds) > 1:
        raise Incompatible("a product, a scan and a scatter each have loops of their own")


def _product_of(space: GroupSpace) -> Task | None:
    return next((t for t in space.tasks if t.kind is OpKind.CONTRACTION), None)


def _is_ordered(task: Task) -> bool:
    return task.kind is OpKind.SCAN or (task.kind is OpKind.SCATTER and not task.one_per_row)


def is_fold(space: GroupSpace, task: Task) -> bool:
    return task.kind is OpKind.REDUCTION or task in space.picks


def _folded_axes(space: GroupSpace, task: Task) -> list[Axis]:
    assert task.node is not None
    dims = space.operands[task][0].dims
    if task in space.picks:
        return leaves(dims[-1])
    return leaves(axis for i in task.node.attributes["axes"] for axis in dims[i])


def nest_cost(
    space: GroupSpace, escapes: set[Value], nest: LoopNest, apart: float = APART
) -> float:
    """Elements touched, made dearer by what keeps lanes or threads idle; ``apart``: by lanes that
    are not neighbours in memory."""
    rows, inner = extent(nest.rows), extent(nest.inner)
    known = isinstance(product(axis.size for axis in nest.inner), int)
    lane = (nest.rows if nest.along_rows else nest.inner)[-1:]
    work = float(max(rows, 1) * max(inner, 1))
    if lane:
        uneven = total = 0.0
        for address, weight in accesses(space, escapes):
            strides = address.strides()
            if strides.keys().isdisjoint(nest.inner):  # once for each row
                weight /= max(inner, 1)
            total += weight
            stride = strides.get(lane[0], 0)
            if not structurally_equal(stride, 0) and not structurally_equal(stride, 1):
                uneven += weight
        work *= 1 + apart * uneven / (total or 1)
        work *= 1 + 8 / max(extent(lane), 1)
    scopes = set(nest.scope.values())
    if Scope.COLUMN in scopes:
        work *= 1.2
        if inner > SHORT_ROW or (rows < FEW_ROWS and rows * inner > SHORT_ROW):
            work *= 3
    if nest.along_rows:
        work *= strips_cost(nest)
    if rows <= 2 and not nest.along_rows and Scope.ROW in scopes:
        # One thread has all of it, and a row of symbolic size may be long.
        work *= 4 if inner > SHORT_ROW else 1 if known else UNKNOWN_ROW
    if nest.flat and known and inner <= FLAT_BLOCK:
        work *= 2
    return work


def strips_cost(nest: LoopNest) -> float:
    """By what a nest along rows is dearer: it takes strips of memory, not all of it in order."""
    return 2 if extent(nest.rows[-1:]) < 1024 else 1.3


# levels ------------------------------------------------------------------------------
def _nest(
    space: GroupSpace,
    escapes: set[Value],
    rows: list[Axis],
    inner: list[Axis],
    along_rows: bool = False,
    flat: bool = False,
) -> LoopNest:
    nest = LoopNest(rows, inner, along_rows, flat)
    _assign_levels(space, nest)
    _check_repetition(space, nest, escapes)
    together = (Scope.COLUMN, Scope.ALL, Scope.ROWS)
    if along_rows and any(scope in together for scope in nest.scope.values()):
        raise Incompatible("lanes that are rows cannot be folded together")
    return nest


def nest_of(space: GroupSpace, rows: list[Axis], inner: list[Axis]) -> LoopNest:
    """The nest with these loops, where nothing is stored; Incompatible if there is none."""
    return _nest(space, set(), rows, inner)


def with_rows_as_lanes(space: GroupSpace, escapes: set[Value], nest: LoopNest) -> LoopNest:
    """The nest with the same loops whose lanes are rows; Incompatible if there is none."""
    return _nest(space, escapes, nest.rows, nest.inner, along_rows=True)


def _panel_nest(space: GroupSpace, task: Task, escapes: set[Value]) -> LoopNest:
    """The nest of a matrix product: its rows, and its columns inside."""
    assert task.node is not None
    dims = space.dims[task.results[0]]
    rank = len(task.operands[1].type.shape)
    attributes = task.node.attributes
    columns = rank - len(attributes["contract"][1]) - len(attributes["batch"][1])
    split = len(dims) - columns
    rows = leaves(axis for dim in dims[:split] for axis in dim)
    inner = leaves(axis for dim in dims[split:] for axis in dim)
    if len(space.tasks) > 1:
        if not inner:
            raise Incompatible("the product has a single column")
        if set(space.all_axes()) != {*rows, *inner}:
            raise Incompatible("its loops go beyond the product's rows and columns")
    return _nest(space, escapes, rows, inner)


def _ordered_nest(space: GroupSpace, task: Task, escapes: set[Value]) -> LoopNest:
    """A scan steps along its axis, rows side by side; a scatter takes its indices in order."""
    assert task.node is not None
    if task.kind is OpKind.SCAN:
        dims, order = space.task_dims[task], memory_order(space, escapes)
        inner = leaves(dims[task.node.attributes["axis"]])
        rows = [a for a in order if a not in inner]
        return _nest(space, escapes, rows, inner, along_rows=True)
    rows, inner = _scatter_loops(space, task)
    for other in space.tasks:
        if _is_ordered(other) and _scatter_loops(space, other) != (rows, inner):
            # Lanes are neighbours of one place; where each has a place of its own, they are not.
            raise Incompatible("the scatters have other indices for a row")
    if set(space.all_axes()) != {*rows, *inner}:
        raise Incompatible("its loops go beyond the scatter's rows and columns")
    nest = _nest(space, escapes, rows, inner)
    if nest.scope:
        raise Incompatible("folds need whole rows or all of them; a scatter takes strips of rows")
    return nest


def _scatter_loops(space: GroupSpace, task: Task) -> tuple[list[Axis], list[Axis]]:
    """What a scatter's indices differ along, and what lies at one place."""
    dims, rank = space.task_dims[task], len(task.operands[1].type.shape)
    rows = leaves(axis for dim in dims[:rank] for axis in dim)
    return rows, leaves(axis for dim in dims[rank:] for axis in dim)


def _assign_levels(space: GroupSpace, nest: LoopNest) -> None:
    for value in space.scalars:
        nest.level[value], nest.stage[value] = Level.UNIFORM, 0
    for task in space.tasks:
        operands = space.operands[task]
        if task.kind is OpKind.SCAN:
            assert task.node is not None
            stepped = leaves(space.task_dims[task][task.node.attributes["axis"]])
            if stepped and (not nest.along_rows or stepped != nest.inner):
                raise Incompatible("a scan steps along an axis of its own")
        if is_fold(space, task):
            level, stage = _fold_level(space, nest, task)
        else:
            level, stage = _joined_level(nest, space.task_axes(task), operands)
        for value in task.results:
            nest.level[value], nest.stage[value] = level, stage


def operand_level(nest: LoopNest, operand: Operand) -> tuple[Level, int]:
    """Level and stage of an operand: of its value, or of the load that gives it."""
    if operand.computed:
        return nest.level[operand.source], nest.stage[operand.source]
    axes: Collection[Axis] = operand.address.strides().keys() if operand.address else ()
    for guard in operand.guards:
        axes = {*axes, *guard.index.strides()}
    level, stage = nest.level_of(axes), 0
    for index, *_ in operand.indices:
        index_level, index_stage = operand_level(nest, index)
        level, stage = max(level, index_level), max(stage, index_stage)
    return level, stage


def _joined_level(
    nest: LoopNest, axes: Sequence[Axis], operands: Sequence[Operand]
) -> tuple[Level, int]:
    levels = [operand_level(nest, operand) for operand in operands]
    level, stage = nest.level_of(axes), 0
    for operands_level, operands_stage in levels:
        level, stage = max(level, operands_level), max(stage, operands_stage)
    if level >= Level.POST_UNIFORM:
        if any(axis in nest.rows for axis in axes):
            raise Incompatible("needs a reduction that is finished only after the last row")
        if any(level is Level.ROW for level, _ in levels):
            raise Incompatible("mixes row values with the result over all rows")
        inside = any(axis in nest.inner for axis in axes)
        if inside and any(level is Level.POST_UNIFORM for level, _ in levels):
            raise Incompatible("needs a reduction that is finished only after the last row")
        return (Level.POST_COLUMN if inside else Level.POST_UNIFORM), 0
    return level, stage


def _needs_position(task: Task) -> bool:
    return task.node is not None and not task.node.op.associative


def _fold_level(space: GroupSpace, nest: LoopNest, task: Task) -> tuple[Level, int]:
    operand = space.operands[task][0]
    folded = set(_folded_axes(space, task))
    own_level, stage = operand_level(nest, operand)
    for other in space.operands[task][1:]:
        level, other_stage = operand_level(nest, other)
        if level > Level.ROW:
            raise Incompatible("takes an element whose index is not known for each row")
        stage = max(stage, other_stage)
    if task in space.picks and folded == set(nest.inner) and can_pick(space, nest, task):
        return Level.ROW, stage
    placed = placed_value(space, task)
    if placed is not None and folded == set(nest.inner):
        return operand_level(nest, placed)
    if not folded:
        nest.scope[task] = Scope.NOTHING
        return own_level, stage
    if own_level >= Level.POST_UNIFORM:
        raise Incompatible("folds the result of another reduction over all rows")
    extent_axes = set(operand.axes())
    assert task.node is not None
    if _needs_position(task) and (nest.flat or folded != set(nest.inner)):
        raise Incompatible("finds a position, which only a fold of one row can")
    rows, inner = set(nest.rows), set(nest.inner)
    if extent_axes == rows | inner:
        if folded == rows | inner and (rows or nest.flat):
            nest.scope[task] = Scope.ALL
            return Level.POST_UNIFORM, 0
        if folded == inner:
            nest.scope[task] = Scope.ROW
            return Level.ROW, stage + 1
        if folded == rows:
            nest.scope[task] = Scope.COLUMN
            return Level.POST_COLUMN, 0
    elif extent_axes == rows and folded == rows and own_level <= Level.ROW:
        nest.scope[task] = Scope.ROWS
        return Level.POST_UNIFORM, 0
    raise Incompatible("folds other axes than the loops of the kernel")


def placed_value(space: GroupSpace, task: Task) -> Operand | None:
    """The one value of a row that a fold finds among zeros, which do not change the fold."""
    operand = space.operands[task][0]
    assert task.node is not None
    if not operand.computed or task in space.picks or not callable(task.node.op.identity):
        return None
    if task.node.op.identity(operand.source.type.dtype) != 0 or _needs_position(task):
        return None
    maker = next(t for t in space.tasks if operand.source in t.results)
    is_placed = maker.one_per_row and maker.kind is OpKind.SCATTER
    last = task.node.attributes["axes"] == (len(operand.dims) - 1,)
    return space.operands[maker][0] if is_placed and last else None


def can_pick(space: GroupSpace, nest: LoopNest, task: Task) -> bool:
    """Whether one element of a row can be computed alone: by arithmetic on loads."""
    producers = {v: t for t in space.tasks for v in t.results if not is_assembled(t)}
    pending = [space.operands[task][0]]
    while pending and len(nest.inner) == 1:
        operand = pending.pop()
        if operand.is_position or operand.guards:
            return False
        pending.extend(index for index, *_ in operand.indices)
        if not operand.computed or nest.level[operand.source] is not Level.ELEMENT:
            continue
        maker = producers[operand.source]
        if maker.kind not in (OpKind.ELEMENTWISE, OpKind.CONTRACTION):
            return False
        pending.extend(space.operands[maker])
    return len(nest.inner) == 1


def _check_repetition(space: GroupSpace, nest: LoopNest, escapes: set[Value]) -> None:
    """Nothing is stored, and nothing expensive computed, once for every row."""
    rows, everything = set(nest.rows), {*nest.rows, *nest.inner}
    for task in space.tasks:
        axes = set(space.task_axes(task))
        for value in task.results:
            level = nest.level[value]
            stored = value in escapes or task.is_copy
            if level is Level.ELEMENT:
                if stored and axes != everything:
                    raise Incompatible("would be stored again for every row")
                costly = task.node is not None and task.node.op.expensive and not task.is_copy
                if costly and not rows <= axes:
                    raise Incompatible("would be computed again for every row")
            elif level is Level.ROW:
                if stored and axes != rows:
                    raise Incompatible("would be stored again for every row")
            elif level is Level.POST_COLUMN and stored and axes != set(nest.inner):
                raise Incompatible("would be stored several times")
