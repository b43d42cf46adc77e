"""Lines put in order by digits of their keys, the lowest digit first.

In: a sort's launches. Out: more launches. A line that a block
has room for is put in order by one, half a digit at a time. Of a longer line each digit takes
three: blocks count how often the digit occurs; counts of the blocks before are added up; each block
puts its elements in order by the digit and moves them to where they belong. All of it is stable, so
that after the last digit the line is in order (Knuth, The Art of Computer Programming 3, section
5.2.5, algorithm R; Satish, Harris and Garland, "Designing efficient sorting algorithms for manycore
GPUs", IPDPS 2009). Elements of a block change places in shared memory, for which Triton has no
word: functions of the library put and get them. A thread ranks eight neighbours in registers, with
sixteen counters in one number; those of all threads are added up as four numbers of 16 bits each.
"""

from __future__ import annotations

from flamec.codegen.lower.lanes import MEMORY_DTYPES
from flamec.codegen.options import power_of_two
from flamec.codegen.triton.program_writer import ceil_div
from flamec.codegen.triton.sort_launches import (
    BEFORE,
    COUNTS,
    NO_BUFFER,
    SOURCE,
    TARGET,
    TOTALS,
    SortLaunches,
    Stores,
)
from flamec.codegen.triton.text import dim
from flamec.ir.shape import Dim

BLOCK = 2048  # elements
LONGEST = 4096  # elements of a line of one block: shared memory has no room for more
THREAD, REGISTERS = 16, 128  # elements and registers of a thread
BITS = 8  # of a digit
ADDED, FEWEST_DIGITS = 4096, 8  # counts that a block adds up, and of how many digits at least
RUN, MOST_BLOCKS = 8, 2048  # blocks of a thread, and of all threads at a time


def order_in_blocks(sort: SortLaunches, most: int) -> None:
    """Lines of at most so many elements, each by one block."""
    columns = power_of_two(max(16, most))
    for word in range(sort.words):
        source = sort.source(word)
        holes = {
            "load": sort.load(word, source, sort.sort.size, by_digits=True),
            "parts": sort.key_bits // (BITS // 2),
            "first_bit": "0",
            "counts": None,
            "stores": Stores(finish=sort.finish(word, by_digits=True)),
        }
        blocks = sort.rows * ceil_div(sort.sort.size, columns)  # none for empty lines
        _change_places(sort, "line", columns, holes, {SOURCE: source}, blocks)


def order_by_digits(sort: SortLaunches) -> None:
    """Lines of any length."""
    size, digits = sort.sort.size, sort.key_bits // BITS
    blocks = ceil_div(size, BLOCK)
    places = [sort.temporary(sort.rows * size) for _ in range(min(2, digits - 1))]
    counts = {
        name: sort.temporary(sort.rows * number * (1 << BITS), "i32")
        for name, number in ((COUNTS, blocks), (BEFORE, blocks), (TOTALS, 1))
    }
    for word in range(sort.words):
        source = sort.source(word)
        for level in range(digits):
            target = next((place for place in places if place != source), NO_BUFFER)
            _order_by_digit(sort, word, level, {**counts, SOURCE: source, TARGET: target})
            source = target


def _order_by_digit(sort: SortLaunches, word: int, level: int, buffers: dict[str, int]) -> None:
    size, last = sort.sort.size, sort.key_bits // BITS - 1
    holes: dict[str, object] = {
        "load": sort.load(word, buffers[SOURCE], size, by_digits=True),
        "parts": 2,
        "first_bit": f"{BITS} * sort_level",
        "counts": COUNTS,
        "before": BEFORE,
        "totals": TOTALS,
    }
    after, finish = sort.store(), sort.finish(word, by_digits=True)
    if buffers[SOURCE] != NO_BUFFER and last > 1:  # one kernel for all levels
        stores = Stores(after, finish, f"sort_level == {last}")
    else:
        stores = Stores(finish=finish) if level == last else Stores(after)
    blocks = sort.rows * ceil_div(size, BLOCK)
    counted = {
        **holes,
        "columns": BLOCK,
        "shift": sort.packing.shift,
        "shared": _shared(4 << BITS),
    }
    sort.add("sort_count.py.j2", "count", counted, buffers, blocks, _warps(BLOCK), level)
    _add_up(sort, buffers, level)
    _change_places(sort, "move", BLOCK, {**holes, "stores": stores}, buffers, blocks, level)


def _change_places(
    sort: SortLaunches,
    form: str,
    columns: int,
    holes: dict[str, object],
    buffers: dict[str, int],
    blocks: Dim,
    level: int = 0,
) -> None:
    """Blocks of so many elements put them in order in shared memory: there is room for each, half a
    counter, and a table of digits if those were counted."""
    width = MEMORY_DTYPES[sort.packing.memory].itemsize
    table = 4 << BITS if holes["counts"] else 0
    holes = {
        **holes,
        "columns": columns,
        "width": width,
        "shift": sort.packing.shift,
        "shared": _shared(columns * (width + 4) + table),
    }
    registers = 0 if sort.wide else REGISTERS  # so that there are enough threads
    sort.add("sort_exchange.py.j2", form, holes, buffers, blocks, _warps(columns), level, registers)


def _shared(nbytes: int) -> str:
    """Text that gives the address of so many bytes of shared memory."""
    taken = f"{{ .shared .align 16 .b8 exchange[{nbytes}]; mov.u32 $0, exchange; }}"
    return f'tl.inline_asm_elementwise("{taken}", "=r", [], tl.int32, False, 1)'


def _warps(columns: int) -> int:
    return max(1, columns // (32 * THREAD))


def _add_up(sort: SortLaunches, buffers: dict[str, int], level: int) -> None:
    """Of each block and digit, how many there are in blocks before; of each digit, all."""
    typical = sort.options.typical(ceil_div(sort.sort.size, BLOCK))
    height = MOST_BLOCKS if typical is None else min(MOST_BLOCKS, power_of_two(typical))
    width = min(1 << BITS, max(FEWEST_DIGITS, ADDED // max(RUN, height)))
    holes: dict[str, object] = {
        "run": RUN,
        "runs": max(1, height // RUN),
        "width": width,
        "columns": BLOCK,
        "counts": COUNTS,
        "before": BEFORE,
        "totals": TOTALS,
        "given": dim(sort.sort.size),
    }
    blocks, warps = sort.rows * ((1 << BITS) // width), 8 if height > ADDED // FEWEST_DIGITS else 4
    sort.add("sort_add.py.j2", "add", holes, buffers, blocks, warps, level)
