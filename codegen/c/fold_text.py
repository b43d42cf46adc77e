"""C text of folds: accumulators, what joins them, and sums that lose nothing to rounding.

In: a ``Fold`` and the names of vectors. Out: lines. A *compensated* fold has beside its accumulator
``acc`` another, ``acc_lost``, of what rounding has lost so far (``vadd_exactly`` in
``runtime/cpu/flamec_vector_arithmetic.h``); ``settled`` is the sum of both.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flamec.codegen.c.text import combine, identity
from flamec.ir.kernel import Fold
from flamec.ir.op import lookup


@dataclass(frozen=True)
class Positions:
    """How a fold of positions keeps them: their lane type ("" where nobody reads them), and whether
    an accumulator needs no element to say where the first is: each lane has one, or begins with
    what every element is at least."""

    lane: str = "i64"
    full: bool = False


def is_compensated(fold: Fold) -> bool:
    """Whether partial results of this fold are joined without loss."""
    return lookup(fold.op).compensated and fold.lane in ("f32", "f64")


def accumulator(
    fold: Fold, name: str, exact: bool = False, positions: Positions = Positions()
) -> list[str]:
    """Definitions of an accumulator; ``exact``: with what is lost, if the fold is compensated."""
    lines = [f"v_{fold.lane} {name} = {identity(fold.op, fold.lane)};"]
    if fold.position:
        lines.append(f"v_{positions.lane} {name}_at = vsplat_{positions.lane}(-1);")
    if exact and is_compensated(fold):
        lines.append(f"v_{fold.lane} {name}_lost = vsplat_{fold.lane}(0);")
    return lines


def join(
    fold: Fold, total: str, operand: str, lost: str = "", positions: Positions = Positions()
) -> list[str]:
    """Join one more partial result into an exact accumulator; ``lost``: of that result."""
    if not is_compensated(fold):
        return accumulate(fold, total, operand, f"{operand}_at", "", positions)
    lines = [f"vadd_exactly_{fold.lane}(&{total}, &{total}_lost, {operand});"]
    return [*lines, f"{total}_lost += {lost};"] if lost else lines


def join_lanes(fold: Fold, total: str, positions: Positions = Positions()) -> list[str]:
    """Fold an exact accumulator over its lanes; all lanes then hold the result."""
    if not is_compensated(fold):
        return fold_lanes(fold, total, positions)
    lane = fold.lane
    return [
        "#pragma GCC unroll 4",
        "for (int k = FLAMEC_LANES / 2; k; k /= 2) {",
        f"    {total}_lost += vturn_{lane}({total}_lost, k);",
        f"    vadd_exactly_{lane}(&{total}, &{total}_lost, vturn_{lane}({total}, k));",
        "}",
    ]


def settled(fold: Fold, total: str) -> str:
    """The value of an exact accumulator."""
    return f"vsettled_{fold.lane}({total}, {total}_lost)" if is_compensated(fold) else total


def accumulate(
    fold: Fold,
    accumulator: str,
    operand: str,
    position: str,
    mask: str,
    positions: Positions = Positions(),
) -> list[str]:
    """Join one more vector into an accumulator; ``mask`` (or "") selects the lanes that count."""
    joined = combine(fold.op, fold.lane, operand, accumulator)
    if not fold.position:
        joined = combine(fold.op, fold.lane, accumulator, operand)
        if mask:
            joined = f"vsel_{fold.lane}({mask}, {joined}, {accumulator})"
        return [f"{accumulator} = {joined};"]
    index = index_of(accumulator)
    at = positions.lane
    better = joined if positions.full else f"({joined} | vlt_{at}({index}, vsplat_{at}(0)))"
    if mask:
        better = f"({better} & {mask})"
    moved = [f"  {index} = vsel_{at}(better, {position}, {index});"] if at else []
    return [
        f"{{ const v_b better = {better};",
        f"  {accumulator} = vsel_{fold.lane}(better, {operand}, {accumulator});",
        *moved,
        "}",
    ]


def index_of(accumulator: str) -> str:
    """The accumulator of the index: ``acc_v3[q]`` has ``acc_v3_at[q]``."""
    name, bracket, rest = accumulator.partition("[")
    return f"{name}_at{bracket}{rest}"


def begin(fold: Fold, accumulator: str, operand: str, position: str) -> list[str]:
    """The first vector of a fold of positions: an element for each lane."""
    return [f"{accumulator} = {operand};", f"{index_of(accumulator)} = {position};"]


def fold_lanes(fold: Fold, accumulator: str, positions: Positions = Positions()) -> list[str]:
    """Fold an accumulator over its lanes; all lanes then hold the result."""
    lane, at = fold.lane, positions.lane
    turn = "for (int k = FLAMEC_LANES / 2; k; k /= 2)"
    if not fold.position:
        joined = combine(fold.op, lane, accumulator, f"vturn_{lane}({accumulator}, k)")
        return ["#pragma GCC unroll 4", f"{turn} {accumulator} = {joined};"]
    index = index_of(accumulator)
    wins = combine(fold.op, lane, "other", accumulator)
    loses = combine(fold.op, lane, accumulator, "other")
    better = f"{wins} | earlier"
    if not positions.full:
        nothing = f"vlt_{at}({index}, vsplat_{at}(0))"
        better = f"vge_{at}(at, vsplat_{at}(0)) & ({nothing} | {better})"
    return [
        "#pragma GCC unroll 4",
        f"{turn} {{",
        f"    const v_{lane} other = vturn_{lane}({accumulator}, k);",
        f"    const v_{at} at = vturn_{at}({index}, k);",
        f"    const v_b earlier = ~{loses} & vlt_{at}(at, {index});",
        f"    const v_b better = {better};",
        f"    {accumulator} = vsel_{lane}(better, other, {accumulator});",
        f"    {index} = vsel_{at}(better, at, {index});",
        "}",
    ]


@dataclass
class PassText:
    """Lines before and behind the loop over a row's elements, and around each stretch of it."""

    before: list[str]
    behind: list[str] = field(default_factory=list)
    stretch_begin: list[str] = field(default_factory=list)
    stretch_end: list[str] = field(default_factory=list)


def can_unroll(folds: list[Fold]) -> bool:
    """Whether there are accumulators to make independent copies of."""
    return any(f.scope != "column" for f in folds) and not any(f.position for f in folds)
