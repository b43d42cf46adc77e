"""Scatters whose rows run side by side, in launches that leave nothing to their order.

In: the program of a scatter. Out: programs that do the same one after the other, or None where
one launch does (memory combines what meets, or there are few rows: ``ownership``). Of rows that
are put in one place the last is kept: first each place learns its last row. Floats are added as
integers, whose sums have no order: first each place learns the largest exponent that it gets, then
terms are added as multiples of one power of two, so small that the error stays below that of
adding floats one after the other (the idea of one power for all terms: Demmel and Nguyen 2013,
"Fast Reproducible Floating-Point Summation", section III). Extremes are those of integers in
the order of the floats. Few places are tables of each block (``table_scatter``), or have several
copies each, so that rows do not wait for each other, and the copies are folded at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.ownership import scattered_index
from flamec.codegen.triton.recompute import names_of, operands_of
from flamec.codegen.triton.statements import ATOMIC
from flamec.codegen.triton.table_scatter import are_worth_tables
from flamec.ir.kernel import (
    Call,
    Compute,
    ComputedIndex,
    Constant,
    Fold,
    Keep,
    Linear,
    Load,
    Loop,
    Parameter,
    Part,
    Pass,
    Place,
    Position,
    Recall,
    RowProgram,
    Statement,
    Store,
)
from flamec.ir.layout import dense_strides
from flamec.ir.shape import Dim, product, structurally_equal

FEW_ROWS = 1024  # that a block looks at once
WIDE_ROW, LOOKED_AT = 32, 128  # indices at which a block may look for each element of a wide row
SPARSE = 16  # times as many elements of the result as of the rows
COPIED_ELEMENTS, MOST_COPIES = 1 << 16, 1024  # of few places, so that all of the cache is at work
MEETING = 4  # rows in a place, from which on a maximum is looked at before it is changed
ROWS_OF_A_COPY = 4  # at least, for each of its places
_BITS = 31  # of a term, of which there may be as many before a sum needs more than 62
_NO_ROW = -1
_SMALL = ("i8", "i16", "u8")  # which memory does not combine
_WHOLE = {"f32": "i32", "f64": "i64"} | dict.fromkeys(_SMALL, "i32")
_LEAST = {"i32": -(1 << 31), "i64": -(1 << 63)}


def is_unordered(s: Store, program: RowProgram, options: CodegenOptions) -> bool:
    """Whether rows may meet in a store: whatever their order is, the result is the same, or the
    caller does not mind."""
    if not s.place.indices or s.where or s.unordered:
        return True
    if not s.combine:
        return _is_same_in_all_rows(s.operand, program)
    if s.memory != s.lane or s.combine not in ATOMIC:
        return False
    any_order = s.combine == "sum" and not options.deterministic
    return s.memory in ("i32", "i64") or (s.memory in ("f32", "f64") and any_order)


def _is_same_in_all_rows(name: str, program: RowProgram) -> bool:
    if any(name == imported for imported, _ in program.imports):
        return True
    made = next(s for s in program.statements() if name in names_of(s))
    return isinstance(made, Constant)


@dataclass
class ScatterPhases:
    """The programs of one part. ``scratch``: memory type, elements and start of the buffers that
    they need besides the part's own, in the order of their numbers. ``single``: no place has
    several copies.

    ``claims`` are done before the rows, once each, ``keys`` before the rows, for each element; what
    stands for a store of the rows is ``instead`` of it, and ``ends`` are when all rows are done."""

    program: RowProgram
    options: CodegenOptions
    single: bool = False
    scratch: list[tuple[str, Dim, int]] = field(default_factory=list)
    claims: list[Statement] = field(default_factory=list)
    keys: list[Statement] = field(default_factory=list)
    instead: dict[Store, list[Statement]] = field(default_factory=dict)
    ends: list[End] = field(default_factory=list)

    def parts(self, part: Part) -> list[Part]:
        """The parts, in order. The last buffers of ``part`` are those that ``scratch`` lists."""
        first = len(self.program.parameters)
        numbers = range(first, first + len(self.scratch))
        found = [_filled(part, n, *buffer) for n, buffer in zip(numbers, self.scratch, strict=True)]
        program = part.program
        (block,) = program.passes
        if self.claims:
            needed, _ = sliced(block, self.claims, in_row=True)
            once = tuple(map(_once_a_row, needed))
            claims = replace(program, inner=(), passes=(Pass(once, ()),))
            found.append(replace(part, program=claims))
        if self.keys:
            row, element = sliced(block, self.keys, in_row=not block.element)
            found.append(replace(part, program=replace(program, passes=(Pass(row, element),))))
        rows = replace(program, passes=(Pass(self.put(block.row), self.put(block.element)),))
        found.append(replace(part, program=rows))
        return found + [end.part(part) for end in self.ends]

    def put(self, statements: Sequence[Statement]) -> tuple[Statement, ...]:
        """The statements with what stands for each scatter."""
        found: list[Statement] = []
        for s in statements:
            found += self.instead.get(s, [s]) if isinstance(s, Store) else [s]
        return tuple(found)

    # stores --------------------------------------------------------------------------
    def add(self, s: Store) -> bool:
        """Take a store; False if there is no way for it."""
        if not s.place.indices:
            return True
        copies = self._copies(s) if s.combine in ATOMIC else 1
        if copies == 1 and is_unordered(s, self.program, self.options):
            return True
        if not s.combine:
            self._claim(s)
            return True
        if s.lane == "b" or s.combine not in ATOMIC:
            return False
        exact = s.combine == "sum" and s.lane in ("f32", "f64") and self.options.deterministic
        if exact:  # copies are folded in float64
            self._exact_sum(s, copies if s.lane == "f32" else 1)
        elif s.combine == "sum":
            self._sum(s, copies)
        else:
            self._extreme(s, copies)
        return True

    def _buffer(self, memory: str, elements: Dim, start: int = 0) -> int:
        self.scratch.append((memory, elements, start))
        return len(self.program.parameters) + len(self.scratch) - 1

    def _copies(self, s: Store) -> int:
        """How many copies of each place rows share; one where blocks have tables of their own."""
        rows = self.options.typical(_product(self.program.rows))
        elements = _elements(s, self.program)
        places = self.options.typical(elements)
        single = structurally_equal(_product(self.program.inner), 1)
        if self.single or rows is None or not places or not single:
            return 1
        if self._has_table(s, elements):
            return 1
        most = min(COPIED_ELEMENTS // places, rows // (ROWS_OF_A_COPY * places), MOST_COPIES)
        return 1 << (most.bit_length() - 1) if most > 1 else 1

    def _has_table(self, s: Store, elements: Dim) -> bool:
        """Whether blocks combine rows in tables of so many places: of 32-bit numbers, or sums of
        integers."""
        if not structurally_equal(_product(self.program.inner), 1):
            return False
        if s.combine == "sum" and s.lane in ("f32", "f64") and not self.options.deterministic:
            return False
        if s.combine != "sum" and _WHOLE.get(s.lane, s.lane) != "i32":
            return False
        rows = self.options.typical(_product(self.program.rows))
        nbytes = 16 if s.lane == "f64" else 8
        return are_worth_tables(rows, self.options.room_for(elements), nbytes)

    def _claim(self, s: Store) -> None:
        """The last row of each place puts its elements there."""
        rows = _product(self.program.rows)
        few = self.options.narrow or (isinstance(rows, int) and rows < 1 << 31)
        lane = "i32" if few else "i64"
        sizes = tuple(i.size for i in s.place.indices)
        claims = self._buffer(lane, product(sizes), _NO_ROW)
        row, last, wins = (f"{kind}_{claims}" for kind in ("row", "last", "wins"))
        indices = [
            replace(i, stride=stride, error=0)
            for i, stride in zip(s.place.indices, dense_strides(sizes), strict=True)
        ]
        none = Linear(0, *((0,) * len(loops) for loops in (self.program.rows, self.program.inner)))
        place = Place(claims, none, tuple(indices))
        self.claims += [self._row(row, lane), Store(lane, lane, place, row, "amax")]
        self.instead[s] = [
            self._row(row, lane),
            Load(last, lane, lane, place),
            Compute(wins, "b", "eq", (last, row), (lane, lane)),
            replace(s, where=wins),
        ]

    def _row(self, name: str, lane: str) -> Position:
        sizes = tuple(loop.size for loop in self.program.rows)
        return Position(name, lane, Linear(0, dense_strides(sizes), (0,) * len(self.program.inner)))

    def _copied(self, s: Store, buffer: int, copies: int) -> tuple[Place, list[Statement]]:
        """The element of a buffer that stands for an element of the result, and what names it."""
        at = s.place.at
        there = Linear(
            at.offset * copies,
            tuple(stride * copies for stride in at.rows),
            tuple(stride * copies for stride in at.inner),
        )
        indices = [replace(i, stride=i.stride * copies, error=0) for i in s.place.indices]
        if copies == 1:
            return Place(buffer, there, tuple(indices)), []
        row, number, copy = (f"{kind}_{buffer}" for kind in ("row", "copies", "copy"))
        indices.append(ComputedIndex(copy, 1, copies, 0, inside=True))
        named: list[Statement] = [
            self._row(row, "i64"),
            Constant(number, "i64", copies),
            Compute(copy, "i64", "remainder", (row, number), ("i64", "i64")),
        ]
        return Place(buffer, there, tuple(indices)), named

    def _sum(self, s: Store, copies: int) -> None:
        """Terms of a type that memory adds."""
        lane = _WHOLE[s.lane] if s.lane in _SMALL else s.lane
        total = self._buffer(lane, _elements(s, self.program) * copies)
        place, named = self._copied(s, total, copies)
        term = f"term_{total}"
        self.instead[s] = [
            *named,
            Compute(term, lane, "convert", (s.operand,), (s.lane,)),
            _checked(Store(lane, lane, place, term, "sum"), s),
        ]
        self.ends.append(End(s, self.program, copies, (total,), (lane,), (), lane))

    def _extreme(self, s: Store, copies: int) -> None:
        """The greatest of integers in the order of the elements, or in the other one."""
        lane = _WHOLE.get(s.lane, s.lane)
        keys = self._buffer(lane, _elements(s, self.program) * copies, _LEAST[lane])
        place, named = self._copied(s, keys, copies)
        key = f"key_{keys}"
        self.instead[s] = [
            *named,
            Call(key, lane, f"flamec_order_{_form(s)}", (s.operand,)),
            *self._grown(s, _checked(Store(lane, lane, place, key, "amax"), s), copies),
        ]
        self.ends.append(End(s, self.program, copies, (keys,), (lane,), (), lane))

    def _grown(self, s: Store, largest: Store, copies: int) -> list[Statement]:
        """The store of a maximum. Where many rows meet in a place it is looked at before: most rows
        do not change it, and what is seen there may be old, but is never too large."""
        sizes = (_product(self.program.rows), _product(self.program.inner))
        given, there = self.options.typical(product(sizes)), _elements(s, self.program)
        places = self.options.typical(there)
        if self.single or copies > 1 or given is None or places is None:
            return [largest]
        if given < MEETING * places or self._has_table(s, there):
            return [largest]
        number, lane = largest.place.parameter, largest.lane
        seen, grows = f"seen_{number}", f"grows_{number}"
        return [
            Load(seen, lane, lane, replace(largest.place, indices=_unchecked(largest.place))),
            Compute(grows, "b", "gt", (largest.operand, seen), (lane, lane)),
            replace(largest, where=grows),
        ]

    def _exact_sum(self, s: Store, copies: int) -> None:
        """Integers: multiples of a power of two that the largest exponent of a place decides."""
        t, elements = s.lane, _elements(s, self.program) * copies
        kinds = ["term", "rest"] if t == "f64" else ["term"]
        keys = self._buffer("i32", elements)
        totals = [self._buffer("i64", elements) for _ in kinds]
        place, named = self._copied(s, keys, copies)
        key, most = f"key_{keys}", f"most_{keys}"
        self.keys += [
            *named,
            Call(key, "i32", f"flamec_sum_key_{t}", (s.operand,)),
            *self._grown(s, Store("i32", "i32", place, key, "amax"), copies),
        ]
        instead = [*named, Load(most, "i32", "i32", place)]
        for kind, total in zip(kinds, totals, strict=True):
            name, there = f"{kind}_{keys}", replace(place, parameter=total)
            function = f"flamec_sum_{kind}_{t}"
            stored = Store("i64", "i64", there, name, "sum")
            instead += [
                Call(name, "i64", function, (s.operand, most), (_BITS,)),
                _checked(stored, s) if kind == "term" else stored,
            ]
        self.instead[s] = instead
        lanes = ("i32", *("i64" for _ in totals))
        self.ends.append(End(s, self.program, copies, (keys, *totals), lanes, (_BITS,), "f64"))


@dataclass(frozen=True)
class End:
    """Joins what rows have left of a store with what was there. ``buffers`` and their ``lanes``: of
    an exact sum ``numbers`` say how they are read; ``lane``: in which copies are folded."""

    store: Store
    program: RowProgram
    copies: int
    buffers: tuple[int, ...]
    lanes: tuple[str, ...]
    numbers: tuple[int, ...]
    lane: str

    def part(self, part: Part) -> Part:
        """One element of the result a row, or all in one row where there are no copies."""
        s, elements = self.store, _elements(self.store, self.program)
        parameters = [Parameter(s.memory, True), *(Parameter(lane) for lane in self.lanes)]
        several = self.copies > 1
        rows = (Loop("r0", elements),) if several else ()
        inner = (Loop("e0", self.copies if several else elements),)
        here = Linear(0, (1,), (0,)) if several else Linear(0, (), (1,))
        there = Linear(0, (self.copies,), (1,)) if several else here
        each, left = self.found([Place(i + 1, there) for i in range(len(self.lanes))])
        if several:
            joined = "sum" if s.combine == "sum" else "amax"
            each.append(Fold("whole", self.lane, joined, left, "row"))
            left = "whole"
        end = self.joined(left, Place(0, here))
        passes = (Pass((), tuple(each)), Pass(tuple(end), ()))
        if not several:
            passes = (Pass((), (*each, *end)),)
        kind = "rows" if several else "flat"
        program = RowProgram(kind, tuple(parameters), rows, inner, passes)
        numbers = (s.place.parameter, *self.buffers)
        return Part(program, tuple(part.arguments[n] for n in numbers))

    def found(self, places: Sequence[Place]) -> tuple[list[Statement], str]:
        """What rows have left of an element in a place of each buffer, and its name."""
        each: list[Statement] = [
            Load(f"part{i}", lane, lane, place)
            for i, (lane, place) in enumerate(zip(self.lanes, places, strict=True))
        ]
        if not self.numbers:
            return each, "part0"
        parts = tuple(f"part{i}" for i in range(len(self.lanes)))
        function = f"flamec_sum_of_{self.store.lane}"
        return [*each, Call("part", "f64", function, parts, self.numbers)], "part"

    def joined(self, left: str, place: Place) -> list[Statement]:
        """What is stored of an element."""
        s, lane = self.store, self.lane
        old = Load("old", s.lane, s.memory, place)
        if s.combine == "sum":
            return [
                old,
                Compute("wide", lane, "convert", ("old",), (s.lane,)),
                Compute("total", lane, "add", ("wide", left), (lane, lane)),
                Compute("new", s.lane, "convert", ("total",), (lane,)),
                Store(s.memory, s.lane, place, "new"),
            ]
        return [
            old,
            Call("found", s.lane, f"flamec_from_order_{_form(s)}", (left,)),
            Compute("greater", s.lane, s.combine, ("old", "found"), (s.lane, s.lane)),
            Constant("least", lane, _LEAST[lane]),
            Compute("touched", "b", "ne", (left, "least"), (lane, lane)),
            Compute("new", s.lane, "where", ("touched", "greater", "old"), ("b", s.lane, s.lane)),
            Store(s.memory, s.lane, place, "new"),
        ]


def scatter_phases(program: RowProgram, options: CodegenOptions) -> ScatterPhases | None:
    """See the module's docstring."""
    if program.kind != "scatter" or len(program.passes) != 1 or program.after:
        return None
    if any(isinstance(s, (Fold, Keep, Recall)) for s in program.statements()):
        return None
    stores = [s for s in program.statements() if isinstance(s, Store)]
    if _are_looked_at(program, stores, options):
        return None
    phases = ScatterPhases(program, options)
    taken = all(phases.add(s) for s in stores)
    return phases if taken and phases.scratch else None


