"""Which values of a program are only seen after they were rounded to 16 bits.

In: a program. Out: names. Of a value that reaches memory only as 16-bit floats, by way of
functions that do not jump, a few units of float32 are lost in the rounding, so that cheaper texts
of operations do. A statistic of a row that is stored in float32 beside such elements (what a
backward program gets from softmax and the norms) counts as lost, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flamec.codegen.triton.recompute import operands_of
from flamec.ir.kernel import Call, Compute, Fold, Keep, Recall, RowProgram, Statement, Store
from flamec.ir.op import lookup

_HALF = ("f16", "bf16")


@dataclass(frozen=True)
class Rounding:
    """``approximate``: names whose operations may use their cheaper text. ``by_store``: names
    whose own rounding does what the stores, which alone read them, do again."""

    approximate: frozenset[str] = frozenset()
    by_store: frozenset[str] = frozenset()


def rounding_of(program: RowProgram, strict: bool = False) -> Rounding:
    """What is known of a program's values; nothing is approximate if it stores no 16-bit floats,
    or if it is ``strict``."""
    statements = [*program.statements(), *program.after]
    in_rows = {s for block in program.passes for s in block.row if isinstance(s, Store)}
    stored = {s.memory for s in statements if isinstance(s, Store) and s not in in_rows}
    if strict or not stored & set(_HALF):
        return Rounding(by_store=_rounded_by_stores(statements))
    exact = _exact(statements, in_rows)
    computed = {s.name for s in statements if isinstance(s, Compute)}
    return Rounding(frozenset(computed - exact), _rounded_by_stores(statements))


def _exact(statements: Sequence[Statement], in_rows: Iterable[Store]) -> set[str]:
    """Names that reach memory in full, or a function that jumps. Each name is defined before it
    is read, so one walk from the end finds them."""
    exact: set[str] = set()
    jumped: set[str] = set()  # those that a function depends on which jumps
    kept: set[int] = set()
    kept_jumped: set[int] = set()
    for s in reversed(statements):
        match s:
            case Store():
                if s.memory not in _HALF and s not in in_rows:
                    exact.add(s.operand)
            case Recall():
                if s.name in exact:
                    kept.add(s.slot)
                if s.name in jumped:
                    kept_jumped.add(s.slot)
            case Keep():
                if s.slot in kept:
                    exact.add(s.operand)
                if s.slot in kept_jumped:
                    jumped.add(s.operand)
            case Fold():
                if s.name in jumped:
                    jumped.update(operands_of(s))
                if s.scope != "row" or s.position or s.name in exact:
                    exact.update(operands_of(s))
            case Call():
                exact.update(s.operands)
                jumped.update(s.operands)
            case Compute():
                jumps = s.lane not in ("f32", "f64") or lookup(s.op).jumps
                if s.rounds and s.name not in jumped:  # what follows sees 16 bits, as from memory
                    exact.discard(s.name)
                if jumps or s.name in exact:
                    exact.update(s.operands)
                if jumps or s.name in jumped:
                    jumped.update(s.operands)
    return exact


def _rounded_by_stores(statements: Sequence[Statement]) -> frozenset[str]:
    rounds = {s.name: s.rounds for s in statements if isinstance(s, Compute) and s.rounds}
    for s in statements:
        if isinstance(s, Store) and not s.combine and rounds.get(s.operand) == s.memory:
            continue
        read = (s.operand,) if isinstance(s, (Store, Keep)) else operands_of(s)
        for name in read:
            rounds.pop(name, None)
    return frozenset(rounds)
