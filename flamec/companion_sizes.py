"""Which sizes become symbolic together with one that begins to vary.

In: the arguments of a call and which of their sizes differ from those of earlier calls. Out: the
others that the next program takes for symbols, too, so that a function whose batches vary first and
whose lengths vary later has one program for both; and, when the function was traced, what its
questions say of them: those that it fixes are numbers again, those that it equates are one symbol.

A size costs a program hardly anything as a symbol (docs/performance/dynamic_shapes.md), and the
program of the first call, where all are numbers, stays for calls like that one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flamec.ir.shape import Dim, SymbolicDim, structurally_equal, substitute, symbols_of
from flamec.size_oracle import ShapeGuard
from flamec.tensor import Tensor
from flamec.traced_arguments import Dynamic

Place = tuple[int, int]  # the position of a leaf, and an axis


def companions(
    leaves: Sequence[Any], sizes: Mapping[Place, int], varying: Collection[Place]
) -> set[Place]:
    """The other sizes of the arguments that have varying ones, of those with as many rows, and of
    those of whole numbers and flags (what is left are arrays of floats whose sizes stay while
    others change: weights), but for the last axis of floats, which are features, coordinates, the
    size of a head, and for sizes of 0 and 1, unless that is how many rows there are.
    """
    changed = {leaf for leaf, _ in varying}
    rows = {sizes[leaf, 0] for leaf in changed}
    found = set()
    for place in sizes.keys() - varying:
        position, axis = place
        leaf: Tensor = leaves[position]
        floats = leaf.dtype.is_floating_point or leaf.dtype.is_complex
        is_weight = floats and position not in changed and sizes[position, 0] not in rows
        is_feature = floats and axis == leaf.ndim - 1 > 0
        if not is_weight and not is_feature and (axis == 0 or sizes[place] > 1):
            found.add(place)
    return found


def settled(dynamic: Dynamic, guards: Sequence[ShapeGuard]) -> tuple[Dynamic, set[Place]]:
    """``dynamic`` without the companions that a trace fixed, which are the second result, and with
    one symbol for those that it found to be equal; the same object if there are none.

    Only equalities fix sizes: other questions hold for many. Of one between several companions
    what others say is taken into account first.
    """
    sizes = dict(dynamic.sizes.values())
    values: dict[str, Dim] = {}

    def put(found: dict[str, Dim]) -> None:
        values.update({s: substitute(value, found) for s, value in values.items()} | found)

    equalities = [g for g in guards if g.relation == "==" and g.holds]
    for guard, at_last in [(g, at_last) for at_last in (False, True) for g in equalities]:
        left, right = substitute(guard.left, values), substitute(guard.right, values)
        symbols = symbols_of(left) | symbols_of(right)
        asked = sorted(symbols & dynamic.companions)
        if not asked or structurally_equal(left, right):
            continue
        alike: dict[int, str] = {}
        first = {s: alike.setdefault(sizes[s], s) for s in asked}
        same: dict[str, Dim] = {s: SymbolicDim.symbol(one) for s, one in first.items() if s != one}
        if structurally_equal(substitute(left, same), substitute(right, same)):
            put(same)
        elif len(symbols) == 1:
            if ShapeGuard(left, "==", right, True, None).fixes(asked[0], sizes[asked[0]]):
                put({s: sizes[s] for s in asked})
        elif at_last:
            put({s: sizes[s] for s in asked})
    if not values:
        return dynamic, set()
    kept: dict[Place, tuple[str, int]] = {}
    for place, (symbol, size) in dynamic.sizes.items():
        value = values.get(symbol, SymbolicDim.symbol(symbol))
        if isinstance(value, SymbolicDim):
            kept[place] = str(value), size
    left_over = {symbol for symbol, _ in kept.values()} & dynamic.companions
    changed = replace(dynamic, sizes=kept, companions=frozenset(left_over))
    return changed, dynamic.sizes.keys() - kept.keys()


def fewer_companions(dynamic: Dynamic) -> Dynamic:
    """What to try where a trace fails: first with one symbol for companions that are equal now,
    which the function may need, then without any."""
    first: dict[int, str] = {}
    kept = {}
    for place, (symbol, size) in sorted(dynamic.sizes.items()):
        own = symbol in dynamic.companions
        kept[place] = first.setdefault(size, symbol) if own else symbol, size
    if kept == dynamic.sizes:
        kept = {p: size for p, size in kept.items() if size[0] not in dynamic.companions}
    left_over = {symbol for symbol, _ in kept.values()} & dynamic.companions
    return replace(dynamic, sizes=kept, companions=frozenset(left_over))