def _are_looked_at(program: RowProgram, stores: Sequence[Store], options: CodegenOptions) -> bool:
    """Whether blocks that look at all indices are done sooner."""
    rows, width = (options.typical(_product(loops)) for loops in (program.rows, program.inner))
    if not scattered_index(program):
        return False
    if rows is not None and rows <= FEW_ROWS:
        return True
    if not any(s.place.indices and s.combine == "sum" and s.lane[0] == "f" for s in stores):
        return False
    if not options.deterministic:
        return False
    if width is None or width >= WIDE_ROW:
        return rows is None or width is None or rows <= LOOKED_AT * width
    if rows is None:
        return False
    sizes = [options.typical(_elements(s, program)) for s in stores if s.place.indices]
    return any(n is not None and n > SPARSE * rows * width for n in sizes)


def _filled(part: Part, number: int, memory: str, elements: Dim, start: int) -> Part:
    """A buffer whose elements all are one number."""
    place = Place(0, Linear(0, (), (1,)))
    block = (Constant("start", memory, start), Store(memory, memory, place, "start"))
    loops, parameters = (Loop("e0", elements),), (Parameter(memory, True),)
    program = RowProgram("flat", parameters, (), loops, (Pass((), block),))
    return Part(program, (part.arguments[number],))


def sliced(
    block: Pass, wanted: Sequence[Statement], in_row: bool
) -> tuple[tuple[Statement, ...], tuple[Statement, ...]]:
    """What is needed for some statements, with them, once a row and for each element."""
    needed = {name for s in wanted for name in (*operands_of(s), *_stored(s))}
    kept: set[int] = set()
    for s in reversed((*block.row, *block.element)):
        if needed.intersection(names_of(s)):
            kept.add(id(s))
            needed.update(operands_of(s))
    row, element = (tuple(s for s in part if id(s) in kept) for part in (block.row, block.element))
    if in_row:
        return (*row, *element, *wanted), ()
    return row, (*element, *wanted)


