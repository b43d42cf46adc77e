"""Programs for classes of sizes, among which a step in C chooses when it runs.

In: a group whose sizes are symbols, its loops for typical sizes, and the part that was lowered
from them. Out: the part with versions of it, whose loops are estimated to be faster where sizes are
small or large. Invariants: all versions store the same values in the same buffers, and which one
runs depends on the sizes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from itertools import product as combinations

from flamec.codegen.schedule import ROWS_SIDE_BY_SIDE, is_few, propose
from flamec.ir.estimates import typical_sizes
from flamec.ir.graph import Value
from flamec.ir.group_space import GroupSpace
from flamec.ir.iteration_space import Incompatible
from flamec.ir.kernel import SIZE_BORDERS, Part
from flamec.ir.loop_nest import (
    LoopNest,
    Scope,
    choose_nest,
    nest_cost,
    strips_cost,
    with_rows_as_lanes,
)
from flamec.ir.memory_order import accesses, extent
from flamec.ir.op import OpKind
from flamec.ir.shape import symbols_of

TYPICAL = (4, 24, 64, 4096)  # of the classes between the borders
GAIN = 1.25  # by which a version is estimated to be faster
WHOLE = 64  # sizes from a vector up to this may have the same loops, but other blocks
ROW = 16  # a row of few elements that are stored
LANES = 8  # a row's lanes are folded at its end
FEW = 64  # the same where a row is hardly more than that
FEW_APART = 1.5  # where few elements of rows that are not neighbours are loaded
POSITIONS = 128  # the same where positions are folded, too
WAIT = 32  # a row shorter than a vector is added to memory that the row before has just written
ENDS = 3  # elements' worth, for each result of a fold over rows: its parts are cleared and added up
MOST_SYMBOLS = 3  # for which all combinations of classes are looked at
_SAME_LOOPS = (OpKind.CONTRACTION, OpKind.SCAN, OpKind.SCATTER)  # whatever the sizes
_ENDS = (Scope.ALL, Scope.ROWS, Scope.COLUMN)  # folds that something outside of the loops ends

assert len(TYPICAL) == len(SIZE_BORDERS) + 1


def with_versions(
    space: GroupSpace,
    stored: set[Value],
    general: LoopNest,
    part: Part,
    build: Callable[[LoopNest], Part],
) -> Part:
    """``part``, with versions where other loops than those of ``general`` are worth it.

    ``build`` lowers the same tasks with other loops into the same kernel.
    """
    symbols = sorted({s for axis in space.all_axes() for s in symbols_of(axis.size)})
    if not 1 <= len(symbols) <= MOST_SYMBOLS or part.results or not _has_versions(space):
        return part
    built = {_loops(general): part}
    versions: dict[Hashable, Part] = {(_loops(general), propose(part.program)): part}
    numbers = []
    nests: dict[tuple[int, ...], LoopNest] = {}
    for sizes in combinations(TYPICAL, repeat=len(symbols)):
        typical = dict(zip(symbols, sizes, strict=True))
        loops_like = sizes
        if len(symbols) == MOST_SYMBOLS:  # where there are many combinations
            loops_like = tuple(max(n, WHOLE) if n > LANES else n for n in sizes)
        if loops_like not in nests:
            with typical_sizes(dict(zip(symbols, loops_like, strict=True))):
                nests[loops_like] = _faster(space, stored, general)
        loops = _loops(nests[loops_like])
        with typical_sizes(typical):
            if loops not in built:
                built[loops] = build(nests[loops_like])
            key = loops, propose(built[loops].program)
        if key not in versions:
            versions[key] = replace(built[loops], typical=tuple(typical.items()))
        numbers.append([*versions].index(key))
    others = tuple(versions.values())[1:]
    if not others:
        return part
    return replace(part, versions=others, symbols=tuple(symbols), chosen=tuple(numbers))


def nest_in_c(space: GroupSpace, stored: set[Value], general: LoopNest) -> LoopNest:
    """The loops of a group whose loops would otherwise be ``general``; of those of symbolic sizes
    the ones from which versions differ."""
    if not _has_versions(space):
        return general
    if any(scope in _ENDS[:2] for scope in general.scope.values()):
        return general
    return _faster(space, stored, general)


def _has_versions(space: GroupSpace) -> bool:
    return not {task.kind for task in space.tasks} & {*_SAME_LOOPS}


def _faster(space: GroupSpace, stored: set[Value], general: LoopNest) -> LoopNest:
    """The loops for the sizes that are typical now, if they are much better than ``general``."""
    try:
        nest = choose_nest(space, stored, cost_in_c)
    except Incompatible:  # for these sizes only: an axis of one element, say
        return general
    if any(scope in _ENDS for scope in nest.scope.values()):
        return general
    if not nest.scope and _has_few_to_store(space, stored, nest):
        nest = with_rows_as_lanes(space, stored, nest)
    cost, now = (cost_in_c(space, stored, n) for n in (nest, general))
    return nest if GAIN * cost < now else general


def cost_in_c(space: GroupSpace, stored: set[Value], nest: LoopNest) -> float:
    """``nest_cost``, with what a row costs whatever its length in elements of a plain loop."""
    few = _is_few(space, stored, nest)
    if nest.along_rows:
        if few:  # nothing is kept for strips
            return nest_cost(space, stored, nest, FEW_APART) / strips_cost(nest)
        return nest_cost(space, stored, nest) + ROWS_SIDE_BY_SIDE
    cost = nest_cost(space, stored, nest)
    if not nest.scope and few:
        cost += extent(nest.rows) * ROW
    for task, scope in nest.scope.items():
        if scope is Scope.ROW:
            assert task.node is not None
            at_end = FEW if few and extent(nest.inner[-1:]) <= SIZE_BORDERS[0] else LANES
            cost += extent(nest.rows) * (at_end if task.node.op.associative else POSITIONS)
        elif scope is Scope.COLUMN:
            cost += extent(nest.inner) * ENDS
            if extent(nest.inner) < SIZE_BORDERS[0]:
                cost += extent(nest.rows) * WAIT
    return cost


def _has_few_to_store(space: GroupSpace, stored: set[Value], nest: LoopNest) -> bool:
    """Whether a row without folds is a few elements, of which neighbouring rows have each at
    neighbouring or every second place: an image of twice the size, or pairs."""
    if not nest.rows or not nest.inner or nest.flat or not _is_few(space, stored, nest):
        return False
    found = [address.strides() for address, _ in accesses(space, stored)]
    return all(steps.get(nest.rows[-1], 0) in (0, 1, 2) for steps in found)


def _is_few(space: GroupSpace, stored: set[Value], nest: LoopNest) -> bool:
    if any(task.node is not None and task.node.op.expensive for task in space.tasks):
        return False
    found = [address.strides() for address, _ in accesses(space, stored)]
    strides = [[steps.get(axis, 0) for axis in nest.inner] for steps in found]
    return is_few([axis.size for axis in nest.inner], strides)


def _loops(nest: LoopNest) -> Hashable:
    return tuple(nest.rows), tuple(nest.inner), nest.along_rows, nest.flat
