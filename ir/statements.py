"""Statements of kernels: scalar values, each computed once, loads, folds and stores.

A place in memory is linear in the indices of the loops, but for indices that were computed. All is
plain data that hashes and compares; ``kernel.py`` says what statements are in.
"""

from __future__ import annotations

from dataclasses import dataclass

from flamec.ir.shape import Dim


@dataclass(frozen=True, slots=True)
class Loop:
    """Indices 0 … size - 1."""

    name: str
    size: Dim


@dataclass(frozen=True, slots=True)
class Linear:
    """``offset`` plus index times stride for each loop: the row loops, then the inner ones."""

    offset: Dim
    rows: tuple[Dim, ...]
    inner: tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class ComputedIndex:
    """An index that a statement computed: it is checked against ``size``, negative ones count
    from the end, and it contributes ``stride`` elements to the place. ``error`` is the position
    of the message in the plan's errors, from 1; 0: another statement reports the same index.
    ``inside``: no check would find anything. ``along``: sizes, not known, of dimensions along which
    the index does not vary; where one is 0 no element asks for it, and it is not reported."""

    name: str
    stride: Dim
    size: Dim
    error: int
    inside: bool = False
    along: tuple[Dim, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """An element of a buffer: parameter number and position in elements.

    ``guards`` are (index, size): outside 0 <= index < size nothing is read.
    """

    parameter: int
    at: Linear
    indices: tuple[ComputedIndex, ...] = ()
    guards: tuple[tuple[Linear, Dim], ...] = ()


# statements --------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Load:
    """``fill`` names the value that stands where a guard fails; without it, zero does."""

    name: str
    lane: str
    memory: str
    place: Place
    fill: str = ""


@dataclass(frozen=True, slots=True)
class Position:
    """The linear index itself, as int64, converted to ``lane``."""

    name: str
    lane: str
    at: Linear


@dataclass(frozen=True, slots=True)
class CheckedIndex:
    """An index below ``size``, negative ones counted from the end; else an error code.

    With the lane ``b`` a condition itself, which is to hold.
    """

    name: str
    index: str
    size: Dim
    error: int
    lane: str = "i64"


@dataclass(frozen=True, slots=True)
class Constant:
    """A number known to the program, or the run-time value of a dimension."""

    name: str
    lane: str
    value: bool | int | float | Dim


@dataclass(frozen=True, slots=True)
class Compute:
    """``op`` applied to named values of the given lane types; ``rounds`` to a 16-bit type."""

    name: str
    lane: str
    op: str
    operands: tuple[str, ...]
    lanes: tuple[str, ...]
    rounds: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A function of a back end's library of named values and numbers."""

    name: str
    lane: str
    function: str
    operands: tuple[str, ...]
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RandomBits:
    """Philox words of a linear index; ``state`` is the place of (seed, offset)."""

    name: str
    at: Linear
    state: Place


@dataclass(frozen=True, slots=True)
class Fold:
    """Combine an operand over a scope: "row", "column", "all" or "rows" (see ``Scope``), or
    "scan", where the result is what has been combined up to here.

    ``position`` names the folded index where the op compares: the result is the index of the
    extreme element, and ``names[0]``, if there is one, its value; a scan gives its value as
    ``name`` and the index as ``names[0]``. ``factor`` names what a scan multiplies the result so
    far by before it joins the operand (a linear recurrence).
    ``target`` is the partial-result parameter of a fold over columns.
    """

    name: str
    lane: str
    op: str
    operand: str
    scope: str
    position: str = ""
    target: int = -1
    names: tuple[str, ...] = ()
    factor: str = ""


@dataclass(frozen=True, slots=True)
class Store:
    """``combine`` names the reduction that joins the operand with what is there (scatter);
    ``where`` the value without which nothing is stored, if there is one; ``unordered``: where rows
    meet, any of them may be kept."""

    memory: str
    lane: str
    place: Place
    operand: str
    combine: str = ""
    where: str = ""
    unordered: bool = False


@dataclass(frozen=True, slots=True)
class Keep:
    """Remember an element value for later passes over the same row."""

    slot: int
    lane: str
    operand: str


@dataclass(frozen=True, slots=True)
class Recall:
    name: str
    slot: int
    lane: str


Statement = (
    Load
    | Position
    | CheckedIndex
    | Constant
    | Compute
    | Call
    | RandomBits
    | Fold
    | Store
    | Keep
    | Recall
)


def name_of(s: Statement) -> str:
    """The name that a statement defines, or ""."""
    return str(getattr(s, "name", ""))


def lane_of(s: Statement) -> str:
    """The lane type of what a statement defines, or of what it stores."""
    return "i32" if isinstance(s, RandomBits) else s.lane


def operands_of(s: Statement) -> tuple[str, ...]:
    """The names that a statement outside of loops reads."""
    match s:
        case Compute() | Call():
            return s.operands
        case CheckedIndex():
            return (s.index,)
        case Load():
            return (*(i.name for i in s.place.indices), *([s.fill] if s.fill else []))
        case Store():
            where = [s.where] if s.where else []
            return (s.operand, *(i.name for i in s.place.indices), *where)
    return ()
