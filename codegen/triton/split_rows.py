"""Few long rows that are only folded: divided among blocks, whose results are joined afterwards.

In: a row program. Out: two programs, or None where blocks of rows keep the device busy or later
passes need the rows again. Rows may be the lanes of blocks (of a fold along columns). The first
program has a row for each piece of a row and leaves what it folds to (of an extreme element: its
value and its position); the second folds those and does what follows. Pieces are equal but for the
end of a row, where elements that do not exist count as what the fold starts from. How sums are
grouped depends on sizes (of symbolic ones, on hints) alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flamec.codegen.lower.lanes import spill_type
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.text import identity
from flamec.codegen.triton.tiling import lanes_are_rows
from flamec.ir.kernel import (
    CheckedIndex,
    Compute,
    Constant,
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
STRIP, STRIP_PIECE = 64, 32  # rows that are lanes of a block, and how many elements of each
UNKNOWN_PIECES = 64  # of a whole array of which nothing is known
ALIGNED = 16  # elements of which a piece has a multiple, where its length may be chosen
PIECES = "piece"


@dataclass(frozen=True)
class SplitRows:
    """``pieces`` of a row, ``length`` elements each, of which some may lie behind the end of the
    row if ``ragged``; ``narrow``: positions fit in 32 bits."""

    program: RowProgram
    pieces: int
    length: Dim
    ragged: bool
    narrow: bool

    @property
    def folds(self) -> list[Fold]:
        return [s for s in self.program.passes[0].element if isinstance(s, Fold)]

    @property
    def results(self) -> list[tuple[str, str]]:
        """Name and lane of what a piece leaves."""
        found = []
        for fold in self.folds:
            if fold.position:
                found.append((_best(fold), fold.lane))
            places = "i32" if self.narrow else "i64"
            found.append((fold.name, places if fold.position else fold.lane))
        return found

    @property
    def rows(self) -> Dim:
        return product(loop.size for loop in self.program.rows)

    def first(self, parameters: tuple[int, ...]) -> RowProgram:
        """Fold pieces; ``parameters``: where each of the results goes. Pieces of one row are as
        far apart as there are rows."""
        program, (inner,) = self.program, self.program.inner
        block = program.passes[0]
        rows = (Loop(PIECES, self.pieces), *program.rows)
        places = Linear(0, dense_strides(tuple(loop.size for loop in rows)), (0,))
        stores = tuple(
            Store(spill_type(lane), lane, Place(number, places), name)
            for (name, lane), number in zip(self.results, parameters, strict=True)
        )
        element = [self._in_piece(s, inside=True) for s in block.element]
        if self.ragged:
            element = self._ended(element)
        passes = (
            Pass(tuple(self._in_piece(s) for s in block.row), tuple(element)),
            Pass(stores, ()),
        )
        return replace(program, rows=rows, inner=(Loop(inner.name, self.length),), passes=passes)

    def second(self, parameters: tuple[int, ...]) -> RowProgram:
        """Fold the results of pieces, and what follows."""
        program, (inner,) = self.program, self.program.inner
        block, *later = program.passes
        element: list[Statement] = []
        rows = tuple(loop.size for loop in program.rows)
        _, *strides = dense_strides((self.pieces, *rows))
        for (name, lane), number in zip(self.results, parameters, strict=True):
            place = Place(number, Linear(0, tuple(strides), (self.rows,)))
            element.append(Load(f"{name}_{PIECES}", lane, spill_type(lane), place))
        for fold in self.folds:
            part = f"{_best(fold) if fold.position else fold.name}_{PIECES}"
            position = fold.position and f"{fold.name}_{PIECES}"
            element.append(replace(fold, operand=part, position=position))
        passes = (Pass(block.row, tuple(element)), *later)
        return replace(program, inner=(Loop(inner.name, self.pieces),), passes=passes)

    def _ended(self, element: list[Statement]) -> list[Statement]:
        """The statements with elements behind the end of a row made harmless."""
        (inner,) = self.program.inner
        here = self._moved(Linear(0, (0,) * len(self.program.rows), (1,)))
        found: list[Statement] = [
            Position(f"in_{PIECES}", "i64", here),
            Constant(f"end_{PIECES}", "i64", inner.size),
            Compute(f"is_{PIECES}", "b", "lt", (f"in_{PIECES}", f"end_{PIECES}"), ("i64", "i64")),
        ]
        for s in element:
            if isinstance(s, Fold):
                start, kept = f"{s.name}_start", f"{s.name}_kept"
                found.append(Constant(start, s.lane, identity(s.op, s.lane)))
                operands, lanes = (f"is_{PIECES}", s.operand, start), ("b", s.lane, s.lane)
                found.append(Compute(kept, s.lane, "where", operands, lanes))
                s = replace(s, operand=kept)
            elif isinstance(s, CheckedIndex):
                first, there = f"{s.name}_first", f"{s.name}_there"
                found.append(Constant(first, s.lane, True if s.lane == "b" else 0))
                operands, lanes = (f"is_{PIECES}", s.index, first), ("b", s.lane, s.lane)
                found.append(Compute(there, s.lane, "where", operands, lanes))
                s = replace(s, index=there)
            found.append(s)
        return found

    def _in_piece(self, s: Statement, inside: bool = False) -> Statement:
        """A statement whose rows are pieces; ``inside``: it is one of each element."""
        match s:
            case Load():
                guards = tuple((self._moved(at), size) for at, size in s.place.guards)
                if inside and self.ragged:
                    (inner,) = self.program.inner
                    here = self._moved(Linear(0, (0,) * len(self.program.rows), (1,)))
                    guards = (*guards, (here, inner.size))
                return replace(s, place=replace(s.place, at=self._moved(s.place.at), guards=guards))
            case Position():
                return replace(s, at=self._moved(s.at))
            case Fold() if s.position:
                return replace(s, names=(_best(s),))
        return s

    def _moved(self, at: Linear) -> Linear:
        (stride,) = at.inner or (0,)
        return replace(at, rows=(stride * self.length, *at.rows))


def _best(fold: Fold) -> str:
    """The extreme value whose position a fold finds."""
    return f"{fold.name}_best"


def split_rows(program: RowProgram, options: CodegenOptions) -> SplitRows | None:
    """See the module's docstring."""
    if (
        program.kind not in ("rows", "along rows")
        or len(program.inner) != 1
        or program.after
        or program.sizes
    ):
        return None
    if not program.passes:
        return None
    first, *later = program.passes
    folds = [s for s in first.element if isinstance(s, Fold)]
    if not folds or any(f.scope != "row" or f.lane == "b" for f in folds):
        return None
    stays = (Store, Keep, RandomBits)
    kept = any(isinstance(s, stays) for s in (*first.row, *first.element))
    if kept or any(block.element for block in later):
        return None
    if any(isinstance(s, Fold) for block in program.passes for s in block.row):
        return None
    return _pieces(program, options)


def _pieces(program: RowProgram, options: CodegenOptions) -> SplitRows | None:
    size = program.inner[0].size
    rows = options.typical(product(loop.size for loop in program.rows))
    usual = options.typical(size)
    # with room for positions behind the end of a ragged row
    narrow = size < 1 << 30 if isinstance(size, int) else options.narrow
    piece = PIECE
    if rows is not None and lanes_are_rows(program, usual or 0):
        rows, piece = -(-rows // STRIP), STRIP_PIECE
    if rows is None or rows >= ENOUGH_ROWS or (usual is None and program.rows):
        return None
    most = UNKNOWN_PIECES
    if usual is not None:
        most = min(usual // piece, 4 * ENOUGH_ROWS // max(1, rows))
    if most < 2:
        return None
    if isinstance(size, int):
        pieces = next((n for n in range(most, most // 2, -1) if size % n == 0), 0)
        if pieces:
            return SplitRows(program, pieces, size // pieces, False, narrow)
    step = most * ALIGNED
    return SplitRows(program, most, (size + step - 1) // step * ALIGNED, True, narrow)
