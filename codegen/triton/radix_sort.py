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

Keys of integers are distances from the least element (from the greatest, for a descending order),
which two launches find. Digits above the largest distance are zeros in all keys: their launches
end at once, and the last digit before them stores the results.

Of many 64-bit keys the four upper digits that elements differ in are tried first: where few
elements have all of them in common, what is left is to put these in order. If a sample of elements
says that they are many, or a launch finds it, all digits are gone through.
"""

from __future__ import annotations

from flamec.codegen.lower.lanes import MEMORY_DTYPES
from flamec.codegen.options import power_of_two
from flamec.codegen.triton.program_writer import ceil_div
from flamec.codegen.triton.sort_launches import (
    BEFORE,
    COUNTS,
    FIRST,
    NO_BUFFER,
    QUICK,
    RANGE,
    SOURCE,
    TARGET,
    TOTALS,
    SortLaunches,
    Stores,
)
from flamec.codegen.triton.text import TYPES, dim
from flamec.ir.shape import Dim

BLOCK = 2048  # elements
LONGEST = 4096  # elements of a line of one block: shared memory has no room for more
THREAD, REGISTERS = 16, 128  # elements and registers of a thread
BITS = 8  # of a digit
ADDED, FEWEST_DIGITS = 4096, 8  # counts that a block adds up, and of how many digits at least
RUN, MOST_BLOCKS = 8, 2048  # blocks of a thread, and of all threads at a time
SEARCHED, PARTS = 2048, 512  # elements that a block looks at for extremes at a time, and blocks
RANGED = ("i32", "i64")
_KNOWN = 4  # numbers before those of the parts
MANY = 1 << 23  # elements, so that fetching each from its place takes as long as digits
COMPARED, COMPARING = 512, 4  # elements and warps of a block
NEIGHBOURS, TOGETHER = 32, 4  # of an element, and how many between looks whether any are alike
SAMPLED, CROWDED = 1024, 8  # elements, and pairs of them, above which groups are taken to be large


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
    elements = sort.options.typical(sort.rows * size)
    sort.quick = sort.words == 2 and elements is not None and elements >= MANY
    if sort.quick or sort.sort.memory in RANGED:
        counts[RANGE] = _find_range(sort)
    if sort.quick:
        _try_upper_digits(sort, places, counts)
    for word in range(sort.words):
        source = sort.source(word)
        for level in range(digits):
            target = next((place for place in places if place != source), NO_BUFFER)
            _order_by_digit(sort, word, level, {**counts, SOURCE: source, TARGET: target})
            source = target


def _try_upper_digits(sort: SortLaunches, places: list[int], counts: dict[str, int]) -> None:
    size, source = sort.sort.size, NO_BUFFER
    for level in range(sort.key_bits // BITS):
        target = places[level % 2]
        _order_by_digit(sort, QUICK, level, {**counts, SOURCE: source, TARGET: target})
        source = target
    holes: dict[str, object] = {
        "guard": _guard(QUICK),
        "columns": COMPARED,
        "neighbours": NEIGHBOURS,
        "together": TOGETHER,
        "source": SOURCE,
        "range": RANGE,
        "fetched": FIRST,
        "element": sort.element("place"),
        "type": TYPES[sort.sort.memory],
        "ordered": f"-1 - {sort.ordered}" if sort.sort.descending else sort.ordered,
        "store": sort.store_wanted(),
    }
    blocks = sort.rows * ceil_div(size, COMPARED)
    for form in ("fetch", "alike"):
        sort.add(f"sort_{form}.py.j2", form, holes, {**counts, SOURCE: source}, blocks, COMPARING)


def _guard(word: int, digit: str = "") -> str:
    """Lines that end a launch for a digit that need not be looked at."""
    if word == QUICK:
        needed = f"shift = tl.load({RANGE} + 2)\nif shift < 0:"
    else:
        needed = f"levels = tl.load({RANGE} + 1)\nif {digit} >= levels:"
    return f"{needed}\n    return\nbase = tl.load({RANGE})"


def _order_by_digit(sort: SortLaunches, word: int, level: int, buffers: dict[str, int]) -> None:
    size, last = sort.sort.size, sort.key_bits // BITS - 1
    digit = f"sort_level + {word * (last + 1)}"  # of all words
    holes: dict[str, object] = {
        "guard": _guard(word, digit) if sort.ranged else None,
        "load": sort.load(word, buffers[SOURCE], size, by_digits=True),
        "parts": 2,
        "first_bit": f"{BITS} * sort_level",
        "counts": COUNTS,
        "before": BEFORE,
        "totals": TOTALS,
    }
    after = sort.store()
    if word == QUICK:
        stores = Stores(after)
    elif sort.ranged:
        stores = _stores_of_ranged(sort, word, level, digit, buffers[SOURCE])
    elif buffers[SOURCE] != NO_BUFFER and last > 1:  # one kernel for all levels
        stores = Stores(after, sort.finish(word, by_digits=True), f"sort_level == {last}")
    else:
        stores = Stores(finish=sort.finish(word, True)) if level == last else Stores(after)
    blocks = sort.rows * ceil_div(size, BLOCK)
    counted = {
        **holes,
        "columns": BLOCK,
        "shift": sort.packing.shift,
        "shared": shared_memory(4 << BITS),
    }
    sort.add("sort_count.py.j2", "count", counted, buffers, blocks, _warps(BLOCK), level)
    _add_up(sort, holes, buffers, level)
    _change_places(sort, "move", BLOCK, {**holes, "stores": stores}, buffers, blocks, level)


def _stores_of_ranged(sort: SortLaunches, word: int, level: int, digit: str, source: int) -> Stores:
    """Results are stored by the last digit that elements differ in."""
    last = sort.key_bits // BITS - 1
    early = {"early": sort.results(word, by_digits=True), "done": f"{digit} == levels - 1"}
    if word + 1 == sort.words or source == NO_BUFFER:
        return Stores(sort.store(), **early)
    finish = sort.finish(word, by_digits=True)
    return Stores(sort.store(), finish, f"sort_level == {last}", **early)


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
        "shared": shared_memory(columns * (width + 4) + table),
    }
    registers = 0 if sort.wide else REGISTERS  # so that there are enough threads
    sort.add("sort_exchange.py.j2", form, holes, buffers, blocks, _warps(columns), level, registers)


def shared_memory(nbytes: int) -> str:
    """Text that gives the address of so many bytes of shared memory."""
    taken = f"{{ .shared .align 16 .b8 exchange[{nbytes}]; mov.u32 $0, exchange; }}"
    return f'tl.inline_asm_elementwise("{taken}", "=r", [], tl.int32, False, 1)'


def _warps(columns: int) -> int:
    return max(1, columns // (32 * THREAD))


def _find_range(sort: SortLaunches) -> int:
    """Between what all elements are, and how many digits their distances have: the buffer of the
    number from which distances are counted, of how many digits are gone through, of the bits below
    the upper digits that are tried first, and of all digits."""
    sort.ranged = True
    found = sort.temporary(_KNOWN + 2 * PARTS, "i64")
    holes: dict[str, object] = {
        "range": RANGE,
        "known": _KNOWN,
        "source": f"p{sort.sort.source}",
        "ordered": sort.ordered,
        "distances": [sort.distance("some"), sort.distance("others")],
        "sampled": SAMPLED,
        "crowded": CROWDED,
        "quick": sort.quick,
        "given": dim(sort.rows * sort.sort.size),
        "columns": SEARCHED,
        "parts": PARTS,
        "digits": sort.words * sort.key_bits // BITS,
        "descending": sort.sort.descending,
    }
    for form, blocks in (("range", PARTS), ("levels", 1)):
        sort.add(f"sort_{form}.py.j2", form, holes, {RANGE: found}, blocks, 8 if blocks > 1 else 4)
    return found


def _add_up(
    sort: SortLaunches, digit: dict[str, object], buffers: dict[str, int], level: int
) -> None:
    """Of each block and digit, how many there are in blocks before; of each digit, all."""
    typical = sort.options.typical(ceil_div(sort.sort.size, BLOCK))
    height = MOST_BLOCKS if typical is None else min(MOST_BLOCKS, power_of_two(typical))
    width = min(1 << BITS, max(FEWEST_DIGITS, ADDED // max(RUN, height)))
    holes: dict[str, object] = {
        **digit,
        "run": RUN,
        "runs": max(1, height // RUN),
        "width": width,
        "columns": BLOCK,
        "given": dim(sort.sort.size),
    }
    blocks, warps = sort.rows * ((1 << BITS) // width), 8 if height > ADDED // FEWEST_DIGITS else 4
    sort.add("sort_add.py.j2", "add", holes, buffers, blocks, warps, level)
