"""Long lines put in order by digits of their keys, the lowest digit first.

In: a sort's launches and the word of the keys that counts. Out: three more launches for each digit:
blocks count how often each digit occurs; counts of the blocks before are added up; each block puts
its elements in order by the digit, half a digit at a time, and moves them to where they belong.
All of it is stable, so that after the last digit the line is in order (Knuth, The Art of Computer
Programming 3, section 5.2.5, algorithm R; Satish, Harris and Garland, "Designing efficient sorting
algorithms for manycore GPUs", IPDPS 2009). How many elements have the same half digit up to each is
counted in sixteen numbers of 16 bits, which a scan adds all at once.
"""

from __future__ import annotations

from flamec.codegen.options import power_of_two
from flamec.codegen.triton.program_writer import ceil_div
from flamec.codegen.triton.sort_launches import (
    BEFORE,
    COUNTS,
    NO_BUFFER,
    SCRATCH,
    SOURCE,
    TARGET,
    TOTALS,
    SortLaunches,
    Stores,
)
from flamec.codegen.triton.text import dim

BLOCK = 2048  # elements
WARPS = 4
BITS = 8  # of a digit
ADDED = 2048  # counts that are added up at a time
_MOST_BLOCKS, _FEWEST_DIGITS = 256, 8


def order_by_digits(sort: SortLaunches, word: int) -> None:
    """All lines in order by one word of the keys."""
    size, digits = sort.sort.size, sort.key_bits // BITS
    blocks = ceil_div(size, BLOCK)
    finish, after = sort.finish(word), sort.store()
    places = [sort.temporary(sort.rows * size) for _ in range(min(2, digits))]
    counts = {
        name: sort.temporary(sort.rows * number * (1 << BITS), "i32")
        for name, number in ((COUNTS, blocks), (BEFORE, blocks), (TOTALS, 1))
    }
    last = f"sort_level == {digits - 1}"
    source = NO_BUFFER
    for level in range(digits):
        scratch = places[0] if source == NO_BUFFER else source
        target = next((place for place in places if place != scratch), NO_BUFFER)
        holes: dict[str, object] = {
            "load": sort.load(word, source, size),
            "columns": BLOCK,
            "shift": sort.packing.shift,
            "flip": f"tl.where({last}, {1 << BITS - 1}, 0)" if sort.is_signed else "0",
            "counts": COUNTS,
            "before": BEFORE,
            "totals": TOTALS,
            "scratch": SCRATCH,
        }
        if sort.is_signed:
            holes["largest"] = sort.packing.last(sort.key_bits)
        stores = Stores(after, finish, last)
        if source == NO_BUFFER:
            stores = Stores(after) if digits > 1 else Stores(finish=finish)
        named = {**counts, SOURCE: source, SCRATCH: scratch, TARGET: target}
        if source != NO_BUFFER:
            del named[SCRATCH]
            holes["scratch"] = SOURCE
        moved = {**holes, "stores": stores}
        sort.add("sort_count.py.j2", "count", holes, named, sort.rows * blocks, WARPS, level)
        _add_up(sort, counts, level)
        sort.add("sort_move.py.j2", "move", moved, named, sort.rows * blocks, WARPS, level)
        source = target


def _add_up(sort: SortLaunches, counts: dict[str, int], level: int) -> None:
    """Of each block and digit, how many there are in blocks before; of each digit, all."""
    typical = sort.options.typical(ceil_div(sort.sort.size, BLOCK))
    height = _MOST_BLOCKS if typical is None else min(_MOST_BLOCKS, power_of_two(typical))
    width = min(1 << BITS, max(_FEWEST_DIGITS, ADDED // height))
    holes: dict[str, object] = {
        "height": height,
        "width": width,
        "columns": BLOCK,
        "counts": COUNTS,
        "before": BEFORE,
        "totals": TOTALS,
        "given": dim(sort.sort.size),
    }
    blocks = sort.rows * ((1 << BITS) // width)
    sort.add("sort_add.py.j2", "add", holes, counts, blocks, 4, level)
