"""Few long rows that are only folded: divided among blocks, whose results a second launch joins.

In: a row program. Out: two programs, or None where blocks of whole rows keep the device busy or
later passes need the rows again. The first has a row for each piece of a row and leaves what it
folds to; the second folds those and does what follows. Pieces are equal, so that how sums are
grouped depends on sizes alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flamec.codegen.lower.lanes import spill_type
from flamec.ir.kernel import (
    Fold,
    Keep,
    Linear,
    Load,
    Loop,
    Pass,
    Place,
    Position,
    RandomBits,
    RowProgram,
    Statement,
    Store,
)
from flamec.ir.layout import dense_strides
from flamec.ir.shape import Dim, product

ENOUGH_ROWS = 264  # blocks that keep a large device busy
PIECE = 4096  # elements that a piece has at least
PIECES = "piece"


@dataclass(frozen=True)
class SplitRows:
    """``pieces`` of a row; ``folds`` need memory for rows times pieces results each."""

    program: RowProgram
    pieces: int
    folds: tuple[Fold, ...]

    @property
    def results(self) -> Dim:
        return product(loop.size for loop in self.program.rows) * self.pieces

    def first(self, parameters: tuple[int, ...]) -> RowProgram:
        """Fold pieces; ``parameters``: where the results of each fold go."""
        program, (inner,) = self.program, self.program.inner
        assert isinstance(inner.size, int)
        length = inner.size // self.pieces
        block = program.passes[0]
        rows = (*program.rows, Loop(PIECES, self.pieces))
        stores = []
        for fold, number in zip(self.folds, parameters, strict=True):
            at = Linear(0, dense_strides(tuple(loop.size for loop in rows)), (0,))
            stores.append(Store(spill_type(fold.lane), fold.lane, Place(number, at), fold.name))
        passes = (
            Pass(
                tuple(_in_piece(s, length) for s in block.row),
                tuple(_in_piece(s, length) for s in block.element),
            ),
            Pass(tuple(stores), ()),
        )
        return replace(program, rows=rows, inner=(Loop(inner.name, length),), passes=passes)

    def second(self, parameters: tuple[int, ...]) -> RowProgram:
        """Fold the results of pieces, and what follows."""
        program, (inner,) = self.program, self.program.inner
        block, *later = program.passes
        element: list[Statement] = []
        rows = tuple(loop.size for loop in program.rows)
        strides = dense_strides((*rows, self.pieces))
        for fold, number in zip(self.folds, parameters, strict=True):
            part = f"{fold.name}_{PIECES}"
            place = Place(number, Linear(0, strides[:-1], (1,)))
            element.append(Load(part, fold.lane, spill_type(fold.lane), place))
            element.append(replace(fold, operand=part))
        passes = (Pass(block.row, tuple(element)), *later)
        return replace(program, inner=(Loop(inner.name, self.pieces),), passes=passes)


def split_rows(program: RowProgram) -> SplitRows | None:
    """See the module's docstring."""
    if program.kind != "rows" or len(program.inner) != 1 or program.after or program.sizes:
        return None
    size, rows = program.inner[0].size, product(loop.size for loop in program.rows)
    if not (isinstance(size, int) and isinstance(rows, int) and program.rows and program.passes):
        return None
    first, *later = program.passes
    folds = tuple(s for s in first.element if isinstance(s, Fold))
    plain = all(f.scope == "row" and not f.position and f.lane != "b" for f in folds)
    stays = (Store, Keep, RandomBits)
    kept = any(isinstance(s, stays) for s in (*first.row, *first.element))
    if not folds or not plain or kept or any(block.element for block in later):
        return None
    if any(isinstance(s, Fold) for block in program.passes for s in block.row):
        return None
    most = min(size // PIECE, 4 * ENOUGH_ROWS // max(1, rows)) if rows < ENOUGH_ROWS else 0
    pieces = next((n for n in range(most, 1, -1) if size % n == 0), 0)
    return SplitRows(program, pieces, folds) if pieces else None


def _in_piece(s: Statement, length: int) -> Statement:
    """A statement whose rows are pieces."""
    match s:
        case Load():
            guards = tuple((_moved(at, length), size) for at, size in s.place.guards)
            return replace(s, place=replace(s.place, at=_moved(s.place.at, length), guards=guards))
        case Position():
            return replace(s, at=_moved(s.at, length))
    return s


def _moved(at: Linear, length: int) -> Linear:
    (stride,) = at.inner or (0,)
    return replace(at, rows=(*at.rows, stride * length))