def _once_a_row(s: Statement) -> Statement:
    """A statement that is the same inside a row, where there is no inside."""

    def trimmed(at: Linear) -> Linear:
        return replace(at, inner=())

    match s:
        case Position():
            return replace(s, at=trimmed(s.at))
        case Load() | Store():
            guards = tuple((trimmed(at), size) for at, size in s.place.guards)
            place = replace(s.place, at=trimmed(s.place.at), guards=guards)
            return replace(s, place=place)
    return s


def _stored(s: Statement) -> tuple[str, ...]:
    if not isinstance(s, Store):
        return ()
    return (s.operand, *(i.name for i in s.place.indices))


def _checked(s: Store, like: Store) -> Store:
    """A store whose indices are reported where they are out of range."""
    errors = [i.error for i in like.place.indices]
    errors += [0] * (len(s.place.indices) - len(errors))
    indices = [replace(i, error=e) for i, e in zip(s.place.indices, errors, strict=True)]
    return replace(s, place=replace(s.place, indices=tuple(indices)))


def _unchecked(place: Place) -> tuple[ComputedIndex, ...]:
    """The indices of a place that is reported elsewhere."""
    return tuple(replace(i, error=0) for i in place.indices)


def _form(s: Store) -> str:
    """Which order of which lane type an extreme is found in."""
    return f"down_{s.lane}" if s.combine == "amin" else f"up_{s.lane}"


def _elements(s: Store, program: RowProgram) -> Dim:
    """Of the array that a scatter gives, which is dense."""
    return product([*(i.size for i in s.place.indices), *(loop.size for loop in program.inner)])


def _product(loops: Sequence[Loop]) -> Dim:
    return product(loop.size for loop in loops)
