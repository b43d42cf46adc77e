"""Which elements of a block a thread has.

In: a row program and its tile. Out: how many neighbours a thread has at a time. Triton gives a
thread 16 bytes of an array that is read in order, and single elements of one that is not; where
both meet, values go from thread to thread through shared memory. So where elements are looked up
one by one, a thread has single ones of all arrays: neighbours belong to neighbouring threads, and
whole lines of memory are moved as well.
"""

from __future__ import annotations

from flamec.codegen.triton.tiling import Tile
from flamec.ir.kernel import Fold, Load, RandomBits, RowProgram, name_of


def random_run(program: RowProgram, tile: Tile) -> int:
    """For how many elements at a time random bits are made (0: each alone): those that a thread
    loads at a time, so that no thread needs another's."""
    statements = list(program.statements())
    random = any(isinstance(s, RandomBits) for s in statements)
    if not random or len(program.inner) != 1 or tile.columns % 4:
        return 0
    half = any(isinstance(s, Load) and s.memory in ("f16", "bf16") for s in statements)
    return 8 if half and tile.columns >= 256 * tile.warps else 4


def has_single_elements(program: RowProgram, tile: Tile) -> bool:
    """Whether elements are looked up at computed places, or backwards, and nothing is folded."""
    if program.kind == "scatter" or not tile.split or random_run(program, tile):
        return False
    if any(isinstance(s, Fold) for s in program.statements()):
        return False
    for block in program.passes:
        computed = {name_of(s) for s in block.element}
        for s in block.element:
            if not isinstance(s, Load):
                continue
            if any(index.name in computed for index in s.place.indices):
                return True
            if s.place.at.inner[-1:] == (-1,):
                return True
    return False
