"""Divide what a kernel computes once into parts that do not depend on each other.

In: the statements, and the names that are needed afterwards. Out: parts, each with the
statements that it takes and the names that it gives; a block computes one. Cheap statements are
repeated where several parts need them; expensive ones, and all that touches memory which the
statements write, stand in one part only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import networkx as nx

from flamec.ir.kernel import CheckedIndex, Compute, Load, RandomBits, Statement, Store
from flamec.ir.op import lookup


@dataclass(frozen=True)
class UniformPart:
    """Statements in order, and the needed names that they define."""

    statements: tuple[Statement, ...]
    gives: tuple[str, ...]


def uniform_parts(
    statements: Sequence[Statement], needed: Iterable[str], buffers: Sequence[int]
) -> list[UniformPart]:
    """The parts that together store what the statements store and define the needed names.

    ``buffers``: of the kernel's parameters; two may be the same memory.
    """
    goals: list[str | Store] = [s for s in statements if isinstance(s, Store)]
    goals += list(needed)
    written = {buffers[s.place.parameter] for s in statements if isinstance(s, Store)}
    taken = [slice_of(statements, [goal]) for goal in goals]
    together: nx.Graph = nx.Graph()
    for number, found in enumerate(taken):
        shared: set[object] = set()
        for s in found:
            if isinstance(s, (Load, Store)):
                if buffers[s.place.parameter] in written:
                    shared.add(("memory", buffers[s.place.parameter]))
            elif not _may_repeat(s):
                shared.add(id(s))
        together.add_edges_from((number, ("shared", x)) for x in shared or {"what is cheap"})
    parts = []
    for group in nx.connected_components(together):
        numbers = sorted(n for n in group if isinstance(n, int))
        used = {id(s) for n in numbers for s in taken[n]}
        chosen = tuple(s for s in statements if id(s) in used)
        names = tuple(goals[n] for n in numbers if isinstance(goals[n], str))
        parts.append((numbers[0], UniformPart(chosen, names)))  # type: ignore[arg-type]
    return [part for _, part in sorted(parts, key=lambda pair: pair[0])]


def slice_of(statements: Sequence[Statement], goals: Iterable[str | Store]) -> list[Statement]:
    """The statements that names and stores depend on, in order."""
    needed: set[str] = set()
    stores: set[int] = set()
    for goal in goals:
        if isinstance(goal, Store):
            stores.add(id(goal))
        else:
            needed.add(goal)
    found: list[Statement] = []
    for s in reversed(statements):
        if id(s) in stores or (not isinstance(s, Store) and name_of(s) in needed):
            found.append(s)
            needed |= set(operands_of(s))
    return found[::-1]


def _may_repeat(s: Statement) -> bool:
    if isinstance(s, Compute):
        return not lookup(s.op).expensive
    return not isinstance(s, (RandomBits, CheckedIndex))


def name_of(s: Statement) -> str:
    return str(getattr(s, "name", ""))


def lane_of(s: Statement) -> str:
    if isinstance(s, CheckedIndex):
        return "i64"
    return "i32" if isinstance(s, RandomBits) else str(getattr(s, "lane", ""))


def operands_of(s: Statement) -> tuple[str, ...]:
    """The names that a statement reads."""
    match s:
        case Compute():
            return s.operands
        case CheckedIndex():
            return (s.index,)
        case Load():
            return (*(i.name for i in s.place.indices), *([s.fill] if s.fill else []))
        case Store():
            return (s.operand, *(i.name for i in s.place.indices))
    return ()
