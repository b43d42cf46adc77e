"""How kernels are divided among lanes, caches and threads.

A ``Schedule`` is a small frozen value; ``propose`` gives one for a program from its
sizes alone. Symbolic sizes count as a typical size here, or, where that costs short rows nothing,
as a large one; what must be decided by the real size is decided in the generated code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flamec.codegen.lower.lanes import LANE_BYTES, MEMORY_BYTES
from flamec.ir.estimates import estimate
from flamec.ir.kernel import Compute, Fold, Kernel, Load, RowProgram, Statement, Store
from flamec.ir.shape import Dim, product

GRAIN = 1 << 15  # weighted elements that are worth another thread
BLOCK = 4096  # elements of a block of a flat loop
ROWS_SIDE_BY_SIDE = 1024  # rows of a group whose lanes are rows
PANEL_BYTES = 1 << 23  # of a product's rows that an epilogue finds in cache
PRIVATE_PANEL_BYTES = 1 << 20  # where each thread has memory for them
# Rows of the smallest piece of a product: of the groups of BLAS kernels (4, 8, 12, 24) a multiple.
ROW_UNIT = 24
MOST_PANEL_ROWS = 1024
LARGEST_UNROLLED_BODY = 6  # statements
UNROLLED_LENGTH = 256  # elements of a row
WINDOW = 64  # elements of a row that is folded in registers, if their number is known
LINES = 16  # of memory that such rows are read from; more would push each other out of a cache
LINE = 16  # elements
TILE = 32  # rows and elements of a block (FLAMEC_BLOCK_WIDTH)


@dataclass(frozen=True, slots=True)
class Schedule:
    """``weight``: cost of an element, in additions. ``block``: elements of a flat block.

    ``width``: rows side by side; ``unroll``: independent accumulators of short folds; ``panel``:
    rows of a matrix product computed before its epilogue; ``tiled``: the number of the row
    loop that is cut into blocks together with the elements, because some array is contiguous
    along it, or -1.
    """

    weight: int
    block: int = BLOCK
    width: int = ROWS_SIDE_BY_SIDE
    unroll: int = 1
    panel: int = 64
    tiled: int = -1


def propose(program: RowProgram) -> Schedule:
    """A schedule by rule of thumb."""
    panel = 64
    contraction = program.contraction
    if contraction is not None:
        row_bytes = max(1, estimate(contraction.columns)) * LANE_BYTES[contraction.lane]
        panel_bytes = PANEL_BYTES if contraction.result >= 0 else PRIVATE_PANEL_BYTES
        rows = min(MOST_PANEL_ROWS, panel_bytes // row_bytes)
        panel = max(1, rows // ROW_UNIT) * ROW_UNIT
        if contraction.result < 0 and isinstance(contraction.rows, int):
            panel = min(panel, -(-contraction.rows // ROW_UNIT) * ROW_UNIT)
        if not program.passes:
            panel = 1 << 30
    last = program.inner[-1].size if program.inner else 1
    unroll = 4 if not isinstance(last, int) or last >= UNROLLED_LENGTH else 1
    return Schedule(_weight(program), unroll=unroll, panel=panel, tiled=_tiled_row(program))


def _tiled_row(program: RowProgram) -> int:
    """The row loop along which an array is contiguous that is not so inside the rows."""
    plain = program.kind == "rows" and len(program.passes) == 1 and program.contraction is None
    if not plain or not program.inner or any(isinstance(s, Fold) for s in program.statements()):
        return -1
    block = program.passes[0]
    if any(isinstance(s, Store) for s in block.row):
        return -1
    last = program.inner[-1].size
    for s in block.element:
        if not isinstance(s, (Load, Store)) or s.place.at.inner[-1] in (0, 1):
            continue
        # Of few elements whose addresses are known, a register holds half if they are large.
        known = isinstance(last, int) and MEMORY_BYTES[s.memory] > 4
        for number, stride in enumerate(s.place.at.rows):
            worth = estimate(last) >= TILE or (not known and is_transposed(s, number))
            if worth and stride in (1, -1) and estimate(program.rows[number].size) >= TILE // 2:
                return number
    return -1


def is_transposed(statement: Statement, tiled: int) -> bool:
    """Whether blocks of what is loaded are copied so that the elements of a row are neighbours."""
    if not isinstance(statement, Load):
        return False
    place = statement.place
    plain = not place.indices and not place.guards
    return plain and place.at.inner[-1] not in (0, 1) and place.at.rows[tiled] == 1


def _weight(program: RowProgram) -> int:
    statements = [s for block in program.passes for s in block.element]
    weight = 1 + sum(isinstance(s, (Compute, Fold)) for s in statements) // 2
    if program.contraction is not None:
        weight += estimate(program.contraction.depth) // 8
    return weight


def is_few(sizes: Sequence[Dim], strides: Iterable[Sequence[Dim]]) -> bool:
    """Whether rows have so few elements, in so few lines of memory, that lanes that are rows read
    all of them before the next lanes. ``sizes``: of the loops over elements; ``strides``: along
    these, of all that is read and written."""
    count = product(sizes)
    if not isinstance(count, int) or not 0 < count <= WINDOW:
        return False
    far = (
        product(n for n, step in zip(sizes, steps, strict=True) if not is_near(step))
        for steps in strides
    )
    return all(estimate(lines) <= LINES for lines in far)


def is_near(step: Dim) -> bool:
    return isinstance(step, int) and abs(step) < LINE


def is_small(kernel: Kernel) -> bool:
    """Whether a kernel surely has too little work for a second thread."""
    total: Dim = 0
    for part in kernel.parts:
        program = part.program
        sizes = [*part.sizes] if part.sizes else [l.size for l in program.rows + program.inner]
        total = total + product(sizes) * _weight(program)
    return isinstance(total, int) and total <= GRAIN
