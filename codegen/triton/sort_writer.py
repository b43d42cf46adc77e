"""Write a sort as Triton kernels: blocks put in order, then pairs of runs merged.

In: a ``Sort`` and the numbers of its buffers. Out: launches with their arguments. An element is
an integer with its key above and its place along the line below, so no two are equal and every
network is stable. A block is put in order by a bitonic network (Batcher 1968, "Sorting networks and
their applications"). Of two runs that are merged, each element finds by bisection how many of
the other stand before it (Cormen et al., "Introduction to Algorithms", P-MERGE). Where few of
many are wanted, blocks keep their first ones until one block holds all. Keys of 64 bits are
put in order by their lower halves, then by their upper halves.

A size that is a symbol gives launches for every number of runs; those that a call does not need
have no blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from flamec.codegen.errors import LoweringError
from flamec.codegen.lower.lanes import MEMORY_DTYPES
from flamec.codegen.options import CodegenOptions, power_of_two
from flamec.codegen.triton.gpu_form import GpuKernel
from flamec.codegen.triton.program_writer import ceil_div
from flamec.codegen.triton.side_by_side import PlannedLaunch
from flamec.codegen.triton.source import emit
from flamec.codegen.triton.text import POINTERS, dim, factor, size_name
from flamec.ir.kernel import Sort
from flamec.ir.plan import Argument, Buffer
from flamec.ir.shape import Dim, SymbolicDim, product, structurally_equal

MOST = 512  # elements of a block: merging two runs is faster than a longer network
SEARCHED = 2048  # of a block of which few are kept
MERGED = 512  # of a block whose elements look for their places
ELEMENTS = 1024  # that rows of few elements have together in a block
LARGEST_SIZE = 1 << 31  # of a line: places are numbers of 31 bits
_MERGE_LEVEL = "merge_level"
_FIRST, _SOURCE, _TARGET = "q0", "q1", "q2"
_NONE = -1  # no buffer
_ORDER = {
    "f32": "flamec_order_f32(x)",
    "f64": "flamec_order_f64(x)",
    "f16": "flamec_order_f16(x)",
    "bf16": "flamec_order_bf16(x)",
}
_WORDS = ("flamec_lower_word", "flamec_upper_word")


@dataclass(frozen=True)
class _Packing:
    """How a key and a place share an integer."""

    memory: str
    shift: int
    places: str
    largest: str

    def packed(self, key: str, place: str) -> str:
        kind = "tl.int64" if self.memory == "i64" else "tl.int32"
        return f"({key}.to({kind}) << {self.shift}) | {place}.to({kind})"


_WIDE = _Packing("i64", 32, "0x7FFFFFFF", "0x7FFFFFFFFFFFFFFF")
_NARROW = _Packing("i32", 16, "0xFFFF", "0x7FFFFFFF")


@dataclass(frozen=True)
class _Stores:
    """What becomes of elements in order: ``after`` for a launch that follows, ``finish`` for the
    results; with both, ``last`` tells whether nothing follows."""

    after: str = ""
    finish: str = ""
    last: str = ""


@dataclass
class SortWriter:
    """Writes one kernel. ``numbers``: the plan's buffer of each of its parameters."""

    gpu: GpuKernel
    numbers: tuple[int, ...]
    new_buffer: Callable[[Buffer], int]
    options: CodegenOptions
    launches: list[PlannedLaunch] = field(default_factory=list)
    temporaries: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        sort = self.gpu.lowered.kernel.sort
        assert sort is not None
        self.sort: Sort = sort
        self.rows = sort.outer * sort.inner
        if isinstance(sort.size, int) and sort.size >= LARGEST_SIZE:
            raise LoweringError(f"cannot sort lines of {sort.size} elements on a GPU")
        bits = 8 * MEMORY_DTYPES[sort.memory].itemsize
        self.words = 2 if bits == 64 else 1
        few = isinstance(sort.size, int) and sort.size < 1 << 16
        self.packing = _NARROW if bits <= 16 and few else _WIDE
        typical = self.options.typical(sort.size)
        self.columns = min(power_of_two(max(2, typical or MOST)), MOST)
        self.block_rows = 1
        rows = self.options.typical(self.rows)
        if self.columns < ELEMENTS and rows is not None:
            self.block_rows = min(ELEMENTS // self.columns, power_of_two(rows))
        reach = product((self.rows, sort.size))
        self.wide = reach >= 1 << 30 if isinstance(reach, int) else not self.options.narrow
        self.first = _NONE  # the buffer of the places in the order of the lower words
        if self.words == 2:
            self.first = self._temporary(self.rows * sort.size, "i32")

    def loaded_once(self) -> set[int]:
        """Buffers that are read outside of the rows: none."""
        return set()

    def stored_early(self) -> set[int]:
        """Buffers that are written while other blocks may read: none that are inputs' places."""
        return set()

    def write(self) -> None:
        """All launches, in order."""
        if self.words == 1 and self._few():
            self._select()
            return
        for word in range(self.words):
            self._whole_order(word)

    # what is launched --------------------------------------------------------------------
    def _few(self) -> bool:
        sort = self.sort
        if not isinstance(sort.size, int) or not isinstance(sort.count, int):
            return False
        return sort.size > MOST and 4 * sort.count <= MOST

    def _select(self) -> None:
        """Each block keeps its first elements, until one has all that are left."""
        given, count, source = self.sort.size, self.sort.count, _NONE
        assert isinstance(given, int) and isinstance(count, int)
        kept = power_of_two(max(1, count))
        while given > self.columns:
            columns = min(SEARCHED, power_of_two(given))
            blocks = -(-given // columns)
            target = self._temporary(self.rows * (blocks * kept))
            first = f"row * {blocks * kept} + block * {kept}"
            at = f"{_TARGET} + ({first} + tl.arange(0, {kept})[None, :])"
            stores = _Stores(f"tl.store({at}, packed, row < {dim(self.rows)})")
            load = self._load(0, source, given)
            self._block((source, target), given, load, stores, (1, columns), kept)
            given, source = blocks * kept, target
        finish = _Stores(finish=self._finish(0))
        tile = (self.block_rows, self.columns)
        self._block((source, _NONE), given, self._load(0, source, given), finish, tile)

    def _whole_order(self, word: int) -> None:
        """All in order by one word of the keys."""
        size, finish, run = self.sort.size, self._finish(word), self.columns
        end = size if isinstance(size, int) else LARGEST_SIZE
        targets = [self._temporary(self.rows * size) for _ in range(2 if run < end else 0)]
        after = f"tl.store({_TARGET} + (row * {factor(size)} + position), packed, inside)"
        stores = _Stores(after, finish, f"{dim(size)} <= {run}")
        if isinstance(size, int):
            stores = _Stores(after) if run < end else _Stores(finish=finish)
        target = targets[0] if targets else _NONE
        tile = (self.block_rows, self.columns)
        self._block((_NONE, target), size, self._load(word, _NONE, size), stores, tile)
        level = 0
        while run < end:
            source, target = targets[level % 2], targets[(level + 1) % 2]
            last = f"2 * run >= {dim(size)}"
            self._merge((source, target), run, level, _Stores(after, finish, last))
            run, level = 2 * run, level + 1

    def _load(self, word: int, source: int, given: Dim) -> str:
        """Lines that give ``packed``: from elements, or from numbers that were stored."""
        if source != _NONE:
            return f"packed = tl.load({_SOURCE} + (row * {factor(given)} + position), inside)"
        sort, place = self.sort, "position"
        lines = []
        if word:
            place = "place"
            lines.append(f"place = {self._placed('position', 'inside')}")
        lines.append(f"x = tl.load({self._element(place)}, inside)")
        key = _ORDER.get(sort.memory, "x")
        if self.words == 2:
            key = f"{_WORDS[word]}({key})"
        lines.append(f"key = {key}")
        if sort.memory in ("bool", "u8", "i8", "i16"):
            lines.append("key = key.to(tl.int32)")
        if sort.descending:
            lines.append("key = -1 - key")
        return "\n".join([*lines, f"packed = {self.packing.packed('key', 'position')}"])

    def _finish(self, word: int) -> str:
        """Lines that store what stands at ``position`` of the results."""
        sort = self.sort
        lines = [f"place = packed & {self.packing.places}"]
        if word + 1 < self.words:
            at = f"{_FIRST} + (row * {factor(sort.size)} + position)"
            return "\n".join([*lines, f"tl.store({at}, place.to(tl.int32), inside)"])
        lines.append(f"kept = inside & (position < {dim(sort.count)})")
        if word:
            lines.append(f"place = {self._placed('place', 'kept')}")
        at = f"result + {self._step('position')}"
        return "\n".join(
            [
                *lines,
                f"tl.store(p{sort.values} + ({at}), tl.load({self._element('place')}, kept), kept)",
                f"tl.store(p{sort.places} + ({at}), place.to(tl.int64), kept)",
            ]
        )

    def _placed(self, position: str, mask: str) -> str:
        """What stands at a position in the order of the lower words."""
        at = f"{_FIRST} + (row * {factor(self.sort.size)} + {position})"
        return f"tl.load({at}, {mask}, other=0)"

    def _element(self, place: str) -> str:
        wide = ".to(tl.int64)" if self.wide else ""
        return f"p{self.sort.source} + (start + {self._step(place + wide)})"

    def _step(self, place: str) -> str:
        inner = self.sort.inner
        return place if structurally_equal(inner, 1) else f"{place} * {factor(inner)}"

    # launches ----------------------------------------------------------------------------
    def _block(
        self,
        buffers: tuple[int, int],
        given: Dim,
        load: str,
        stores: _Stores,
        tile: tuple[int, int],
        kept: int = 0,
    ) -> None:
        """``kept``: how many of the first elements of a block are wanted, 0 for all."""
        holes: dict[str, object] = {"merge": None, "load": load, "given": dim(given)}
        self._add({**holes, "kept": kept}, buffers, given, tile, stores)

    def _merge(self, buffers: tuple[int, int], run: int, level: int, stores: _Stores) -> None:
        size = self.sort.size
        merge = {"source": _SOURCE, "run": self.columns, "steps": self.columns.bit_length()}
        holes: dict[str, object] = {"merge": merge, "load": "", "given": dim(size), "kept": 0}
        needed = 1 - 2 // (ceil_div(size, run) + 1)  # 0 if there is one run only
        self._add(holes, buffers, size, (1, MERGED), stores, level, needed)

    def _add(
        self,
        holes: dict[str, object],
        buffers: tuple[int, int],
        given: Dim,
        tile: tuple[int, int],
        stores: _Stores,
        level: int = 0,
        times: Dim = 1,
    ) -> None:
        kernel, sort, (rows, columns) = self.gpu.lowered.kernel, self.sort, tile
        form = "merge" if holes["merge"] else "block"
        holes = {
            **holes,
            "name": f"flamec_sort_{form}",
            "doc": f"{', '.join(kernel.operations)}: {form}",
            "index": "tl.int64" if self.wide else "tl.int32",
            "columns": columns,
            "rows": rows,
            "row_count": dim(self.rows),
            "size": dim(sort.size),
            "factor_size": factor(sort.size),
            "source_start": _start(sort, sort.size),
            "result_start": _start(sort, sort.count),
            "largest": self.packing.largest,
            "stores": stores,
        }
        pointers = {f"p{i}": POINTERS[p.memory] for i, p in enumerate(kernel.parameters)}
        pointers |= {_FIRST: "*i32"} | dict.fromkeys((_SOURCE, _TARGET), f"*{self.packing.memory}")
        blocks = ceil_div(self.rows, rows) * ceil_div(given, columns) * times
        warps = max(1, min(8, columns * rows // 256))
        launch = emit("sort.py.j2", holes, pointers, blocks, warps, wide=self.wide)
        numbers = {f"p{i}": Argument(number) for i, number in enumerate(self.numbers)}
        for name, number in zip((_FIRST, _SOURCE, _TARGET), (self.first, *buffers), strict=True):
            numbers[name] = Argument(number)
        numbers[_MERGE_LEVEL] = Argument(value=level)
        arguments = tuple(numbers.get(name) or _size(name) for name in launch.arguments)
        used = frozenset(a.buffer for a in arguments if a.buffer >= 0)
        self.launches.append(PlannedLaunch(launch, arguments, used, used))

    def _temporary(self, elements: Dim, memory: str = "") -> int:
        dtype = MEMORY_DTYPES[memory or self.packing.memory]
        number = self.new_buffer(Buffer("order", "temporary", dtype, elements))
        self.temporaries.append(number)
        return number


def _size(name: str) -> Argument:
    return Argument(value=SymbolicDim.symbol(name.removeprefix(size_name(""))))


def _start(sort: Sort, count: Dim) -> str:
    """Where the line of a row begins in an array with ``count`` elements along the line."""
    if structurally_equal(sort.inner, 1):
        return f"row * {factor(count)}"
    return (
        f"row // {factor(sort.inner)} * {factor(count * sort.inner)} + row % {factor(sort.inner)}"
    )
