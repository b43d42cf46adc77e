"""Products that the runtime stores in another order than row-major.

In: the program of a product that is computed in panels, whose only epilogue is to store the result
in another order, or a product alone. Out: the same without an epilogue, if the runtime's product
can put its sums where they go (channels first, for a convolution whose rows are the places of an
image and whose columns are the channels); or with its operands exchanged, because the right one is
copied to panels.
"""

from __future__ import annotations

from dataclasses import replace

from flamec.ir.kernel import Contraction, Linear, Load, ResultSteps, RowProgram, Store
from flamec.ir.matrix_layout import MOST_STEPS
from flamec.ir.shape import Dim, structurally_equal

LANES = 16  # of a vector
MOST_SUMS = 9216  # elements of a product that may be summed along its depth instead


def stored_directly(program: RowProgram) -> RowProgram:
    """The program without its epilogue; itself where that does more, or rows are not neighbours."""
    c = program.contraction
    if c is None or not c.is_uneven or c.result >= 0 or not structurally_equal(c.batch, 1):
        return program
    if len(program.passes) != 1 or program.passes[0].row or program.after or program.imports:
        return program
    match program.passes[0].element:
        case (Load() as load, Store() as store):
            pass
        case _:
            return program
    place = store.place
    if load.place.parameter >= 0 or load.place.at != _row_major(program):
        return program
    if store.operand != load.name or store.combine or place.indices or place.guards:
        return program
    if {load.memory, store.memory} != {c.memory} or not place.at.rows:
        return program
    if not structurally_equal(place.at.rows[-1], 1) or structurally_equal(place.at.inner[-1], 1):
        return program
    down = tuple((l.size, s) for l, s in zip(program.rows, place.at.rows, strict=True))
    across = tuple((l.size, s) for l, s in zip(program.inner, place.at.inner, strict=True))
    if max(len(down), len(across)) > MOST_STEPS:
        return program
    stored = ResultSteps(place.at.offset, down, across)
    return replace(
        program, passes=(), contraction=replace(c, result=place.parameter, stored=stored)
    )


def exchanged(c: Contraction) -> Contraction:
    """A product alone, transposed where single elements of its right operand are read better than
    it is copied: where few of its columns are neighbours, as windows of an image with channels
    first, whose product with a gradient is the gradient of a kernel."""
    left, right = c.left.uneven, c.right.uneven
    if left is None or right is None or c.result < 0 or not structurally_equal(c.batch, 1):
        return c
    sizes = (c.rows, c.columns)
    if not all(isinstance(size, int) for size in sizes) or c.rows * c.columns <= MOST_SUMS:
        return c
    apart = right.free and right.free[-1][1] == 1 and not _is_at_least(right.free[-1][0], LANES)
    along = right.contracted and right.contracted[-1][1] == 1
    if not (apart and along and _is_at_least(c.rows, LANES) and _is_at_least(c.columns, LANES)):
        return c
    stored = ResultSteps(0, ((c.columns, 1),), ((c.rows, c.columns),))
    return replace(c, rows=c.columns, columns=c.rows, left=c.right, right=c.left, stored=stored)


def _is_at_least(size: Dim, bound: int) -> bool:
    return isinstance(size, int) and size >= bound


def _row_major(program: RowProgram) -> Linear:
    strides: list[Dim] = []
    stride: Dim = 1
    for loop in reversed((*program.rows, *program.inner)):
        strides.insert(0, stride)
        stride = stride * loop.size
    count = len(program.rows)
    return Linear(0, tuple(strides[:count]), tuple(strides[count:]))
