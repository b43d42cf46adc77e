"""What the launches of a sort have in common: elements as integers, places in memory, arguments.

In: a ``Sort`` and the numbers of its buffers. Out: text that loads elements and stores results,
and launches with their arguments. An element is an integer with its key above and its place along
the line below, so that no two are equal and every way to order them is stable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from flamec.codegen.lower.group import LoweredKernel
from flamec.codegen.lower.lanes import MEMORY_DTYPES
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.gpu_form import GpuKernel
from flamec.codegen.triton.side_by_side import PlannedLaunch
from flamec.codegen.triton.source import emit
from flamec.codegen.triton.text import POINTERS, TYPES, dim, factor, size_name
from flamec.ir.kernel import Sort
from flamec.ir.plan import Argument, Buffer
from flamec.ir.shape import Dim, SymbolicDim, format_dim, product, structurally_equal

LARGEST_SIZE = 1 << 31  # of a line: places are numbers of 31 bits
NO_BUFFER = -1
FIRST, SOURCE, TARGET = "q0", "q1", "q2"
COUNTS, BEFORE, TOTALS = "q3", "q4", "q5"
RANGE = "q6"  # what is known of all lines
QUICK = -1  # the word of a key that begins with its first digit that elements differ in
_LEVEL = "sort_level"
_ORDER = {
    "f32": "flamec_order_f32(x)",
    "f64": "flamec_order_f64(x)",
    "f16": "flamec_order_f16(x)",
    "bf16": "flamec_order_bf16(x)",
}
_OF_ORDER = {  # the element of a key, but for zeros and what is no number
    "f32": "flamec_of_order_32(key).to(tl.float32, bitcast=True)",
    "f16": "flamec_of_order_16(key).to(tl.float16, bitcast=True)",
    "bf16": "flamec_of_order_16(key).to(tl.bfloat16, bitcast=True)",
}
_NO_NUMBER = {"f32": "0x7FFFFFFF", "f16": "0x7FFF", "bf16": "0x7FFF"}
_WORDS = ("flamec_lower_word", "flamec_upper_word")
_SHORT = ("bool", "u8", "i8", "i16")
UNSIGNED = ("bool", "u8")


def longest_lines(kernels: Iterable[LoweredKernel]) -> list[list[Any]]:
    """Steps that sort lines which may be too long: the name, the size, and from where on it is."""
    sorts = [(k.kernel.name, k.kernel.sort.size) for k in kernels if k.kernel.sort is not None]
    return [
        [name, format_dim(size), LARGEST_SIZE]
        for name, size in sorts
        if isinstance(size, SymbolicDim) or size >= LARGEST_SIZE
    ]


@dataclass(frozen=True)
class Packing:
    """How a key and a place share an integer: the key above ``shift`` bits."""

    memory: str
    shift: int
    places: str
    largest: str

    def packed(self, key: str, place: str) -> str:
        kind = "tl.int64" if self.memory == "i64" else "tl.int32"
        return f"({key}.to({kind}) << {self.shift}) | {place}.to({kind})"


WIDE = Packing("i64", 32, "0x7FFFFFFF", "0x7FFFFFFFFFFFFFFF")
NARROW = Packing("i32", 16, "0xFFFF", "0x7FFFFFFF")


@dataclass(frozen=True)
class Stores:
    """What becomes of elements in order: ``after`` for a launch that follows, ``finish`` for the
    results or the next word; with both, ``last`` tells whether no digit of the word follows.
    ``early``: for the results, if ``done`` says that no digit follows that elements differ in."""

    after: str = ""
    finish: str = ""
    last: str = ""
    early: str = ""
    done: str = ""

    @property
    def cases(self) -> list[tuple[str, str]]:
        """Conditions, the last of which is none, and lines."""
        found = [(self.done, self.early)] if self.early else []
        if self.last:
            return [*found, (self.last, self.finish), ("", self.after)]
        return [*found, ("", self.after or self.finish)]


@dataclass
class SortLaunches:
    """The launches of one kernel. ``numbers``: the plan's buffer of each of its parameters."""

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
        bits = 8 * MEMORY_DTYPES[sort.memory].itemsize
        self.words = 2 if bits == 64 else 1
        self.key_bits = min(bits, 32)  # of a word
        few = isinstance(sort.size, int) and sort.size < 1 << 16
        self.packing = NARROW if bits <= 16 and few else WIDE
        reach = product((self.rows, sort.size))
        self.wide = reach >= 1 << 30 if isinstance(reach, int) else not self.options.narrow
        self.ranged = False  # whether keys are distances from the least or greatest element
        self.quick = False  # whether the upper half of what these have is tried first
        self.first = NO_BUFFER  # the buffer of the upper words in the order of the lower ones
        if self.words == 2:
            self.first = self.temporary(self.rows * sort.size)

    @property
    def unsigned(self) -> list[str]:
        """Lines that make a key one whose bits are in its order, or undo that."""
        if self.sort.memory in UNSIGNED:
            return []
        return [f"key = key ^ {-(1 << self.key_bits - 1)}"]

    @property
    def ordered(self) -> str:
        """``x`` as an integer in its order."""
        return _ORDER.get(self.sort.memory, "x.to(tl.int64)")

    def distance(self, x: str = "x") -> str:
        """How far an element is behind the one that comes first, ``base``."""
        ordered = _ORDER.get(self.sort.memory, "x.to(tl.int64)").replace("x", x)
        return f"base - {ordered}" if self.sort.descending else f"{ordered} - base"

    def loaded_once(self) -> set[int]:
        """Buffers that are read outside of the rows: none."""
        return set()

    def stored_early(self) -> set[int]:
        """Buffers that are written while other blocks may read: none that are inputs' places."""
        return set()

    # text ----------------------------------------------------------------------------
    def load(self, word: int, source: int, given: Dim, by_digits: bool = False) -> str:
        """Lines that give ``packed``: from elements, or from numbers that were stored.

        ``by_digits``: what counts is the order of the key's bits, not that of numbers.
        """
        if source != NO_BUFFER:
            return f"packed = tl.load({SOURCE} + (row * {factor(given)} + position), inside)"
        return "\n".join(self._packed(word, "position", by_digits))

    def _packed(self, word: int, place: str, by_digits: bool) -> list[str]:
        sort = self.sort
        if self.ranged:
            below = "shift" if word == QUICK else self.key_bits * word
            return [
                f"x = tl.load({self.element(place)}, inside)",
                f"key = ({self.distance()}) >> {below}",
                f"packed = {self.packing.packed('key', place)}",
            ]
        key = _ORDER.get(sort.memory, "x")
        if self.words == 2:
            key = f"{_WORDS[word]}({key})"
        lines = [f"x = tl.load({self.element(place)}, inside)", f"key = {key}"]
        if sort.memory in _SHORT:
            lines.append("key = key.to(tl.int32)")
        if sort.descending:
            lines.append("key = -1 - key")
        if by_digits:
            lines += self.unsigned
        return [*lines, f"packed = {self.packing.packed('key', place)}"]

    def source(self, word: int) -> int:
        """The buffer that holds a word's elements packed, if one does."""
        return self.first if word else NO_BUFFER

    def store(self) -> str:
        """The line that stores an element for a launch that follows."""
        at = f"{TARGET} + (row * {factor(self.sort.size)} + position)"
        return f"tl.store({at}, packed, inside)"

    def finish(self, word: int, by_digits: bool = False) -> str:
        """Lines that store what stands at ``position`` of the results, or the next word, of
        ``load``'s ``packed``."""
        if word + 1 == self.words:
            return self.results(word, by_digits)
        at = f"{FIRST} + (row * {factor(self.sort.size)} + position)"
        packed = self._packed(word + 1, "place", by_digits)
        place = f"place = packed & {self.packing.places}"
        return "\n".join([place, *packed, f"tl.store({at}, packed, inside)"])

    def results(self, word: int, by_digits: bool = False) -> str:
        """Lines that store what stands at ``position`` of the results, of which the words up to
        this one say all."""
        place = f"place = packed & {self.packing.places}"
        return "\n".join([place, self._wanted(), *self._values(word, by_digits), self._stores()])

    def store_wanted(self) -> str:
        """Lines that store ``value`` and ``place`` at ``position`` of the results, if wanted."""
        return f"{self._wanted()}\n{self._stores()}"

    def _wanted(self) -> str:
        return f"kept = inside & (position < {dim(self.sort.count)})"

    def _stores(self) -> str:
        sort, at = self.sort, f"result + {self.step('position')}"
        return (
            f"tl.store(p{sort.values} + ({at}), value, kept)\n"
            f"tl.store(p{sort.places} + ({at}), place.to(tl.int64), kept)"
        )

    def _values(self, word: int, by_digits: bool) -> list[str]:
        """Lines that give ``value``: from the key, or from the place, where keys do not say all."""
        memory = self.sort.memory
        if self.ranged and not word and self.sort.memory not in _ORDER:
            sign = "-" if self.sort.descending else "+"
            key = f"((packed >> {self.packing.shift}) & 0xFFFFFFFF)"
            return [f"value = (base {sign} {key}).to({TYPES[memory]})"]
        if self.words == 2:
            return [f"value = tl.load({self.element('place')}, kept)"]
        lines = [f"key = (packed >> {self.packing.shift}).to(tl.int32)"]
        if by_digits:
            lines += self.unsigned
        if self.sort.descending:
            lines.append("key = -1 - key")
        if memory not in _OF_ORDER:
            return [*lines, f"value = key.to({TYPES[memory]})"]
        return [
            *lines,
            f"alike = (key == 0) | (key == {_NO_NUMBER[memory]})",
            f"exact = tl.load({self.element('place')}, kept & alike, other=0)",
            f"value = tl.where(alike, exact, {_OF_ORDER[memory]})",
        ]

    def element(self, place: str) -> str:
        """Where an element of the operand stands."""
        wide = ".to(tl.int64)" if self.wide else ""
        return f"p{self.sort.source} + (start + {self.step(place + wide)})"

    def step(self, place: str) -> str:
        """How far a place along a line is from its beginning, in elements."""
        inner = self.sort.inner
        return place if structurally_equal(inner, 1) else f"{place} * {factor(inner)}"

    # launches ------------------------------------------------------------------------
    def add(
        self,
        template: str,
        form: str,
        holes: dict[str, object],
        buffers: dict[str, int],
        blocks: Dim,
        warps: int,
        level: int = 0,
        registers: int = 0,
    ) -> None:
        """Fill a template; ``buffers``: the plan's buffer of each temporary that it may name."""
        kernel, sort = self.gpu.lowered.kernel, self.sort
        holes = {
            "name": f"flamec_sort_{form}",
            "doc": f"{', '.join(kernel.operations)}: {form}",
            "index": "tl.int64" if self.wide else "tl.int32",
            "row_count": dim(self.rows),
            "size": dim(sort.size),
            "factor_size": factor(sort.size),
            "source_start": _start(sort, sort.size),
            "result_start": _start(sort, sort.count),
            "largest": self.packing.largest,
            "guard": None,
            **holes,
        }
        pointers = {f"p{i}": POINTERS[p.memory] for i, p in enumerate(kernel.parameters)}
        pointers |= dict.fromkeys((COUNTS, BEFORE, TOTALS), "*i32")
        pointers |= dict.fromkeys((FIRST, SOURCE, TARGET), f"*{self.packing.memory}")
        pointers[RANGE] = "*i64"
        launch = emit(template, holes, pointers, blocks, warps, wide=self.wide, registers=registers)
        numbers = {f"p{i}": Argument(number) for i, number in enumerate(self.numbers)}
        for name, number in {FIRST: self.first, **buffers}.items():
            numbers[name] = Argument(number)
        numbers[_LEVEL] = Argument(value=level)
        arguments = tuple(numbers.get(name) or _size(name) for name in launch.arguments)
        used = frozenset(a.buffer for a in arguments if a.buffer >= 0)
        self.launches.append(PlannedLaunch(launch, arguments, used, used))

    def temporary(self, elements: Dim, memory: str = "") -> int:
        """A buffer of so many elements, packed ones if nothing else is said."""
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
