"""Cut a program with a matrix product into programs that are one launch each.

In: a program with a contraction. Out: the product alone, and what follows it; where the depth is
split, a program that adds up the parts in order; where rows are folded, a program that joins what
blocks of rows leave. All of this is Kernel IR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flamec.codegen.lower.lanes import spill_type
from flamec.ir.kernel import (
    Compute,
    Contraction,
    Fold,
    Linear,
    Load,
    Loop,
    Pass,
    Place,
    Position,
    RandomBits,
    RowProgram,
    Statement,
    Store,
)
from flamec.ir.layout import dense_strides
from flamec.ir.shape import Dim, product


def dense_place(program: RowProgram) -> Linear:
    """Where the elements of a row-major array over all loops lie."""
    strides = dense_strides(tuple(loop.size for loop in (*program.rows, *program.inner)))
    return Linear(0, strides[: len(program.rows)], strides[len(program.rows) :])


def product_elements(c: Contraction) -> Dim:
    return c.batch * c.rows * c.columns


def can_fuse(program: RowProgram) -> bool:
    """Whether all that follows a product is elementwise in its own place, or folds rows."""
    c = program.contraction
    assert c is not None
    if program.kind not in ("rows", "flat", "along rows"):
        return False
    if program.after and program.kind != "rows":
        return False
    place = dense_place(program)
    for s in program.statements():
        if isinstance(s, Fold):
            if s.scope != "column" or s.position or spill_type(s.lane) != s.lane:
                return False
            continue
        if not _is_product(s, c):
            continue
        assert isinstance(s, Load)
        if s.place.at != place or s.place.indices or s.place.guards:
            return False
    return not any(isinstance(s, Store) for block in program.passes for s in block.row)


def with_joined_rows(
    program: RowProgram, blocks: Dim, targets: Sequence[int]
) -> tuple[RowProgram, RowProgram]:
    """A program that ``can_fuse`` and folds rows, without what follows the last row; and the
    program that folds what ``blocks`` blocks of rows have left, and goes on.

    ``targets``: the parameters in which that one leaves partial results of its own.
    """
    strides = dense_strides(tuple(loop.size for loop in program.inner))
    columns = product(loop.size for loop in program.inner)
    element: list[Statement] = []
    for fold, target in zip(program.folds("column"), targets, strict=True):
        left = Place(fold.target, Linear(0, (columns,), strides))
        element.append(Load(f"{fold.name}_left", fold.lane, fold.lane, left))
        element.append(replace(fold, operand=f"{fold.name}_left", target=target))
    join = replace(
        program,
        rows=(Loop("left_block", blocks),),
        passes=(Pass((), tuple(element)),),
        after=tuple(map(_of_one_row_loop, program.after)),
        contraction=None,
    )
    return replace(program, after=()), join


def _of_one_row_loop(s: Statement) -> Statement:
    """What follows the last row, whose places do not vary with rows, in a program of one loop."""

    def moved(at: Linear) -> Linear:
        return replace(at, rows=(0,))

    match s:
        case Load() | Store():
            guards = tuple((moved(at), size) for at, size in s.place.guards)
            return replace(s, place=replace(s.place, at=moved(s.place.at), guards=guards))
        case Position():
            return replace(s, at=moved(s.at))
        case RandomBits():
            return replace(s, at=moved(s.at), state=replace(s.state, at=moved(s.state.at)))
    return s


def _is_product(s: Statement, c: Contraction) -> bool:
    return isinstance(s, Load) and s.place.parameter in (-1, c.result)


def parted(program: RowProgram, parameter: int) -> tuple[RowProgram, RowProgram | None]:
    """The product alone, left in a parameter, and what follows it (None: nothing)."""
    c = program.contraction
    assert c is not None
    alone = replace(program, passes=(), after=(), contraction=replace(c, result=parameter))
    if not program.passes and not program.after:
        return alone, None

    def moved(block: tuple[Statement, ...]) -> tuple[Statement, ...]:
        return tuple(
            replace(s, place=replace(s.place, parameter=parameter))
            if isinstance(s, Load) and s.place.parameter == -1
            else s
            for s in block
        )

    passes = tuple(Pass(moved(p.row), moved(p.element)) for p in program.passes)
    return alone, replace(program, passes=passes, contraction=None)


def joined(program: RowProgram, parameter: int, memory: str, parts: int) -> RowProgram:
    """A program whose passes ``can_fuse``, with its product as the sum of ``parts`` arrays.

    They lie one behind the other in a parameter, as elements of ``memory``.
    """
    c = program.contraction
    assert c is not None
    place, size = dense_place(program), product_elements(c)

    def total(name: str, prefix: str) -> list[Statement]:
        """Statements that leave the sum, in the product's lane type, under a name."""
        found: list[Statement] = []
        so_far = ""
        for part in range(parts):
            at = replace(place, offset=size * part)
            one = f"{prefix}l{part}"
            found.append(Load(one, memory, memory, Place(parameter, at)))
            if so_far:
                lanes = (memory, memory)
                found.append(Compute(f"{prefix}s{part}", memory, "add", (so_far, one), lanes))
            so_far = f"{prefix}s{part}" if so_far else one
        if memory != c.lane:
            found.append(Compute(name, c.lane, "convert", (so_far,), (memory,)))
            return found
        return _named(found, so_far, name)

    def summed(block: tuple[Statement, ...]) -> tuple[Statement, ...]:
        found: list[Statement] = []
        for s in block:
            is_product = isinstance(s, Load) and _is_product(s, c)
            found += total(s.name, f"{s.name}_") if isinstance(s, Load) and is_product else [s]
        return tuple(found)

    passes = [Pass(summed(p.row), summed(p.element)) for p in program.passes]
    if c.result >= 0:
        store = Store(c.memory, c.lane, Place(c.result, place), "product")
        passes.insert(0, Pass((), (*total("product", "product_"), store)))
    return replace(program, passes=tuple(passes), contraction=None)


def _named(statements: list[Statement], name: str, new: str) -> list[Statement]:
    """The last statement, which defines ``name``, defines ``new`` instead."""
    *before, last = statements
    assert isinstance(last, (Load, Compute)) and last.name == name
    return [*before, replace(last, name=new)]
