"""Positions in rows as 32-bit numbers, which fill half as many registers.

In: a pass that folds positions. Out: the same one, where nothing but the folds reads them. Whether
a row is so short is known, or asked when the program runs.
"""

from __future__ import annotations

from dataclasses import replace

from flamec.ir.kernel import Fold, Keep, Pass, Position, Statement, operands_of

NARROW = 1 << 31  # elements of rows from which a position is a 64-bit number


def folds_of(block: Pass) -> list[Fold]:
    return [s for s in block.element if isinstance(s, Fold)]


def narrow_positions(block: Pass) -> set[str]:
    """The positions that nothing but folds read."""
    positions = {s.name for s in block.element if isinstance(s, Position)}
    folded = {f.position for f in folds_of(block)} & positions
    read = {name for s in (*block.row, *block.element) for name in read_by(s)}
    return folded - read


def read_by(s: Statement) -> tuple[str, ...]:
    """The names that a statement reads, but for the position that a fold compares with."""
    return (s.operand,) if isinstance(s, (Fold, Keep)) else operands_of(s)


def with_narrow_positions(block: Pass) -> Pass:
    """A pass whose positions are 32-bit numbers, where all of its folds' can be."""
    names = narrow_positions(block)
    if any(f.position and f.position not in names for f in folds_of(block)):
        return block
    element = tuple(
        replace(s, lane="i32") if isinstance(s, Position) and s.name in names else s
        for s in block.element
    )
    return replace(block, element=element)


def folds_narrow(block: Pass) -> bool:
    """Whether positions are folded that are 32-bit numbers."""
    narrow = {s.name for s in block.element if isinstance(s, Position) and s.lane == "i32"}
    return any(f.position in narrow for f in folds_of(block))
