"""Elementwise programs over rows of few elements: rows and elements become one loop.

In: a row program whose rows do not fill the columns that a block has at least (pixels of three
channels, say). Out: the same over the elements of all rows, in the order of memory, so that
neighbouring threads have neighbouring elements and no thread is idle. Where an element stands in
its row is then found by dividing by the row's size, which is a constant.
"""

from __future__ import annotations

from dataclasses import replace

from flamec.codegen.options import power_of_two
from flamec.codegen.triton.tiling import LEAST_COLUMNS, MOST_IDLE
from flamec.ir.kernel import (
    CheckedIndex,
    Compute,
    Constant,
    Linear,
    Load,
    Pass,
    Place,
    Position,
    RowProgram,
    Statement,
    Store,
)
from flamec.ir.shape import product

_PLAIN = (Constant, Compute, CheckedIndex)


def with_narrow_rows_joined(program: RowProgram) -> RowProgram:
    """See the module's docstring; the program itself where its rows are no narrow ones."""
    count = 0
    while count < len(program.rows) and _is_narrow(program, count):
        count += 1
    if not count or not _is_elementwise(program):
        return program
    kept = len(program.rows) - count
    return replace(
        program,
        kind="rows" if kept else "flat",
        rows=program.rows[:kept],
        inner=(*program.rows[kept:], *program.inner),
        passes=tuple(
            Pass((), tuple(_moved(s, kept) for s in (*block.row, *block.element)))
            for block in program.passes
        ),
    )


def _is_narrow(program: RowProgram, joined: int) -> bool:
    """Whether rows are, with so many of the loops over rows inside, too narrow for a block."""
    loops = (*program.rows[len(program.rows) - joined :], *program.inner)
    size = product(loop.size for loop in loops)
    if not isinstance(size, int) or not 1 < size < LEAST_COLUMNS:
        return False
    return joined > 0 or power_of_two(size) > MOST_IDLE * size


def _is_elementwise(program: RowProgram) -> bool:
    """Whether each element is computed alone, and stored where it stands in memory."""
    if program.kind != "rows" or program.contraction is not None or program.after:
        return False
    if len(program.passes) != 1:
        return False
    for s in program.statements():
        if isinstance(s, (Load, Store)):
            beside = s.place.at.inner[-1:] in ((0,), (1,), (-1,))
            if not beside or (isinstance(s, Store) and (s.combine or s.place.indices)):
                return False
        elif not isinstance(s, (Position, *_PLAIN)):
            return False
    return True


def _moved(s: Statement, kept: int) -> Statement:
    if isinstance(s, (Load, Store)):
        return replace(s, place=_place(s.place, kept))
    if isinstance(s, Position):
        return replace(s, at=_linear(s.at, kept))
    return s


def _place(place: Place, kept: int) -> Place:
    guards = tuple((_linear(index, kept), size) for index, size in place.guards)
    return replace(place, at=_linear(place.at, kept), guards=guards)


def _linear(at: Linear, kept: int) -> Linear:
    return Linear(at.offset, at.rows[:kept], (*at.rows[kept:], *at.inner))
