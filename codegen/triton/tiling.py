"""How a program is cut into the blocks of a GPU.

In: a row program. Out: a ``Tile``: rows and columns of a block, whether a block holds whole
rows, and into how many chunks rows are divided that are folded. Decided by static sizes and
the caller's hints for symbolic ones, so that results are the same on every device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flamec.codegen.options import CodegenOptions, power_of_two
from flamec.ir.kernel import Fold, Load, RowProgram, Store
from flamec.ir.loop_nest import estimate
from flamec.ir.shape import product

ELEMENTS = 1024  # of a block without folds
FOLDED_ELEMENTS = 2048  # of a block of whole rows
LONGEST_WHOLE_ROW = 16384
LOOPED_COLUMNS = 2048
MOST_CHUNKS = 256  # partial results of a fold over rows
FLAT_CHUNKS = 1024
TRANSPOSED = 32


@dataclass(frozen=True, slots=True)
class Tile:
    """``rows`` x ``columns`` elements of a block.

    ``split``: blocks divide the columns, too; else ``whole``: a block has all columns, or a
    loop goes over them. ``chunks``: blocks that share the rows (of a flat program: the columns)
    in turn and leave a partial result each; 0 where each block has its own rows.
    """

    rows: int
    columns: int
    split: bool
    whole: bool
    chunks: int
    warps: int

    @property
    def looped(self) -> bool:
        return not (self.split or self.whole)


def propose(program: RowProgram, options: CodegenOptions) -> Tile:
    """A tile by rule of thumb."""
    static = product(loop.size for loop in program.inner)
    inner = options.typical(static)
    rows = options.typical(product(loop.size for loop in program.rows))
    width = 0 if inner is None else power_of_two(inner)  # 0: not known
    height = 1 << 30 if rows is None else power_of_two(rows)
    scopes = {s.scope for s in program.statements() if isinstance(s, Fold)}
    if program.kind == "scatter":
        columns = min(width or ELEMENTS, 256)
        return Tile(1, columns, True, False, 1, 1 if columns <= 32 else 4)
    if "all" in scopes and not program.rows:
        return Tile(1, min(width or 4096, 4096), False, False, _flat_chunks(inner), 4)
    in_rows = bool(scopes & {"row", "scan"}) or _stores_rows(program)
    over_rows = bool(scopes & {"column", "all", "rows"})
    if in_rows or "rows" in scopes or "all" in scopes:
        tile = _row_tile(program, width, height, isinstance(static, int))
        return replace(tile, chunks=_chunks(rows, tile.rows)) if over_rows else tile
    if over_rows:
        columns = min(width or 128, 128)
        height = min(height, max(8, 4096 // columns))
        return Tile(height, columns, True, False, _chunks(rows, height), 4)
    if _is_transposed(program):
        block = min(width or TRANSPOSED, TRANSPOSED)
        return Tile(min(height, TRANSPOSED), block, True, False, 0, 4)
    columns = min(width or ELEMENTS, ELEMENTS)
    if program.kind == "along rows":
        columns = min(columns, 8)
    return Tile(min(height, max(1, ELEMENTS // columns)), columns, True, False, 0, 4)


def _row_tile(program: RowProgram, width: int, height: int, known: bool) -> Tile:
    """A tile for programs that fold rows; only a ``known`` width may be taken as the whole row."""
    if program.kind == "along rows":
        rows = min(height, 128)
        columns = min(width or 32, max(1, FOLDED_ELEMENTS // rows))
        whole = known and width <= columns
    elif known and width <= LONGEST_WHOLE_ROW:
        columns, whole = width, True
        rows = min(height, max(1, FOLDED_ELEMENTS // columns))
    else:
        columns, whole, rows = min(width or LOOPED_COLUMNS, LOOPED_COLUMNS), False, 1
        if width:
            rows = min(height, max(1, FOLDED_ELEMENTS // columns))
    warps = 4 if rows * columns <= 2048 else 8 if rows * columns <= 8192 else 16
    return Tile(rows, columns, False, whole, 0, warps)


def _chunks(rows: int | None, block: int) -> int:
    if rows is None:
        return 64
    return power_of_two(max(1, min(MOST_CHUNKS, rows // (4 * block))))


def _flat_chunks(inner: int | None) -> int:
    if inner is None:
        return FLAT_CHUNKS // 4
    return power_of_two(max(1, min(FLAT_CHUNKS, inner // 8192)))


def _stores_rows(program: RowProgram) -> bool:
    return any(isinstance(s, Store) for block in program.passes for s in block.row)


def _is_transposed(program: RowProgram) -> bool:
    """Whether an array is contiguous along the rows and not inside them."""
    if not (program.inner and program.rows):
        return False
    if min(estimate(program.inner[-1].size), estimate(program.rows[-1].size)) < 8:
        return False
    for s in program.statements():
        if not isinstance(s, (Load, Store)) or s.place.at.inner[-1:] in ((0,), (1,)):
            continue
        if any(stride in (1, -1) for stride in s.place.at.rows):
            return True
    return False
