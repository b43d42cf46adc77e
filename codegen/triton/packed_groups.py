"""Several small matrices of a product in one tile, where one alone would leave most of it idle.

In: a program whose contraction has a batch of matrices with few columns each, such as a convolution
whose channels come in narrow groups, and whose left operand is looked up. Out: the program with
some neighbours as one matrix: their columns side by side, their depths one behind the other, and on
the right a matrix with blocks on its diagonal, zeros elsewhere. Zeros times what is infinite or no
number would spoil the columns of neighbours: ``Contraction.blocks`` says that the product is to be
taken again, block by block, where a result is no number.
"""

from __future__ import annotations

from dataclasses import replace

from flamec.codegen.triton.product_parts import can_fuse, dense_place
from flamec.codegen.triton.product_prologue import looks_up
from flamec.ir.kernel import (
    Contraction,
    Linear,
    Load,
    Loop,
    MatrixOperand,
    Pass,
    Place,
    Position,
    Prologue,
    RandomBits,
    RowProgram,
    Statement,
    Store,
)
from flamec.ir.layout import dense_strides
from flamec.ir.shape import Dim, product, structurally_equal

FULL = 64  # columns of a tile that are worth their neighbours' zeros

BESIDE, BEHIND = "beside", "behind"  # loops over the matrices of one: of its columns, of its depth


def with_packed_groups(program: RowProgram, full: int = FULL) -> RowProgram:
    """See the module's docstring; the program itself where matrices stay alone."""
    c = program.contraction
    assert c is not None
    count = _together(program, full)
    return program if count == 1 else _packed(program, c, count)


