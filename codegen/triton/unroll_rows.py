"""Neighbouring rows in one: what they read in common is read once.

In: a row program that is elementwise, such as a sum over the slices of a window, or folds over
rows. Out: the program over fewer rows, each of which does what some rows next to each other did;
loads that have become equal are one for the writer of statements. A convolution of channels with a
3 x 3 kernel each reads 9 elements for a result, and 3 if each row gives 2 x 4 results. Rows are
divided without a rest, so that nothing needs another guard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product as product_of
from math import prod

from flamec.codegen.triton.recompute import renamed
from flamec.ir.kernel import (
    CheckedIndex,
    Compute,
    Constant,
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
    name_of,
)
from flamec.ir.op import lookup
from flamec.ir.shape import structurally_equal

MOST_ROWS = (4, 8)  # in one: each needs registers; more only where fewer do not divide a loop
MOST_LOADS = 40  # of all rows in one, which need registers at a time
MOST_STATEMENTS = 640  # of all rows in one, which a compiler has to look at
WORTHWHILE = 0.7  # of the loads of each row by itself
ONE_LOOP = 1.07  # by which loads may be more if they lie along the innermost loop alone

Factors = tuple[int, ...]


def with_shared_loads(program: RowProgram) -> RowProgram:
    """See the module's docstring; the program itself where rows have little in common."""
    factors = row_factors(program)
    return program if prod(factors) == 1 else unrolled(program, factors)


def row_factors(program: RowProgram) -> Factors:
    """How many rows along each loop should be one."""
    alone = (1,) * len(program.rows)
    if not _is_elementwise(program):
        return alone
    loads = [s for s in program.statements() if isinstance(s, Load) and _varies(s.place)]
    if len(loads) < 2:
        return alone
    shared = [_shares(loads, n, alone) for n in range(len(alone))]
    usual = len(_places(loads, alone))
    statements = sum(1 for _ in program.statements())
    for most in MOST_ROWS:
        most = min(most, MOST_STATEMENTS // max(1, statements))
        choices = [
            _divisors(loop, most) if shares else [1]
            for loop, shares in zip(program.rows, shared, strict=True)
        ]
        found = {
            factors: len(_places(loads, factors)) / prod(factors)
            for factors in product_of(*choices)
            if prod(factors) <= most and len(_places(loads, factors)) <= MOST_LOADS
        }
        least = min(found.values(), default=usual)
        if least > WORTHWHILE * usual:
            continue
        near = [factors for factors, cost in found.items() if cost <= ONE_LOOP * least]
        return min(near, key=lambda f: (sum(n > 1 for n in f), found[f], f))
    return alone


def unrolled(program: RowProgram, factors: Factors) -> RowProgram:
    """The program with so many rows along each loop as one."""
    rows = tuple(
        replace(loop, size=loop.size // factor)
        for loop, factor in zip(program.rows, factors, strict=True)
    )
    passes = tuple(
        Pass(
            tuple(_copies(block.row, factors, program)),
            tuple(_copies(block.element, factors, program)),
        )
        for block in program.passes
    )
    return replace(program, rows=rows, passes=passes)


def _is_elementwise(program: RowProgram) -> bool:
    """Whether rows have nothing to do with each other, but that all of them are folded."""
    if program.kind != "rows" or program.contraction is not None:
        return False
    if not (program.rows and program.inner):
        return False
    plain = (Load, Position, Constant, Compute, CheckedIndex, RandomBits)
    for s in program.statements():
        if isinstance(s, Store):
            simple = not (s.combine or s.place.indices)
        elif isinstance(s, Fold):
            simple = s.scope == "column" and not s.position and lookup(s.op).associative
        else:
            simple = isinstance(s, plain)
        if not simple:
            return False
    return True


def _varies(place: Place) -> bool:
    return not all(structurally_equal(stride, 0) for stride in place.at.inner)


def _shares(loads: list[Load], axis: int, alone: Factors) -> bool:
    """Whether rows next to each other along a loop read elements in common, of which each reads
    others, too."""
    two = tuple(2 if n == axis else 1 for n in range(len(alone)))
    varying = [s for s in loads if not structurally_equal(s.place.at.rows[axis], 0)]
    return len(_places(varying, two)) < 2 * len(_places(varying, alone))


def _places(loads: Iterable[Load], factors: Factors) -> set[Place]:
    return {
        _moved_place(s.place, factors, turn) for s in loads for turn in product_of(*_turns(factors))
    }


def _turns(factors: Factors) -> list[range]:
    return [range(factor) for factor in factors]


def _divisors(loop: Loop, most: int) -> list[int]:
    if not isinstance(loop.size, int):
        return [1]
    return [n for n in range(1, most + 1) if loop.size % n == 0] or [1]


def _copies(
    statements: tuple[Statement, ...], factors: Factors, program: RowProgram
) -> Iterator[Statement]:
    """The statements of each of the rows that become one, under names of their own; what they
    fold is joined before."""
    defined = {name_of(s) for s in program.statements() if not isinstance(s, Fold)} - {""}
    folded: dict[Fold, str] = {}
    for number, turn in enumerate(product_of(*_turns(factors))):
        names = {name: f"{name}_{number}" for name in defined} if number else {}
        for s in statements:
            if not isinstance(s, Fold):
                yield _placed(renamed(s, names), factors, turn)
                continue
            operand = names.get(s.operand, s.operand)
            if s in folded:
                pair, both = (folded[s], operand), f"{s.name}_of_{number}"
                yield Compute(both, s.lane, s.op, pair, (s.lane, s.lane))
                operand = both
            folded[s] = operand
    for s, operand in folded.items():
        yield replace(s, operand=operand)


def _placed(s: Statement, factors: Factors, turn: Factors) -> Statement:
    """A statement of one of the rows."""
    match s:
        case Load() | Store():
            return replace(s, place=_moved_place(s.place, factors, turn))
        case Position():
            return replace(s, at=_moved(s.at, factors, turn))
        case RandomBits():
            state = _moved_place(s.state, factors, turn)
            return replace(s, at=_moved(s.at, factors, turn), state=state)
    return s


def _moved(at: Linear, factors: Factors, turn: Factors) -> Linear:
    offset = at.offset
    for stride, place in zip(at.rows, turn, strict=True):
        offset = offset + stride * place
    rows = tuple(stride * factor for stride, factor in zip(at.rows, factors, strict=True))
    return replace(at, offset=offset, rows=rows)


def _moved_place(place: Place, factors: Factors, turn: Factors) -> Place:
    guards = tuple((_moved(at, factors, turn), size) for at, size in place.guards)
    return replace(place, at=_moved(place.at, factors, turn), guards=guards)
