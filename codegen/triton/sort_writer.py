"""Write a sort as Triton kernels: blocks by networks, or elements by the digits of their keys.

In: a ``Sort`` and the numbers of its buffers. Out: launches with their arguments
(``sort_launches.py``). A short line is put in order by a bitonic network (Batcher 1968, "Sorting
networks and their applications"), a longer one by digits (``radix_sort.py``). Where few of many are
wanted, blocks keep their first ones until one block holds all, or they are found by digits
(``radix_select.py``). Keys of 64 bits are put in order by
their lower halves, then by their upper halves.
"""

from __future__ import annotations

from dataclasses import dataclass

from flamec.codegen.options import power_of_two
from flamec.codegen.triton.program_writer import ceil_div
from flamec.codegen.triton.radix_select import select_by_digits, selects_by_digits
from flamec.codegen.triton.radix_sort import LONGEST, order_by_digits, order_in_blocks
from flamec.codegen.triton.sort_launches import (
    NO_BUFFER,
    SOURCE,
    TARGET,
    SortLaunches,
    Stores,
)
from flamec.codegen.triton.text import dim
from flamec.ir.shape import Dim

MOST = 256  # elements of a line: for longer ones digits are faster than a network
FEW, SELECTED = 128, 512  # elements that are wanted of many, and of the block that holds all left
SEARCHED = 2048  # elements of a block of which few are kept
ELEMENTS = 1024  # that rows of few elements have together in a block


@dataclass
class SortWriter(SortLaunches):
    """Writes one kernel."""

    def write(self) -> None:
        """All launches, in order."""
        if self.words == 1:
            if selects_by_digits(self.options.typical(self.sort.size), self.sort.count):
                select_by_digits(self, self._block_in_order)
                return
            if self._few():
                self._select()
                return
        most = self.options.most(self.sort.size)
        if most is None or most > LONGEST:
            order_by_digits(self)
        elif most > MOST or self.words == 2:  # a network would forget the order of lower words
            order_in_blocks(self, most)
        else:
            self._block_in_order(NO_BUFFER, self.sort.size, most)

    # what is launched ----------------------------------------------------------------
    def _few(self) -> bool:
        sort = self.sort
        if not isinstance(sort.size, int) or not isinstance(sort.count, int):
            return False
        return sort.size > SELECTED and sort.count <= FEW

    def _select(self) -> None:
        """Each block keeps its first elements, until one has all that are left."""
        given, count, source = self.sort.size, self.sort.count, NO_BUFFER
        assert isinstance(given, int) and isinstance(count, int)
        kept = power_of_two(max(1, count))
        while given > SELECTED:
            columns = min(SEARCHED, power_of_two(given))
            blocks = -(-given // columns)
            target = self.temporary(self.rows * (blocks * kept))
            first = f"row * {blocks * kept} + block * {kept}"
            at = f"{TARGET} + ({first} + tl.arange(0, {kept})[None, :])"
            stores = Stores(f"tl.store({at}, packed, row < {dim(self.rows)})")
            load = self.load(0, source, given)
            self._block((source, target), given, load, stores, (1, columns), kept)
            given, source = blocks * kept, target
        self._block_in_order(source, given, given)

    def _block_in_order(self, source: int, given: Dim, most: int) -> None:
        """Lines of at most so many elements by networks, short ones side by side."""
        columns, rows = power_of_two(max(2, most)), self.options.typical(self.rows)
        beside = 1 if rows is None else min(max(1, ELEMENTS // columns), power_of_two(rows))
        stores, tile = Stores(finish=self.finish(0)), (beside, columns)
        self._block((source, NO_BUFFER), given, self.load(0, source, given), stores, tile)

    # launches ------------------------------------------------------------------------
    def _block(
        self,
        buffers: tuple[int, int],
        given: Dim,
        load: str,
        stores: Stores,
        tile: tuple[int, int],
        kept: int = 0,
    ) -> None:
        """``kept``: how many of the first elements of a block are wanted, 0 for all."""
        rows, columns = tile
        holes: dict[str, object] = {
            "load": load,
            "given": dim(given),
            "kept": kept,
            "columns": columns,
            "rows": rows,
            "stores": stores,
        }
        blocks = ceil_div(self.rows, rows) * ceil_div(given, columns)
        named = dict(zip((SOURCE, TARGET), buffers, strict=True))
        self.add("sort.py.j2", "block", holes, named, blocks, max(1, min(8, columns * rows // 256)))