def _together(program: RowProgram, full: int) -> int:
    """How many matrices become one."""
    c = program.contraction
    assert c is not None
    sizes = (c.batch, c.columns, c.depth)
    if not all(isinstance(size, int) for size in sizes) or not can_fuse(program):
        return 1
    batch, columns = c.batch, c.columns
    assert isinstance(batch, int) and isinstance(columns, int)
    if c.memory not in ("f16", "bf16", "f32") or program.folds("column"):
        return 1
    left, right = c.left, c.right
    if left.prologue is None or not looks_up(left.prologue) or not left.prologue.inner:
        return 1
    if not (program.rows and program.inner):
        return 1
    first = [program.rows[0].size, left.prologue.rows[0].size]
    last = [left.prologue.inner[-1].size]
    if right.prologue is not None:
        if not looks_up(right.prologue):
            return 1
        first.append(right.prologue.inner[0].size)
        last.append(right.prologue.rows[-1].size)
    elif right.uneven is not None or len(right.batch) != 1:
        return 1
    if not all(structurally_equal(size, batch) for size in first):
        return 1
    if not all(structurally_equal(size, last[0]) for size in last):
        return 1
    if not structurally_equal(product(loop.size for loop in program.inner), columns):
        return 1
    most = max(1, full // columns)
    return max(n for n in range(1, most + 1) if batch % n == 0)


def _packed(program: RowProgram, c: Contraction, count: int) -> RowProgram:
    assert isinstance(c.batch, int) and c.left.prologue is not None
    rows = (replace(program.rows[0], size=c.batch // count), *program.rows[1:])
    inner = (Loop(BESIDE, count), *program.inner)
    contraction = replace(
        c,
        batch=c.batch // count,
        columns=c.columns * count,
        depth=c.depth * count,
        left=replace(c.left, prologue=_left(c.left.prologue, count)),
        right=_right(c.right, c, count),
        result=-1,
        blocks=count,
    )
    passes = tuple(
        Pass(
            tuple(_moved_statement(s, count) for s in block.row),
            tuple(_moved_statement(s, count) for s in block.element),
        )
        for block in program.passes
    )
    if c.result >= 0:
        place = _moved(dense_place(program), count)
        store = Store(c.memory, c.lane, Place(c.result, place), "all_blocks")
        load = Load("all_blocks", c.lane, c.memory, Place(-1, place))
        passes = (Pass((), (load, store)), *passes)
    packed = replace(program, rows=rows, inner=inner, passes=passes, contraction=contraction)
    return replace(packed, passes=_product_in_place(packed, c.result))


def _product_in_place(program: RowProgram, result: int) -> tuple[Pass, ...]:
    """The passes with the product's elements where a row-major product would have them."""
    place = dense_place(program)

    def placed(s: Statement) -> Statement:
        if isinstance(s, Load) and s.place.parameter in (-1, result):
            return replace(s, place=Place(-1, place))
        return s

    return tuple(
        Pass(tuple(map(placed, block.row)), tuple(map(placed, block.element)))
        for block in program.passes
    )


def _left(prologue: Prologue, count: int) -> Prologue:
    """The depths of ``count`` matrices one behind the other, in the last loop but one, or as one
    with the last where they lie next to each other."""
    *outer, last = prologue.inner
    group, *rows = prologue.rows
    (load, *_) = (*prologue.row, *prologue.element)
    assert isinstance(load, Load) and isinstance(group.size, int)
    places = [load.place.at, *(at for at, _ in load.place.guards)]
    merged = all(
        structurally_equal(at.rows[0], at.inner[-1] * last.size)  # one loop does for both
        for at in places
    )

    def moved(at: Linear) -> Linear:
        strides = (*at.inner[:-1], at.rows[0], at.inner[-1])
        if merged:
            strides = at.inner
        return replace(at, rows=(at.rows[0] * count, *at.rows[1:]), inner=strides)

    guards = tuple((moved(at), size) for at, size in load.place.guards)
    place = replace(load.place, at=moved(load.place.at), guards=guards)
    loops = (*outer, Loop(BEHIND, count), last)
    if merged:
        loops = (*outer, replace(last, size=last.size * count))
    return replace(
        prologue,
        rows=(replace(group, size=group.size // count), *rows),
        inner=loops,
        row=(),
        element=(replace(load, place=place),),
    )


def _right(operand: MatrixOperand, c: Contraction, count: int) -> MatrixOperand:
    """Blocks on a diagonal: an element is there if its row and its column are of one matrix."""
    prologue = operand.prologue or _looked_up(operand, c)
    batch, *columns = prologue.inner
    (load, *_) = (*prologue.row, *prologue.element)
    assert isinstance(load, Load) and isinstance(batch.size, int)

    def moved(at: Linear) -> Linear:
        first = at.inner[0]
        inner = (first * count, first, *at.inner[1:])
        return replace(at, rows=(*at.rows[:-1], 0, at.rows[-1]), inner=inner)

    nowhere = (0,) * (len(prologue.rows) - 1), (0,) * len(columns)
    same = Linear(0, (*nowhere[0], 1, 0), (0, -1, *nowhere[1]))
    guards = tuple((moved(at), size) for at, size in load.place.guards)
    place = replace(load.place, at=moved(load.place.at), guards=(*guards, (same, 1)))
    diagonal = replace(
        prologue,
        rows=(*prologue.rows[:-1], Loop(BEHIND, count), prologue.rows[-1]),
        inner=(replace(batch, size=batch.size // count), Loop(BESIDE, count), *columns),
        row=(),
        element=(replace(load, place=place),),
    )
    return replace(operand, parameter=-1, prologue=diagonal)


def _looked_up(operand: MatrixOperand, c: Contraction) -> Prologue:
    """A matrix in memory as one whose elements are looked up, its depth like the other one's."""
    assert c.left.prologue is not None
    depth, lane, memory = c.left.prologue.inner, c.left.prologue.lane, c.left.prologue.memory
    ((_, apart),) = operand.batch
    steps = tuple(n * operand.contracted for n in dense_strides(tuple(l.size for l in depth)))
    place = Place(operand.parameter, Linear(operand.offset, steps, (apart, operand.free)))
    columns = (Loop("batch", c.batch), Loop("column", c.columns))
    return Prologue(
        memory, lane, "right", depth, columns, (), (Load("right", lane, memory, place),)
    )


def _moved(at: Linear, count: int) -> Linear:
    """An index over rows that start with matrices, over rows that start with ``count`` of them."""
    first: Dim = at.rows[0]
    return replace(at, rows=(first * count, *at.rows[1:]), inner=(first, *at.inner))


def _moved_place(place: Place, count: int) -> Place:
    guards = tuple((_moved(at, count), size) for at, size in place.guards)
    return replace(place, at=_moved(place.at, count), guards=guards)


def _moved_statement(s: Statement, count: int) -> Statement:
    match s:
        case Load() | Store():
            return replace(s, place=_moved_place(s.place, count))
        case Position():
            return replace(s, at=_moved(s.at, count))
        case RandomBits():
            state = _moved_place(s.state, count)
            return replace(s, at=_moved(s.at, count), state=state)
    return s
