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

from flamec.ir.kernel import (
    CheckedIndex,
    Compute,
    Load,
    RandomBits,
    Statement,
    Store,
    name_of,
    operands_of,
)
from flamec.ir.op import lookup


@dataclass(frozen=True)
class UniformPart:
    """Statements in order, and the needed names that they define."""

    statements: tuple[Statement, ...]
    gives: tuple[str, ...]


class Statements:
    """The statements of a kernel's uniform part, and what each needs."""

    def __init__(self, statements: Sequence[Statement]) -> None:
        self.all = statements
        self._defined = {
            name_of(s): i for i, s in enumerate(statements) if not isinstance(s, Store)
        }
        self._place = {id(s): i for i, s in enumerate(statements)}

    def slice_of(self, goals: Iterable[str | Store]) -> list[Statement]:
        """The statements that names and stores depend on, in order."""
        pending = [
            self._place[id(goal)] if isinstance(goal, Store) else self._defined.get(goal, -1)
            for goal in goals
        ]
        found: set[int] = set()
        while pending:
            place = pending.pop()
            if place not in found and place >= 0:
                found.add(place)
                pending += [self._defined.get(n, -1) for n in operands_of(self.all[place])]
        return [self.all[place] for place in sorted(found)]

    def in_order(self, statements: Iterable[Statement]) -> list[Statement]:
        """Some of the statements, each once, in order."""
        return [self.all[place] for place in sorted({self._place[id(s)] for s in statements})]


def uniform_parts(
    statements: Statements, needed: Iterable[str], buffers: Sequence[int]
) -> list[UniformPart]:
    """The parts that together store what the statements store and define the needed names.

    ``buffers``: of the kernel's parameters; two may be the same memory.
    """
    stores = [s for s in statements.all if isinstance(s, Store)]
    goals: list[str | Store] = [*stores, *needed]
    written = {buffers[s.place.parameter] for s in stores}
    taken = [statements.slice_of([goal]) for goal in goals]
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
        chosen = tuple(statements.in_order(s for n in numbers for s in taken[n]))
        names = tuple(goal for n in numbers if isinstance(goal := goals[n], str))
        parts.append((numbers[0], UniformPart(chosen, names)))
    return [part for _, part in sorted(parts, key=lambda pair: pair[0])]


def _may_repeat(s: Statement) -> bool:
    if isinstance(s, Compute):
        return not lookup(s.op).expensive
    return not isinstance(s, (RandomBits, CheckedIndex))
