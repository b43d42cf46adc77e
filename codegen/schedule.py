"""How kernels are divided among lanes, caches and threads.

A ``Schedule`` is a small frozen value; ``propose`` gives one for a program from its
sizes alone. Symbolic sizes count as a typical size here; what must be decided by the real
size is decided in the generated code.
"""

from __future__ import annotations

from dataclasses import dataclass

from flamec.codegen.lower.lanes import LANE_BYTES
from flamec.ir.kernel import Compute, Fold, RowProgram
from flamec.ir.loop_nest import estimate
from flamec.ir.shape import has_symbols, product

GRAIN = 1 << 15  # weighted elements that are worth another thread
BLOCK = 4096  # elements of a block of a flat loop
ROWS_SIDE_BY_SIDE = 1024  # rows of a group whose lanes are rows
PANEL_BYTES = 1 << 20  # of a product's rows that an epilogue finds in cache
LARGEST_UNROLLED_BODY = 6  # statements


@dataclass(frozen=True, slots=True)
class Schedule:
    """``serial``: too small for a second thread. ``weight``: cost of an element, in additions.

    ``block``: elements of a flat block; ``width``: rows side by side; ``unroll``: independent
    accumulators of a fold; ``panel``: rows of a matrix product computed before its epilogue.
    """

    serial: bool
    weight: int
    block: int = BLOCK
    width: int = ROWS_SIDE_BY_SIDE
    unroll: int = 1
    panel: int = 64


def propose(program: RowProgram) -> Schedule:
    """A schedule by rule of thumb."""
    sizes = [loop.size for loop in (*program.rows, *program.inner)]
    statements = [s for block in program.passes for s in block.element]
    weight = 1 + sum(isinstance(s, (Compute, Fold)) for s in statements) // 2
    panel = 64
    contraction = program.contraction
    if contraction is not None:
        sizes = [contraction.batch, contraction.rows, contraction.columns]
        weight += estimate(contraction.depth) // 8
        row_bytes = max(1, estimate(contraction.columns)) * LANE_BYTES[contraction.lane]
        panel = max(32, min(1024, PANEL_BYTES // row_bytes // 16 * 16))
        if not program.passes:
            panel = 1 << 30
    work = estimate(product(sizes)) * weight
    serial = not has_symbols(sizes) and work <= GRAIN
    folds = [s for s in statements if isinstance(s, Fold) and not s.position]
    small = folds and len(statements) <= LARGEST_UNROLLED_BODY
    long_enough = bool(program.inner) and estimate(program.inner[-1].size) >= 256
    return Schedule(serial, weight, unroll=4 if small and long_enough else 1, panel=panel)
