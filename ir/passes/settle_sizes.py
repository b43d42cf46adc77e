"""Put into a graph what its guards say of sizes.

In: a graph and pairs of sizes that are equal wherever the graph is run. Out: the same program in
which a symbol that is equal to a number, to another symbol or to a sum of sizes is replaced by
that, and so is a quotient (``(s0 - 1)//2``), a product of sizes, or the lesser of two sizes that
is known to be one of them. A symbol that a number divides is written as that: ``3*((s0)//3)``.
Later passes ask of sizes only what their form tells, so they need the form that tells most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

from flamec.ir.bodies import retyped, substituted
from flamec.ir.graph import Graph
from flamec.ir.shape import (
    Dim,
    Monomial,
    SymbolicDim,
    floordiv,
    less,
    multiple_of_symbol,
    structurally_equal,
    substitute,
    symbols_of,
)
from flamec.ir.shape import equal as equal_sizes
from flamec.ir.shape_oracle import Undecidable, using_oracle

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

    one_program = True

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

    def converts(self, dim: SymbolicDim, kind: type, frame: FrameType) -> None:
        pass

    def computed(self, function: Callable[..., Any], *operands: Any) -> Any:
        return None

    def as_scalar(self, dim: SymbolicDim) -> Any:
        raise Undecidable(f"{dim} is no tensor where nothing is traced")


def _known(equal: Iterable[tuple[Dim, Dim]]) -> dict[str, Dim]:
    """What symbols, quotients and products are that are equal to something else, by their text.

    All is gone through twice: of ``s0*s1 == 40`` and then ``s0 == 2*s2`` follows ``s1*s2 == 20``.
    """
    known: dict[str, Dim] = {}
    pairs = list(_with_ratios(equal))
    for left, right in (*pairs, *pairs):
        left, right = substitute(left, known), substitute(right, known)
        if structurally_equal(left, right):
            continue
        found = _solved(left, right) or _solved(right, left)
        found = found or _quotient(left, right) or _quotient(right, left)
        found = found or _lesser(left, right)
        found = found or _divided(left, right) or _divided(right, left)
        found = found or _isolated(left, right) or _product(left, right)
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


def _isolated(left: Dim, right: Dim) -> tuple[str, Dim] | None:
    """A symbol or quotient that one side has a multiple of, beside others, and what it is equal to.

    Of several one that is a sum of sizes comes before one that is a difference.
    """
    difference = left - right
    if not isinstance(difference, SymbolicDim):
        return None
    results = []
    for monomial, factor in difference.terms:
        if len(monomial) == 1:
            one = SymbolicDim({monomial: 1})
            value = _rest(difference, one, factor)
            if value is not None and str(one) not in _parts(value):
                results.append((str(one), value))
    sums = (r for r in results if isinstance(r[1], int) or all(n > 0 for _, n in r[1].terms))
    return next(sums, results[0] if results else None)


def _product(left: Dim, right: Dim) -> tuple[str, Dim] | None:
    """The text of a product, and what it is equal to; of several the one of most factors, and of
    these the last in order: what stands for it has none that comes behind."""
    difference = left - right
    if not isinstance(difference, SymbolicDim):
        return None
    monomial, factor = max(difference.terms, key=lambda term: (len(term[0]), _texts(term[0])))
    one = SymbolicDim({monomial: 1})
    value = _rest(difference, one, factor) if len(monomial) > 1 else None
    return None if value is None else (str(one), value)


def _texts(monomial: Monomial) -> list[str]:
    return sorted(str(SymbolicDim({(atom,): 1})) for atom in monomial)


def _rest(difference: SymbolicDim, one: SymbolicDim, factor: int) -> Dim | None:
    """What ``one`` is where ``difference``, which has it ``factor`` times, is 0."""
    rest = factor * one - difference
    value = floordiv(rest if factor > 0 else -rest, abs(factor))
    return value if structurally_equal(factor * value, rest) else None


def _parts(dim: Dim) -> set[str]:
    """The texts of the symbols, quotients and lesser sizes in ``dim``."""
    found: set[str] = set()
    for monomial, _ in dim.terms if isinstance(dim, SymbolicDim) else ():
        for atom in monomial:
            found.add(str(SymbolicDim({(atom,): 1})))
            if atom[0] != "s":
                found |= _parts(atom[1]) | _parts(atom[2])
    return found


def _with_ratios(equal: Iterable[tuple[Dim, Dim]]) -> Iterator[tuple[Dim, Dim]]:
    """``6*s0 == 4*s1`` says that both are multiples of ``s0//2``."""
    for left, right in equal:
        yield left, right
        one, another = multiple_of_symbol(left), multiple_of_symbol(right)
        if one is None or another is None or one[1] == another[1]:
            continue
        common = math.gcd(one[0], another[0])
        times, of_other = another[0] // common, one[0] // common
        if min(times, of_other) > 1:
            symbol = SymbolicDim.symbol(one[1])
            yield symbol, times * floordiv(symbol, times)
            yield SymbolicDim.symbol(another[1]), of_other * floordiv(symbol, times)


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
