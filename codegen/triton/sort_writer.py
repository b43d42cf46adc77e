"""Write a sort as Triton kernels: by digits of the keys, or blocks put in order and merged.

In: a ``Sort`` and the numbers of its buffers. Out: launches with their arguments
(``sort_launches.py``). Long lines are put in order by digits (``radix_sort.py``). A short line is
one block, which a bitonic network puts in order (Batcher 1968, "Sorting networks and
their applications"), or some, of which pairs are merged: each element finds by bisection how many
of the other stand before it (Cormen et al., "Introduction to Algorithms", P-MERGE); a size that is
a symbol gives launches for every number of runs, of which those that a call does not need have no
blocks. Where few of many are wanted, blocks keep their first ones until one block holds all. Keys
of 64 bits are put in order by their lower halves, then by their upper halves.
"""

from __future__ import annotations

from dataclasses import dataclass

from flamec.codegen.options import power_of_two
from flamec.codegen.triton.program_writer import ceil_div
from flamec.codegen.triton.radix_sort import order_by_digits
from flamec.codegen.triton.sort_launches import (
    LARGEST_SIZE,
    NO_BUFFER,
    SOURCE,
    TARGET,
    SortLaunches,
    Stores,
)
from flamec.codegen.triton.text import dim
from flamec.ir.shape import Dim

MOST = 512  # elements of a block: merging two runs is faster than a longer network
SEARCHED = 2048  # of a block of which few are kept
MERGED = 512  # of a block whose elements look for their places
ELEMENTS = 1024  # that rows of few elements have together in a block
LONG = 8192  # elements of a line: longer ones are put in order by digits


@dataclass
class SortWriter(SortLaunches):
    """Writes one kernel."""

    def __post_init__(self) -> None:
        super().__post_init__()
        typical = self.options.typical(self.sort.size)
        self.columns = min(power_of_two(max(2, typical or MOST)), MOST)
        self.block_rows = 1
        rows = self.options.typical(self.rows)
        if self.columns < ELEMENTS and rows is not None:
            self.block_rows = min(ELEMENTS // self.columns, power_of_two(rows))

    def write(self) -> None:
        """All launches, in order."""
        if self.words == 1 and self._few():
            self._select()
            return
        most, typical = self.options.most(self.sort.size), self.options.typical(self.sort.size)
        usual = typical if most is None else most
        for word in range(self.words):
            if usual is None or usual > LONG:
                order_by_digits(self, word)
            else:
                self._merged_blocks(word, LARGEST_SIZE if most is None else most)

    # what is launched ----------------------------------------------------------------
    def _few(self) -> bool:
        sort = self.sort
        if not isinstance(sort.size, int) or not isinstance(sort.count, int):
            return False
        return sort.size > MOST and 4 * sort.count <= MOST

    def _select(self) -> None:
        """Each block keeps its first elements, until one has all that are left."""
        given, count, source = self.sort.size, self.sort.count, NO_BUFFER
        assert isinstance(given, int) and isinstance(count, int)
        kept = power_of_two(max(1, count))
        while given > self.columns:
            columns = min(SEARCHED, power_of_two(given))
            blocks = -(-given // columns)
            target = self.temporary(self.rows * (blocks * kept))
            first = f"row * {blocks * kept} + block * {kept}"
            at = f"{TARGET} + ({first} + tl.arange(0, {kept})[None, :])"
            stores = Stores(f"tl.store({at}, packed, row < {dim(self.rows)})")
            load = self.load(0, source, given)
            self._block((source, target), given, load, stores, (1, columns), kept)
            given, source = blocks * kept, target
        finish = Stores(finish=self.finish(0))
        tile = (self.block_rows, self.columns)
        self._block((source, NO_BUFFER), given, self.load(0, source, given), finish, tile)

    def _merged_blocks(self, word: int, most: int) -> None:
        """All in order by one word of the keys, of lines of at most so many elements."""
        size, finish, run = self.sort.size, self.finish(word), self.columns
        targets = [self.temporary(self.rows * size) for _ in range(2 if run < most else 0)]
        after = self.store()
        stores = Stores(after, finish, f"{dim(size)} <= {run}")
        if isinstance(size, int):
            stores = Stores(after) if run < most else Stores(finish=finish)
        target = targets[0] if targets else NO_BUFFER
        tile = (self.block_rows, self.columns)
        self._block((NO_BUFFER, target), size, self.load(word, NO_BUFFER, size), stores, tile)
        level = 0
        while run < most:
            source, target = targets[level % 2], targets[(level + 1) % 2]
            last = f"2 * run >= {dim(size)}"
            self._merge((source, target), run, level, Stores(after, finish, last))
            run, level = 2 * run, level + 1

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
        holes: dict[str, object] = {"merge": None, "load": load, "given": dim(given)}
        self._add({**holes, "kept": kept}, buffers, given, tile, stores)

    def _merge(self, buffers: tuple[int, int], run: int, level: int, stores: Stores) -> None:
        size = self.sort.size
        merge = {"source": SOURCE, "run": self.columns, "steps": self.columns.bit_length()}
        holes: dict[str, object] = {"merge": merge, "load": "", "given": dim(size), "kept": 0}
        needed = 1 - 2 // (ceil_div(size, run) + 1)  # 0 if there is one run only
        self._add(holes, buffers, size, (1, MERGED), stores, level, needed)

    def _add(
        self,
        holes: dict[str, object],
        buffers: tuple[int, int],
        given: Dim,
        tile: tuple[int, int],
        stores: Stores,
        level: int = 0,
        times: Dim = 1,
    ) -> None:
        rows, columns = tile
        form = "merge" if holes["merge"] else "block"
        holes = {**holes, "columns": columns, "rows": rows, "stores": stores}
        blocks = ceil_div(self.rows, rows) * ceil_div(given, columns) * times
        warps = max(1, min(8, columns * rows // 256))
        named = dict(zip((SOURCE, TARGET), buffers, strict=True))
        self.add("sort.py.j2", form, holes, named, blocks, warps, level)
