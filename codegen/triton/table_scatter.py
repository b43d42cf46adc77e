"""Scatters of many rows in few places: each block has a table of the places in shared memory.

In: the program of a scatter whose rows memory would combine. Out: a program of kind "tables" that
does the same, or None where tables would be too large for the rows of a block. What rows of a
block leave in a place is combined in its table, and memory combines the tables.
"""

from __future__ import annotations

from dataclasses import replace

from flamec.codegen.lower.lanes import MEMORY_BYTES
from flamec.codegen.options import CodegenOptions
from flamec.ir.kernel import (
    Compute,
    Constant,
    Fold,
    Keep,
    Linear,
    Load,
    Loop,
    Pass,
    Place,
    Position,
    RandomBits,
    Recall,
    RowProgram,
    Statement,
    Store,
    Table,
    in_table,
)
from flamec.ir.layout import dense_strides
from flamec.ir.shape import product, structurally_equal

SHARED_BYTES = 16 << 10  # of tables, so that several blocks have room on a processor
MANY_ROWS, ROWS_OF_A_PLACE = 1 << 16, 16  # where tables are worth what joining them takes
_IDENTITIES = {"sum": {"i32": 0, "i64": 0}, "amax": {"i32": -(1 << 31)}}


def are_worth_tables(rows: int | None, places: int | None, nbytes: int) -> bool:
    """Whether so many rows should have tables of so many places, of ``nbytes`` each."""
    if rows is None or places is None or rows < MANY_ROWS:
        return False
    return rows >= ROWS_OF_A_PLACE * places and places * nbytes <= SHARED_BYTES


def shared_places(program: RowProgram, options: CodegenOptions) -> RowProgram | None:
    """See the module's docstring."""
    stores = scattered_stores(program)
    if not stores or not has_single_rows(program):
        return None
    rows = options.typical(product(loop.size for loop in program.rows))
    tables: list[Table] = []
    joined: list[Statement] = []
    instead: dict[int, Store] = {}
    for number, s in enumerate(stores):
        table = _table_of(s, options)
        if table is None:
            return None
        tables.append(table)
        here = Place(in_table(number), s.place.at, s.place.indices)
        instead[id(s)] = replace(s, place=here)
        joined += _joined(s, number, table)
    elements = tables[0].elements
    if any(t.elements != elements for t in tables):
        return None
    if not are_worth_tables(rows, elements, sum(MEMORY_BYTES[t.memory] for t in tables)):
        return None
    (block,) = program.passes
    statements = [instead.get(id(s), s) for s in (*block.row, *block.element)]
    moved = tuple(inside_of_row(s, 0) for s in statements)
    ends = Pass((), tuple(joined), (Loop("t0", elements),))
    return replace(
        program,
        kind="tables",
        rows=(),
        inner=program.rows,
        passes=(Pass((), moved), ends),
        tables=tuple(tables),
    )


def scattered_stores(program: RowProgram) -> list[Store]:
    """The stores of a scatter that only stores at computed places; else none."""
    if program.kind != "scatter" or len(program.passes) != 1 or program.after:
        return []
    if any(isinstance(s, (Fold, Keep, Recall, RandomBits)) for s in program.statements()):
        return []
    stores = [s for s in program.statements() if isinstance(s, Store)]
    return stores if all(s.place.indices for s in stores) else []


def has_single_rows(program: RowProgram) -> bool:
    """Whether a row is one element."""
    return all(structurally_equal(loop.size, 1) for loop in program.inner)


def _table_of(s: Store, options: CodegenOptions) -> Table | None:
    """The table of a store that memory combines, if its array is dense and small enough."""
    start = _IDENTITIES.get(s.combine, {}).get(s.memory)
    sizes = [i.size for i in s.place.indices]
    elements = options.room_for(product(sizes))
    if start is None or s.memory != s.lane or s.where or elements is None:
        return None
    at, strides = s.place.at, [i.stride for i in s.place.indices]
    if not all(structurally_equal(n, 0) for n in (at.offset, *at.rows)) or s.place.guards:
        return None
    if not all(map(structurally_equal, strides, dense_strides(tuple(sizes)))):
        return None
    return Table(s.memory, elements, start)


def _joined(s: Store, number: int, table: Table) -> list[Statement]:
    """What a block has for a place is combined with what is there, if it has anything."""
    found, none, some = (f"{kind}_{number}" for kind in ("found", "none", "some"))
    at = Linear(0, (), (1,))
    lane = table.memory
    place = Place(s.place.parameter, at)
    return [
        Load(found, lane, lane, Place(in_table(number), at)),
        Constant(none, lane, table.start),
        Compute(some, "b", "ne", (found, none), (lane, lane)),
        Store(lane, lane, place, found, s.combine, where=some),
    ]


def inside_of_row(s: Statement, kept: int) -> Statement:
    """A statement whose loops over rows, but for the first ones, are inside of a row."""

    def moved(at: Linear) -> Linear:
        return Linear(at.offset, at.rows[:kept], at.rows[kept:])

    match s:
        case Position():
            return replace(s, at=moved(s.at))
        case Load() | Store():
            guards = tuple((moved(at), size) for at, size in s.place.guards)
            return replace(s, place=replace(s.place, at=moved(s.place.at), guards=guards))
    return s
