"""Which sizes become symbolic together with one that begins to vary.

In: the arguments of a call and which of their sizes differ from those of earlier calls. Out: the
others that the next program takes for symbols, too, so that a function whose batches vary first and
whose lengths vary later has one program for both; and, when the function was traced, what its
questions say of them: those that it fixes are numbers again, those that it equates are one symbol.

A size costs a program hardly anything as a symbol (docs/performance/dynamic_shapes.md), and the
program of the first call, where all are numbers, stays for calls like that one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flamec.ir.shape import SymbolicDim, structurally_equal, substitute
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


def settled(dynamic: Dynamic, guards: Iterable[ShapeGuard]) -> tuple[Dynamic, set[Place]]:
    """``dynamic`` without the companions that a trace fixed, which are the second result, and with
    one symbol for those that it found to be equal; the same object if there are none.

    Only equalities fix sizes: other questions hold for many.
    """
    sizes = dict(dynamic.sizes.values())
    first: dict[str, str] = {}  # of the symbols that are one, by each of them
    fixed: set[str] = set()
    for guard in guards:
        asked = sorted(guard.symbols & dynamic.companions)
        if guard.relation != "==" or not guard.holds or not asked:
            continue
        alike: dict[int, str] = {}
        merged = {s: alike.setdefault(sizes[s], s) for s in asked}
        values = {s: SymbolicDim.symbol(one) for s, one in merged.items()}
        if structurally_equal(substitute(guard.left, values), substitute(guard.right, values)):
            for symbol, one in merged.items():
                one, other = sorted((first.get(symbol, symbol), first.get(one, one)))
                first |= {s: one for s in [symbol, other, *first] if first.get(s, s) == other}
        else:
            fixed.update(asked)
    if all(s == one for s, one in first.items()) and not fixed:
        return dynamic, set()
    fixed = {first.get(symbol, symbol) for symbol in fixed}
    renamed = {p: (first.get(s, s), size) for p, (s, size) in dynamic.sizes.items()}
    gone = {place for place, (symbol, _) in renamed.items() if symbol in fixed}
    kept = {place: size for place, size in renamed.items() if place not in gone}
    left = {symbol for symbol, _ in kept.values()} & dynamic.companions
    return replace(dynamic, sizes=kept, companions=frozenset(left)), gone


def without_companions(dynamic: Dynamic) -> Dynamic:
    kept = {p: size for p, size in dynamic.sizes.items() if size[0] not in dynamic.companions}
    return replace(dynamic, sizes=kept, companions=frozenset())
