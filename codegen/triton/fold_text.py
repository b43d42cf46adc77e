"""Folds as text over blocks.

In: a fold, and blocks of what it folds. Out: expressions: what it starts from, elements that are
not there left out, a block folded, the result in its own type.
"""

from __future__ import annotations

from flamec.codegen.triton.statements import StatementWriter
from flamec.codegen.triton.text import constant, fold_lane, identity
from flamec.ir.kernel import Fold

_START = {"cummax": "amax", "cummin": "amin"}  # a scan starts like the fold


def fold_name(s: Fold) -> str:
    """The library function that joins two partial results."""
    kind = "at_" if s.position or s.names else "by_" if s.factor else ""
    return f"fold_{kind}{s.op}_{s.lane}"


def _value(s: Fold) -> str:
    return constant(fold_lane(s.lane), identity(_START.get(s.op, s.op), s.lane))


def start(s: Fold, shape: str) -> str:
    """A block of what a fold starts from."""
    return _value(s).replace("(1, 1)", shape)


def masked(writer: StatementWriter, s: Fold, mask: str = "mask") -> str:
    """A fold's operand, with elements that are not there replaced by what changes nothing."""
    operand = writer.name(s.operand)
    if s.lane == "b":
        operand = f"{operand}.to(tl.int32)"
    return f"tl.where({mask}, {operand}, {_value(s)})" if mask else operand


def reduced(s: Fold, block: str, axis: int) -> str:
    """A block folded along one dimension, which stays with size 1."""
    return f"tl.reduce({block}, {axis}, {fold_name(s)}, keep_dims=True)"


def finished(s: Fold, block: str) -> str:
    """A folded block in the lane type of the fold."""
    return f"{block} != 0" if s.lane == "b" else block
