"""Put into a graph what its guards say of sizes.

In: a graph and pairs of sizes that are equal wherever the graph is run. Out: the same program in
which a symbol that is equal to a number, or to another symbol, is replaced by that, and so is a
quotient (``(s0 - 1)//2``) that is equal to a number, or the lesser of two sizes that is known to be
one of them. A symbol that a number divides is written as that: ``3*((s0)//3)``. Later passes ask of
sizes only what their form tells, so they need the form that tells most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from types import FrameType
from typing import Any

from flamec.ir.bodies import retyped, substituted
from flamec.ir.graph import Graph
from flamec.ir.shape import (
    Dim,
    SymbolicDim,
    Undecidable,
    floordiv,
    less,
    multiple_of_symbol,
    structurally_equal,
    substitute,
    symbols_of,
    using_oracle,
)
from flamec.ir.shape import equal as equal_sizes

_LARGEST_DIVISOR = 64  # of sizes that a program is known to divide; more than strides multiply to


def settle_sizes(graph: Graph, equal: Iterable[tuple[Dim, Dim]]) -> Graph:
    """See the module's docstring; the graph itself if nothing follows from ``equal``."""
    known = _known(equal)
    if not known:
        return graph
    return retyped(
        graph,
        lambda type: type.with_shape(tuple(substitute(d, known) for d in type.shape)),
        lambda node: {k: substituted(v, known) for k, v in node.attributes.items()},
    )


class SettledSizes:
    """An oracle that answers from sizes that are known to be equal, and from nothing else."""

    def __init__(self, equal: Iterable[tuple[Dim, Dim]]) -> None:
        self._known = _known(equal)

    def decide(self, left: Dim, relation: str, right: Dim) -> bool:
        """Whether the relation holds; Undecidable if that does not follow."""
        left, right = substitute(left, self._known), substitute(right, self._known)
        with using_oracle(None):
            if relation == "<=":
                return not less(right, left)
            return equal_sizes(left, right) if relation == "==" else less(left, right)

    def specialize(self, dim: SymbolicDim) -> int:
        """The number that a size is known to be; Undecidable if there is none."""
        value = substitute(dim, self._known)
        if isinstance(value, SymbolicDim):
            raise Undecidable(f"{dim} is no number without sizes")
        return value

    def serves(self, frame: FrameType) -> bool:
        return False

    def as_scalar(self, dim: SymbolicDim) -> Any:
        raise Undecidable(f"{dim} is no tensor where nothing is traced")


def _known(equal: Iterable[tuple[Dim, Dim]]) -> dict[str, Dim]:
    """What each symbol is that is equal to something else, and each quotient, by its text."""
    known: dict[str, Dim] = {}
    for left, right in equal:
        left, right = substitute(left, known), substitute(right, known)
        found = _solved(left, right) or _solved(right, left)
        found = found or _quotient(left, right) or _quotient(right, left)
        found = found or _lesser(left, right)
        found = found or _divided(left, right) or _divided(right, left)
        if found is None:
            continue
        name, value = found
        known = {n: substitute(d, {name: value}) for n, d in known.items()}
        known[name] = value
    return known


def _solved(left: Dim, right: Dim) -> tuple[str, Dim] | None:
    """A symbol and what it is equal to, where ``left`` is a symbol or a multiple of one."""
    found = multiple_of_symbol(left)
    if found is None or found[0] <= 0:
        return None
    factor, name = found
    if factor == 1:
        return None if name in symbols_of(right) else (name, right)
    value = floordiv(right, factor)
    if name in symbols_of(value) or not structurally_equal(factor * value, right):
        return None
    return name, value


def _divided(left: Dim, right: Dim) -> tuple[str, Dim] | None:
    """A symbol or quotient and the multiple that it is, where ``left`` is that, or a multiple of
    it, and ``right`` is k*((it + c)//k) with c < k: k divides it."""
    if not isinstance(left, SymbolicDim) or not isinstance(right, SymbolicDim):
        return None
    if len(left.terms) != 1 or len(right.terms) != 1 or len(left.terms[0][0]) != 1:
        return None
    (monomial, times), factor = left.terms[0], right.terms[0][1]
    if not 1 < factor <= _LARGEST_DIVISOR or not any(
        structurally_equal(right, factor * floordiv(left + c, factor)) for c in range(factor)
    ):
        return None
    one = SymbolicDim({monomial: 1})
    multiple = factor // math.gcd(times, factor)
    return str(one), multiple * floordiv(one, multiple)


def _lesser(left: Dim, right: Dim) -> tuple[str, Dim] | None:
    """The text of the lesser of two sizes, and which of them it is."""
    difference = left - right
    if not isinstance(difference, SymbolicDim):
        return None
    for monomial, factor in difference.terms:
        if len(monomial) != 1 or monomial[0][0] != "min" or abs(factor) != 1:
            continue
        least = SymbolicDim({monomial: 1})
        value = least - factor * difference
        for part in monomial[0][1:]:
            if structurally_equal(part, value):
                return str(least), value
    return None


def _quotient(left: Dim, right: Dim) -> tuple[str, Dim] | None:
    """A quotient's text and its value, where ``left`` has no other unknown, ``right`` none."""
    if not isinstance(left, SymbolicDim) or not isinstance(right, int):
        return None
    unknown = [(monomial, factor) for monomial, factor in left.terms if monomial]
    if len(unknown) != 1 or len(unknown[0][0]) != 1 or unknown[0][0][0][0] != "//":
        return None
    (monomial, factor) = unknown[0]
    rest = right - sum(constant for other, constant in left.terms if not other)
    return None if rest % factor else (str(SymbolicDim({monomial: 1})), rest // factor)
