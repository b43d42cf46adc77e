"""Put into a graph what its guards say of sizes.

In: a graph and pairs of sizes that are equal wherever the graph is run. Out: the same program in
which a symbol that is equal to a number, or to another symbol, is replaced by that. Later passes
ask of sizes only what their form tells, so they need the form that tells most.
"""

from __future__ import annotations

from collections.abc import Iterable

from flamec.ir.bodies import retyped, substituted
from flamec.ir.graph import Graph
from flamec.ir.shape import Dim, SymbolicDim, structurally_equal, substitute, symbols_of


def settle_sizes(graph: Graph, equal: Iterable[tuple[Dim, Dim]]) -> Graph:
    """See the module's docstring; the graph itself if nothing follows from ``equal``."""
    known: dict[str, Dim] = {}
    for left, right in equal:
        left, right = substitute(left, known), substitute(right, known)
        found = _solved(left, right) or _solved(right, left)
        if found is None:
            continue
        name, value = found
        known = {n: substitute(d, {name: value}) for n, d in known.items()}
        known[name] = value
    if not known:
        return graph
    return retyped(
        graph,
        lambda type: type.with_shape(tuple(substitute(d, known) for d in type.shape)),
        lambda node: {k: substituted(v, known) for k, v in node.attributes.items()},
    )


def _solved(left: Dim, right: Dim) -> tuple[str, Dim] | None:
    """A symbol and what it is equal to, where ``left`` is a symbol or a multiple of one."""
    if not isinstance(left, SymbolicDim):
        return None
    names = symbols_of(left)
    if len(names) != 1:
        return None
    (name,) = names
    symbol = SymbolicDim.symbol(name)
    if structurally_equal(left, symbol):
        return None if name in symbols_of(right) else (name, right)
    if isinstance(right, int):
        factor = substitute(left, {name: 1})
        divides = isinstance(factor, int) and factor > 0 and right % factor == 0
        if divides and structurally_equal(left, factor * symbol):
            return name, right // factor
    return None
