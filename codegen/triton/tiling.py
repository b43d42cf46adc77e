"""How a program is cut into the blocks of a GPU.

In: a row program. Out: a ``Tile``: rows and columns of a block, whether a block holds whole
rows, and into how many chunks rows are divided that are folded. Decided by static sizes and
the caller's hints for symbolic ones, so that results are the same on every device.

What is aimed at: vectors of 16 bytes, enough bytes on their way for each thread, enough blocks
for a large device, and values that fit in registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flamec.codegen.lower.lanes import MEMORY_BYTES
from flamec.codegen.options import CodegenOptions, power_of_two
from flamec.codegen.triton.ownership import scattered_index
from flamec.codegen.triton.scatter_phases import is_unordered
from flamec.ir.estimates import estimate
from flamec.ir.kernel import Fold, Load, RandomBits, RowProgram, Store
from flamec.ir.shape import Dim, product, structurally_equal

THREAD_ELEMENTS = 8  # of a block without folds: 32 bytes of float32 for each array
MUCH_READ = 12  # bytes for each element
LEAST_COLUMNS, MOST_IDLE = 16, 1.125  # of a block: what it has at least, rounded up at most
FEW_COLUMNS = 64  # where each column needs numbers of its own
MANY_PLACES = 8  # that a program reads one after the other
FEW_BYTES = 32  # a thread that would load less takes twice the elements
FOLDED_ELEMENTS = 2048  # of a block of whole rows
REDUCED_ELEMENTS = 8192  # where rows are only folded, so that few registers are needed
LONGEST_WHOLE_ROW = 16384
ROW_OF_TWO_WARPS = 1024  # columns of a row that is a block of its own
LOOPED_COLUMNS = 4096
UNKNOWN_ROWS, UNKNOWN_COLUMNS = 4, 512  # where rows may be short: four of 512 or less at a time
READ_AGAIN_COLUMNS = 16384  # of rows that are read more than once: few at a time fit in the cache
CHUNK_WARPS = 2048  # of all blocks that share rows: two blocks of 8 for each processor
COLUMN_BLOCKS = 1024  # of folds over rows: those that run at a time
ONE_FOLD_CHUNKS = 8  # at least, of each stretch of columns, if half as many blocks fold once
MANY_FOLDS, MANY_TURNS = 8, 32  # over rows, of wide numbers: from then on shorter turns are faster
FOLD_REGISTERS = 96  # of a thread, for what several folds over rows have added up
SCATTER_BLOCKS = 2048  # that look at all indices
TABLE_COLUMNS = 1024  # of a row of a program with tables
SHARED_COLUMNS, SHARING_BLOCKS = 2048, 4  # where blocks share the elements; for a processor
TABLE_TURNS = 4  # elements of a block for each place, so that joining tables takes less than them
FLAT_CHUNKS = 1024
AHEAD_BYTES = 48 << 10  # of shared memory for what is loaded ahead
FEWEST_BLOCKS = 1024  # below: smaller blocks
LINE = 128  # bytes that a transposed block has at least in both directions
STRIP, SCANNED_STRIP = 32, 16  # rows of a block whose lanes are rows
SHORT_SCAN = 32  # columns: shorter rows have lanes that are rows in any case


@dataclass(frozen=True, slots=True)
class Tile:
    """``rows`` x ``columns`` elements of a block.

    ``split``: blocks divide the columns, too; else ``whole``: a block has all columns, or a
    loop goes over them. ``chunks``: blocks that share the rows (of a flat program: the columns)
    in turn and leave a partial result each; 0 where each block has its own rows. ``blocks``: so
    many blocks share the rows where nothing is folded over them; 0: a block for each ``rows``.
    ``stages``: loads of the innermost loop run so many iterations ahead, less one. Of a scatter:
    ``owners`` are the blocks that places belong to (0: one has all), which look at ``scanned``
    rows at a time; ``atomic``: rows that meet are combined by memory.
    """

    rows: int
    columns: int
    split: bool
    whole: bool
    chunks: int
    warps: int
    stages: int = 1
    blocks: int = 0
    owners: int = 0
    scanned: int = 0
    atomic: bool = False

    @property
    def looped(self) -> bool:
        return not (self.split or self.whole)


def propose(program: RowProgram, options: CodegenOptions) -> Tile:
    """A tile by rule of thumb."""
    static = product(loop.size for loop in program.inner)
    most = options.most(static)
    inner = options.typical(static) if most is None else most
    count = product(loop.size for loop in program.rows)
    rows = options.roughly(count)
    width = 0 if inner is None else power_of_two(inner)  # 0: not known
    height = 1 << 30 if rows is None else power_of_two(rows)
    if width and not isinstance(count, int) and options.most(count) is not None:
        # classes of sizes whose rows are fewer than a block may have share the code of larger ones
        height = max(height, FOLDED_ELEMENTS // width)
    scopes = {s.scope for s in program.statements() if isinstance(s, Fold)}
    if program.kind == "scatter":
        return _scatter_tile(program, options, width, rows)
    if program.kind == "tables":
        return _table_tile(program, width, rows)
    if "all" in scopes and not program.rows:
        tile = Tile(1, min(width or 4096, 4096), False, False, _flat_chunks(inner), 4)
        return replace(tile, stages=_stages(program, tile))
    in_rows = bool(scopes & {"row", "scan"}) or _stores_rows(program)
    over_rows = bool(scopes & {"column", "all", "rows"})
    if in_rows or "rows" in scopes or "all" in scopes:
        tile = _row_tile(program, width, height, most is not None)
        tile = replace(tile, chunks=_chunks(rows, tile) if over_rows else 0)
        if tile.looped and _passes(program) > 1:  # from the cache loads come soon enough
            return replace(tile, chunks=2 * tile.chunks)
        return replace(tile, stages=_stages(program, tile))
    if over_rows:
        stores = _stores_elements(program)
        folds = len(program.folds("column"))
        once = not stores and folds == 1
        tile = _column_tile(width, height, rows, stores, folds)
        tile = replace(tile, stages=_stages(program, tile, 2 if stores else 3 if once else 4))
        many = folds >= MANY_FOLDS and min(_itemsizes(program), default=4) >= 4
        if many and rows is not None and rows >= MANY_TURNS * tile.chunks * tile.rows:
            return replace(tile, rows=tile.rows // 2, chunks=4 * tile.chunks)
        return tile
    if _is_transposed(program):
        side = LINE // min(_itemsizes(program), default=4)
        block = Tile(
            min(height, max(32, side)), min(width or side, max(32, side)), True, False, 0, 4
        )
        return replace(block, warps=8 if block.rows * block.columns > 4096 else 4)
    elements = _pointwise_elements(program)
    columns = min(width or elements, elements)
    if program.rows:
        columns = _filled_columns(static, columns)
    if _has_scattered_weights(program):
        columns = min(columns, FEW_COLUMNS)
    if program.kind == "along rows":
        columns = min(columns, 8)
    rows = min(height, max(1, elements // columns))
    fewer = _reads_much(program) or _reads_bytes(program)
    return Tile(rows, columns, True, False, 0, 8 if fewer else 4)


def _has_scattered_weights(program: RowProgram) -> bool:
    """Whether all rows read the same elements of an array, which are not beside each other: a
    block finds them one by one, and many rows should be worth it."""
    return bool(program.rows) and any(
        _varies(s.place.at.inner) and not _varies(s.place.at.rows) and s.place.at.inner[-1] != 1
        for s in _loads(program)
    )


def _filled_columns(inner: Dim, columns: int) -> int:
    """The most columns, up to so many, of which the last block leaves few idle."""
    if not isinstance(inner, int) or inner <= 0:
        return columns
    while columns > LEAST_COLUMNS and -(-inner // columns) * columns > MOST_IDLE * inner:
        columns //= 2
    return columns


def _reads_much(program: RowProgram) -> bool:
    """Whether so many wide arrays are read that a thread has enough on its way with four
    elements of each."""
    places = {s.place: MEMORY_BYTES[s.memory] for s in _loads(program)}
    moving = [n for place, n in places.items() if _varies((*place.at.rows, *place.at.inner))]
    return sum(n for n in moving if n >= 4) >= MUCH_READ and program.kind != "along rows"


def _reads_bytes(program: RowProgram) -> bool:
    """Whether bytes are read for wide results: of those a thread stores four neighbours at a time,
    so it should have no more of the bytes, either."""
    stored = [s.memory for s in program.statements() if isinstance(s, Store)]
    loaded = [MEMORY_BYTES[s.memory] for s in _loads(program) if _varies(s.place.at.inner)]
    return min(loaded, default=4) == 1 and max((MEMORY_BYTES[m] for m in stored), default=1) >= 4


def _scatter_tile(
    program: RowProgram, options: CodegenOptions, width: int, rows: int | None
) -> Tile:
    """All rows at once if memory combines them, else rows shared by blocks that own places."""
    columns = min(width or 1024, 256)
    tile = Tile(1, columns, True, False, 1, 1 if columns <= 32 else 4)
    stores = [s for s in program.statements() if isinstance(s, Store)]
    if all(is_unordered(s, program, options) for s in stores):
        return replace(tile, rows=max(1, 1024 // columns), chunks=0, warps=4, atomic=True)
    if not scattered_index(program):
        return tile
    count = power_of_two(rows) if rows is not None else 1024
    blocks = max(32, SCATTER_BLOCKS * columns // max(width, columns))
    return replace(tile, chunks=0, warps=4, owners=min(count, blocks), scanned=min(count, 1024))


def _table_tile(program: RowProgram, width: int, rows: int | None) -> Tile:
    """Each element belongs to one thread, so that it is combined once. Where all blocks share the
    elements, ``chunks`` times its columns are a block's share at least, and there are ``blocks``
    for each processor at most."""
    if not program.rows:
        places = max(table.elements for table in program.tables)
        columns = SHARED_COLUMNS
        turns = max(2, power_of_two(TABLE_TURNS * places) // columns)
        return Tile(1, columns, False, False, turns, 8, blocks=SHARING_BLOCKS)
    few = rows is not None and rows <= FEWEST_BLOCKS // 4
    most = SHARED_COLUMNS if few else TABLE_COLUMNS
    columns = min(max(width or most, 32), most)
    return Tile(1, columns, False, False, 0, min(16 if few else 8, columns // 32))


def _pointwise_elements(program: RowProgram) -> int:
    """Elements of a block of 128 threads; more where few arrays are read, fewer where each waits
    for one place after the other."""
    if sum(bool(s.place.indices) for s in _loads(program)) >= MANY_PLACES:
        return 128
    elements = THREAD_ELEMENTS
    loaded = sum(_itemsizes(program, stores=False)) or 4
    while elements * loaded < FEW_BYTES and elements < 4 * THREAD_ELEMENTS:
        elements *= 2
    return 128 * elements


def _row_tile(program: RowProgram, width: int, height: int, known: bool) -> Tile:
    """A tile for programs that fold rows. ``known``: no row is longer than ``width``, so that a
    block may have whole rows."""
    if lanes_are_rows(program, width):
        scans = any(isinstance(s, Fold) and s.scope == "scan" for s in program.statements())
        rows, unknown = SCANNED_STRIP if scans else STRIP, 32 if height > 1 else FOLDED_ELEMENTS
        rows = min(height, max(rows, FOLDED_ELEMENTS // (width or unknown)))
        columns = min(width or unknown, FOLDED_ELEMENTS // rows)
        vectors = 128 * 16 // min(_itemsizes(program), default=4)  # rows of so many threads
        if height >= FEWEST_BLOCKS * vectors:  # and each has all columns of its own, one by one
            return Tile(vectors, 1, False, known and width <= 1, 0, 4)
        whole = known and width <= columns
    elif known and width <= LONGEST_WHOLE_ROW:
        columns, whole = width, True
        rows = _rows_of_block(program, columns, height)
    elif not width:
        return Tile(min(height, UNKNOWN_ROWS), UNKNOWN_COLUMNS, False, False, 0, 4)
    elif _passes(program) > 1:
        columns = min(width, READ_AGAIN_COLUMNS)
        return Tile(1, columns, False, False, 0, max(4, columns // 512))
    else:
        columns, whole = min(width, LOOPED_COLUMNS), False
        rows = min(height, max(1, FOLDED_ELEMENTS // columns))
    if whole and columns == ROW_OF_TWO_WARPS and height >= 2 * FEWEST_BLOCKS:
        return Tile(1, columns, False, True, 0, 2)
    if whole and _is_light(program) and 2048 < columns <= 4096 and height >= 2 * FEWEST_BLOCKS:
        return Tile(2, columns, False, True, 0, 16)
    elements = rows * columns
    warps = 4 if elements <= 2048 else 8 if elements <= 8192 else 16
    if warps > 4 and any(isinstance(s, RandomBits) for s in program.statements()):
        warps //= 2  # each thread has enough to compute while it waits
    if elements > 8192 and program.folds("column") and min(_itemsizes(program), default=4) > 2:
        warps = 32  # sums of columns and the row itself need many registers
    return Tile(rows, columns, False, whole, 0, warps)


def lanes_are_rows(program: RowProgram, width: int) -> bool:
    """Whether neighbours in memory are neighbouring rows, or of a scan rows so short (``width``
    columns) that they may be."""
    scans = program.kind == "along rows"
    if not scans and (program.kind != "rows" or _passes(program) > 1):
        return False
    if not program.rows or not program.inner:
        return scans
    if scans and 0 < width < SHORT_SCAN:
        return True
    moved = [s.place.at for s in program.statements() if isinstance(s, (Load, Store))]
    inside = [at for at in moved if at.inner and _varies(at.inner)]
    if scans:
        return any(at.inner[-1] != 1 for at in inside)
    return bool(inside) and all(at.rows[-1] == 1 and at.inner[-1] != 1 for at in inside)


def _is_light(program: RowProgram) -> bool:
    """Whether rows of 16-bit numbers are read once and stored once: little is on its way."""
    moved: dict[int, int] = {}
    for s in program.statements():
        if isinstance(s, (Load, Store)) and _varies(s.place.at.rows) and _varies(s.place.at.inner):
            moved[s.place.parameter] = MEMORY_BYTES[s.memory]
    if any(isinstance(s, RandomBits) for s in program.statements()) or program.folds("column"):
        return False
    return _stores_elements(program) and sum(moved.values()) <= 4


def _rows_of_block(program: RowProgram, columns: int, height: int) -> int:
    elements = FOLDED_ELEMENTS if _stores_elements(program) else REDUCED_ELEMENTS
    rows = min(height, max(1, elements // columns))
    while rows > max(1, FOLDED_ELEMENTS // columns) and height // rows < FEWEST_BLOCKS:
        rows //= 2
    return rows


def _stages(program: RowProgram, tile: Tile, most: int = 2) -> int:
    """Loads run ahead in loops where there is room, by ``most`` iterations."""
    if not may_load_ahead(program, tile):
        return 1
    return 1 + min(most, AHEAD_BYTES // max(1, bytes_of_an_iteration(program, tile)))


def may_load_ahead(program: RowProgram, tile: Tile) -> bool:
    """Whether there is a loop whose loads cannot meet a store of the loop."""
    if program.kind not in ("rows", "flat") or not (tile.looped or tile.chunks or tile.blocks):
        return False
    loaded = {s.place.parameter for s in _loads(program)}
    written = {i for i, p in enumerate(program.parameters) if p.written}
    return not (loaded & written or (tile.looped and program.folds("column")))


def bytes_of_an_iteration(program: RowProgram, tile: Tile) -> int:
    """What the innermost loop loads at a time."""
    moving = [s for s in _loads(program) if tile.looped or _varies(s.place.at.rows)]
    sizes = {s.place: MEMORY_BYTES[s.memory] for s in moving if _varies(s.place.at.inner)}
    return tile.rows * tile.columns * sum(sizes.values())


def _column_tile(width: int, height: int, rows: int | None, stores: bool, folds: int) -> Tile:
    """Folds over rows: blocks of columns times chunks of rows, of which all run at a time if
    elements are only folded. One fold leaves registers for more rows, many for fewer."""
    once = not stores and folds == 1
    usual, elements, warps = (128, 4096, 4) if stores else (64, 4096 if once else 2048, 2)
    most_elements = max(THREAD_ELEMENTS, FOLD_REGISTERS // max(1, folds))
    elements = min(elements, 32 * warps << (most_elements.bit_length() - 1))
    columns = min(width or usual, usual)
    height = min(height, max(8, elements // columns))
    if rows is None:
        return Tile(height, columns, True, False, 64, warps)
    blocks = 2 * COLUMN_BLOCKS if stores else COLUMN_BLOCKS // 2 if once else COLUMN_BLOCKS
    least = ONE_FOLD_CHUNKS if once else 1
    most = max(least, blocks * columns // max(width, columns))
    chunks = max(1, min(most, rows // (4 * height)))
    return Tile(height, columns, True, False, 1 << (chunks.bit_length() - 1), warps)


def _chunks(rows: int | None, tile: Tile) -> int:
    if rows is None:
        return 64
    most = CHUNK_WARPS // max(4, tile.warps)
    return power_of_two(max(1, min(most, rows // (4 * tile.rows))))


def _flat_chunks(inner: int | None) -> int:
    if inner is None:
        return FLAT_CHUNKS // 4
    return power_of_two(max(1, min(FLAT_CHUNKS, inner // 8192)))


def _passes(program: RowProgram) -> int:
    """How often a row is read."""
    return sum(any(isinstance(s, Load) for s in block.element) for block in program.passes)


def _stores_elements(program: RowProgram) -> bool:
    return any(isinstance(s, Store) for block in program.passes for s in block.element)


def _stores_rows(program: RowProgram) -> bool:
    return any(isinstance(s, Store) for block in program.passes for s in block.row)


def _loads(program: RowProgram) -> list[Load]:
    return [s for s in program.statements() if isinstance(s, Load)]


def _itemsizes(program: RowProgram, stores: bool = True) -> list[int]:
    """Bytes of an element of each array that is not the same for all elements of a row."""
    kinds = (Load, Store) if stores else (Load,)
    found: dict[int, int] = {}
    for s in program.statements():
        if isinstance(s, kinds) and (_varies(s.place.at.inner) or not program.inner):
            found[s.place.parameter] = MEMORY_BYTES[s.memory]
    return list(found.values())


def _varies(strides: Sequence[Dim]) -> bool:
    return not all(structurally_equal(stride, 0) for stride in strides)


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
