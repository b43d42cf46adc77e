"""The first few elements of long lines, found by the digits of their keys and places.

In: the launches of a sort of which few elements are wanted. Out: more launches. Blocks count how
often a digit of eleven bits occurs in a line, which tells how far down the last wanted element
reaches; of the elements that share its digit the next digit is counted, and so on, until no more
are left than one block puts in order (Alabi, Blanchard, Gordon and Steinbach, "Fast k-selection
algorithms for graphics processing units", JEA 17, 2012, section 3.1). These are collected in
whatever order memory is written; as each is a number of its own, its place included, the result
has one order. Launches for digits that need not be looked at end at once.
"""

from __future__ import annotations

from collections.abc import Callable

from flamec.codegen.options import power_of_two
from flamec.codegen.triton.program_writer import ceil_div
from flamec.codegen.triton.radix_sort import shared_memory
from flamec.codegen.triton.sort_launches import (
    NO_BUFFER,
    RANGE,
    TARGET,
    TOTALS,
    UNSIGNED,
    SortLaunches,
)
from flamec.ir.shape import Dim

LEAST_SIZE = 1 << 14  # of a line; of a shorter one, blocks keep their first elements sooner
MOST_WANTED, ROOM = 1024, 512  # elements, and those that are collected at least
BITS = 11  # of a digit
BLOCK = 2048  # elements at a time
STRIP, STRIPS = 1 << 13, 1 << 10  # elements that a block counts at least, and strips at most
_STATE, _PLACE_BITS = 8, 31  # numbers for each line, and bits of a place in any


def selects_by_digits(size: int | None, count: Dim) -> bool:
    """Whether so many elements of a line that typically has ``size`` are found this way."""
    few = isinstance(count, int) and 0 < count <= MOST_WANTED
    return few and size is not None and size >= LEAST_SIZE


def select_by_digits(sort: SortLaunches, in_order: Callable[[int, Dim, int], None]) -> None:
    """``in_order``: puts lines of a buffer, of so many elements and of at most so many, in order by
    one block each."""
    size, count, shift = sort.sort.size, sort.sort.count, sort.packing.shift
    typical = sort.options.typical(size)
    assert typical is not None and isinstance(count, int)
    places = (size - 1).bit_length() if isinstance(size, int) else _PLACE_BITS
    shifts = _shifts(sort.key_bits, shift, places)
    room = max(ROOM, 2 * power_of_two(count))
    strip = STRIP * power_of_two(-(-typical // (STRIP * STRIPS)))
    unsigned = sort.sort.memory in UNSIGNED
    least = -(1 << BITS - 1) if not unsigned else -(1 << BITS) if sort.sort.descending else 0
    buffers = {
        TOTALS: sort.temporary(sort.rows * (len(shifts) << BITS), "i32"),
        RANGE: sort.temporary(sort.rows * _STATE, "i64"),
        TARGET: sort.temporary(sort.rows * room),
    }
    holes: dict[str, object] = {
        "load": sort.load(0, NO_BUFFER, size),
        "columns": BLOCK,
        "bins": 1 << BITS,
        "levels": len(shifts),
        "shifts": shifts,
        "state": f"({RANGE} + row * {_STATE})",
        "totals": TOTALS,
        "target": TARGET,
        "room": room,
        "strip": strip,
        "least": least,
        "count": count,
        "shared": shared_memory(4 * ((1 << BITS) + BLOCK)),
    }
    strips = sort.rows * ceil_div(size, strip)
    sort.add("select_start.py.j2", "start", holes, buffers, sort.rows, 4)
    for level in range(len(shifts)):
        sort.add("select_count.py.j2", "tally", holes, buffers, strips, 4, level)
        sort.add("select_pick.py.j2", "pick", holes, buffers, sort.rows, 4, level)
    sort.add("select_collect.py.j2", "collect", holes, buffers, strips, 4)
    in_order(buffers[TARGET], room, room)


def _shifts(key_bits: int, shift: int, place_bits: int) -> list[int]:
    """Below which bits of an element a digit stands: those of keys, then those of places."""
    found = [shift + max(0, key_bits - BITS * n) for n in range(1, -(-key_bits // BITS) + 1)]
    return found + [max(0, place_bits - BITS * n) for n in range(1, -(-place_bits // BITS) + 1)]
