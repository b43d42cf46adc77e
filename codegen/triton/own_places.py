"""Scatters whose rows bring the first of their indices with them: along the last axis, say.

In: the program of a scatter. Out: a program of kind "tables" that does all of it in one launch, or
None. A block has all rows with the same first indices, and so all that is put in their places: a
table in its shared memory learns the last row of each place, or sums and extremes of what the rows
bring, by the integers of ``scatter_phases``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flamec.codegen.lower.lanes import MEMORY_BYTES
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.recompute import renamed
from flamec.codegen.triton.scatter_phases import End, ScatterPhases, sliced
from flamec.codegen.triton.table_scatter import (
    has_single_rows,
    inside_of_row,
    scattered_stores,
)
from flamec.ir.kernel import (
    Constant,
    Linear,
    Load,
    Loop,
    Pass,
    Place,
    Position,
    RowProgram,
    Statement,
    Store,
    Table,
    in_table,
    name_of,
)
from flamec.ir.layout import dense_strides
from flamec.ir.shape import Dim, product, structurally_equal

MOST_BYTES = 48 << 10  # of shared memory that a block may have without asking
FEW_BLOCKS, LONG_ROW = 64, 1 << 13  # where there is not enough for all of the processors to do
FEW_ROWS = 1 << 14  # that are put soon enough in any way


def own_places(program: RowProgram, options: CodegenOptions) -> RowProgram | None:
    """See the module's docstring."""
    stores = scattered_stores(program)
    if not stores or not has_single_rows(program):
        return None
    count = min(_own_indices(s, program) for s in stores)
    shared = {tuple((i.name, i.stride, i.size) for i in s.place.indices) for s in stores}
    if not count or len(shared) != 1 or not _is_worth_it(program, count, options):
        return None
    index = stores[0].place.indices
    sizes = tuple(i.size for i in index[count:])
    dense = map(structurally_equal, (i.stride for i in index[count:]), dense_strides(sizes))
    elements = options.room_for(product(sizes))
    if elements is None or not all(dense) or not all(map(_is_plain, stores)):
        return None
    phases = ScatterPhases(program, replace(options, deterministic=True), single=True)
    if not all(map(phases.add, stores)) or not phases.scratch:
        return None
    tables = tuple(Table(memory, elements, start) for memory, _, start in phases.scratch)
    if elements * sum(MEMORY_BYTES[t.memory] for t in tables) > MOST_BYTES:
        return None
    if any(t.memory == "i64" and t.start for t in tables):  # an extreme of 64 bits
        return None
    return _Rewriting(phases, count, sizes, tables).program()


def _own_indices(s: Store, program: RowProgram) -> int:
    """How many of the first indices are those of the first loops over rows; neither all indices
    nor all loops."""
    made = {name_of(p): p for p in program.statements() if isinstance(p, Position)}
    most = min(len(s.place.indices), len(program.rows)) - 1
    for number in range(most):
        index, loop = s.place.indices[number], program.rows[number]
        position = made.get(index.name)
        if position is None or not _has_room(index.size, loop.size):
            return number
        steps = [structurally_equal(d, int(i == number)) for i, d in enumerate(position.at.rows)]
        if not all(steps) or not structurally_equal(position.at.offset, 0):
            return number
    return max(0, most)


def _has_room(size: Dim, count: Dim) -> bool:
    if isinstance(size, int) and isinstance(count, int):
        return count <= size
    return structurally_equal(size, count)


def _is_plain(s: Store) -> bool:
    """Whether indices alone say where an element is put."""
    at = s.place.at
    here = all(structurally_equal(d, 0) for d in (*at.rows, *at.inner))
    return here and not s.place.guards and not s.where


def _is_worth_it(program: RowProgram, count: int, options: CodegenOptions) -> bool:
    sizes = [loop.size for loop in program.rows]
    blocks = options.typical(product(sizes[:count]))
    length = options.typical(product(sizes[count:]))
    if blocks is None or length is None or blocks * length <= FEW_ROWS:
        return False
    return blocks >= FEW_BLOCKS or length <= LONG_ROW


class _Rewriting:
    """Phases over memory become passes over tables."""

    def __init__(
        self, phases: ScatterPhases, count: int, sizes: tuple[Dim, ...], tables: tuple[Table, ...]
    ) -> None:
        self._phases, self._count, self._tables = phases, count, tables
        self._given = phases.program
        self._first = len(self._given.parameters)
        self._places = Loop("t0", product(sizes))

    def program(self) -> RowProgram:
        given, phases = self._given, self._phases
        (block,) = given.passes
        statements = (*block.row, *block.element)
        wanted = [*phases.claims, *phases.keys]
        before = sliced(block, wanted, in_row=True)[0] if wanted else ()
        rows = phases.put(statements)
        passes = [Pass((), self._moved(part)) for part in (before, rows) if part]
        ends = [s for number, end in enumerate(phases.ends) for s in self._end(end, number)]
        if ends:
            passes.append(Pass((), tuple(ends), (self._places,)))
        return replace(
            given,
            kind="tables",
            rows=given.rows[: self._count],
            inner=given.rows[self._count :],
            passes=tuple(passes),
            tables=self._tables,
        )

    def _moved(self, statements: Sequence[Statement]) -> tuple[Statement, ...]:
        return tuple(self._in_tables(inside_of_row(s, self._count)) for s in statements)

    def _in_tables(self, s: Statement) -> Statement:
        """A statement of which places in buffers of the phases are in tables."""
        if not isinstance(s, (Load, Store)) or s.place.parameter < self._first:
            return s
        number = in_table(s.place.parameter - self._first)
        nowhere = (0,) * len(self._given.rows)
        at = Linear(0, nowhere[: self._count], nowhere[self._count :])
        return replace(s, place=Place(number, at, s.place.indices[self._count :]))

    def _end(self, end: End, number: int) -> list[Statement]:
        """What is stored of each place when all rows are in the tables."""
        rows = (0,) * self._count
        tables = [Place(in_table(n - self._first), Linear(0, rows, (1,))) for n in end.buffers]
        given = end.store.place
        strides = tuple(i.stride for i in given.indices[: self._count])
        found, left = end.found(tables)
        stored = end.joined(left, Place(given.parameter, Linear(given.at.offset, strides, (1,))))
        statements = [*found, *stored]
        names = {name_of(s): f"{name_of(s)}_of_end{number}" for s in statements if name_of(s)}
        return [
            replace(s, name=names[s.name]) if isinstance(s, Constant) else renamed(s, names)
            for s in statements
        ]
