"""Scatters whose rows many blocks share: every place belongs to one block.

In: a scatter. Out: the index that decides where a row goes, and the text that finds a block's
rows. Each block looks at all indices and takes the rows whose place is its own, in order: what
meets in a place is so combined in the order of the rows, as if one block took them all. An
index out of range belongs to the first block, which reports it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from flamec.codegen.triton.recompute import names_of, operands_of
from flamec.codegen.triton.statements import StatementWriter
from flamec.codegen.triton.text import factor
from flamec.ir.kernel import (
    CheckedIndex,
    Compute,
    ComputedIndex,
    Constant,
    Fold,
    Linear,
    Load,
    Position,
    RowProgram,
    Statement,
    Store,
)
from flamec.ir.shape import product, structurally_equal


def scattered_index(program: RowProgram) -> tuple[ComputedIndex, ...]:
    """The index of all stores at computed places, if it is one and known once a row; else ()."""
    stores = [s for s in program.statements() if isinstance(s, Store) and s.place.indices]
    found = {tuple((i.name, i.size) for i in s.place.indices) for s in stores}
    if len(found) != 1 or any(isinstance(s, Fold) for s in program.statements()):
        return ()
    index = stores[0].place.indices
    return index if all(map(_once_a_row, _made_of(program, index))) else ()


def owner_lines(program: RowProgram, index: Sequence[ComputedIndex], prefix: str) -> list[str]:
    """Lines that define ``place``, a number for the place of each of a block of rows, whose
    names begin with ``prefix``."""
    rows = tuple(loop.name for loop in program.rows)
    writer = StatementWriter(rows)
    lines: list[str] = []
    names = {*rows, "row", "row_mask"}
    for s in _made_of(program, index):
        names.update(names_of(s))
        lines += [line for line in writer.write(s, "r") if not line.startswith("flamec_report")]
    terms, conditions = [], []
    for number, i in enumerate(index):
        position, inside = writer.wrapped(i)
        after = product(other.size for other in index[number + 1 :])
        terms.append(f"{position} * {factor(after)}")
        conditions.append(f"({inside})")
    lines.append(f"place = tl.where({' & '.join(conditions)}, {' + '.join(terms)}, 0)")
    pattern = re.compile(rf"\b({'|'.join(sorted(names))})\b")
    return [pattern.sub(rf"{prefix}\1", line) for line in lines]


def _made_of(program: RowProgram, index: Sequence[ComputedIndex]) -> list[Statement]:
    """The statements that an index depends on, in order."""
    needed = {i.name for i in index}
    found: list[Statement] = []
    for s in reversed([*program.statements()]):
        if needed.intersection(names_of(s)):
            found.append(s)
            needed.update(operands_of(s))
    return found[::-1]


def _once_a_row(s: Statement) -> bool:
    match s:
        case Load():
            places = [s.place.at, *(guard for guard, _ in s.place.guards)]
            return all(map(_same_inside, places))
        case Position():
            return _same_inside(s.at)
    return isinstance(s, (Constant, Compute, CheckedIndex))


def _same_inside(at: Linear) -> bool:
    return all(structurally_equal(stride, 0) for stride in at.inner)
