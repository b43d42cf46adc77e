"""Carry permutations from where they arise to where they end.

In: a graph, and a subclass that says where permuted values arise. Out: the same graph in
which operations between compute on the unpermuted arrays: an elementwise operation, a fold, a
border or a view of a permutation is the permutation of one of the array itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.layout import exact_quotient
from flamec.ir.op import OpKind
from flamec.ir.ops.view import inverse_permutation
from flamec.ir.shape import Dim, structural_key, structurally_equal

Axes = tuple[int, ...]


class Arranged(NamedTuple):
    """A value whose dimension i is dimension ``order[i]`` of ``source``."""

    source: Value
    order: Axes


class MovePermutations:
    """One walk over the nodes. ``arranged`` has the values that are known as permutations."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.builder = GraphBuilder(share=True)
        self.arranged: dict[Value, Arranged] = {}
        self._plain: dict[Value, Value] = {v: v for v in graph.inputs}

    def start(self, node: Node) -> Arranged | None:
        """The permuted result of a node at which a permutation arises, else None."""
        raise NotImplementedError

    def run(self) -> Graph:
        b = self.builder
        for node in self.graph.nodes:
            b.location, b.scope = node.location, node.scope
            begun = self.start(node)
            if begun is not None:
                self.arranged[node.output] = begun
                continue
            found = self._moved(node)
            if found is None:
                made = b.add_copy(node, [self.plain(v) for v in node.inputs])
                self._plain.update(zip(node.outputs, made.outputs, strict=True))
            else:
                self.arranged.update(zip(node.outputs, found, strict=True))
        outputs = tuple(self.plain(v) for v in self.graph.outputs)
        updates = {i: self.plain(v) for i, v in self.graph.updates.items()}
        return Graph(self.graph.inputs, tuple(b.nodes), outputs, updates, self.graph.name)

    def plain(self, value: Value) -> Value:
        """What stands for a value, with its dimensions in order."""
        found = self._plain.get(value)
        if found is None:
            source, order = self.arranged[value]
            if order != tuple(range(len(order))):
                source = self.builder.permute(source, axes=order)
            found = self._plain[value] = source
        return found

    def _moved(self, node: Node) -> tuple[Arranged, ...] | None:
        if not any(v in self.arranged for v in node.inputs):
            return None
        match node.op.kind:
            case OpKind.ELEMENTWISE:
                return self._elementwise(node)
            case OpKind.REDUCTION:
                return self._reduction(node)
            case OpKind.VIEW | OpKind.ASSEMBLE | OpKind.BARRIER:
                rule = _RULES.get(node.op.name)
                found = None if rule is None else rule(self, node)
                return None if found is None else (found,)
        return None

    def _emit(self, node: Node, operands: Sequence[Value], attributes: dict[str, Any]) -> Any:
        return self.builder.add_node(node.op, operands, attributes).outputs

    def in_order(self, value: Value, order: Axes) -> Value:
        """The array of which a value of the rank of ``order`` is this permutation."""
        found = self.arranged.get(value)
        if found is not None and found.order == order:
            return found.source
        return self.builder.permute(self.plain(value), axes=inverse_permutation(order))

    def _leading(self, node: Node) -> Axes | None:
        """The order of the first operand that is permuted and as large as the result.

        Without an operand as large, that of the first that is permuted and is broadcast.
        """
        shape = structural_key(node.output.type.shape)
        large = [v for v in node.inputs if structural_key(v.type.shape) == shape]
        for value in large or node.inputs:
            found = self.arranged.get(value)
            if found is not None and len(found.order) == len(shape):
                return found.order
        return None

    def _elementwise(self, node: Node) -> tuple[Arranged, ...] | None:
        order = self._leading(node)
        if order is None:
            return None
        operands = []
        for value in node.inputs:
            shape = value.type.shape
            if not shape:
                operands.append(self.plain(value))
            elif len(shape) == len(order):
                operands.append(self.in_order(value, order))
            else:
                wide = (*(1,) * (len(order) - len(shape)), *shape)
                full = self.builder.reshape(self.plain(value), shape=wide)
                operands.append(self.builder.permute(full, axes=inverse_permutation(order)))
        results = self._emit(node, operands, dict(node.attributes))
        return tuple(Arranged(value, order) for value in results)

    def _reduction(self, node: Node) -> tuple[Arranged, ...] | None:
        source, order = self.arranged[node.inputs[0]]
        axes = node.attributes["axes"]
        if len(axes) > 1 and not node.op.associative:
            return None  # a position among several dimensions depends on their order
        folded = tuple(sorted(order[a] for a in axes))
        left = [a for a in range(len(order)) if a not in folded]
        results = self._emit(node, [source], {**node.attributes, "axes": folded})
        kept = tuple(left.index(a) for i, a in enumerate(order) if i not in axes)
        return tuple(Arranged(value, kept) for value in results)


def _permute(walk: MovePermutations, node: Node) -> Arranged:
    source, order = walk.arranged[node.inputs[0]]
    return Arranged(source, tuple(order[a] for a in node.attributes["axes"]))


def _by_source(order: Axes, entries: Sequence[Any]) -> tuple[Any, ...]:
    """Entries for the dimensions of the value as entries for those of the source."""
    return tuple(entries[i] for i in inverse_permutation(order))


def _each_dimension(*names: str) -> Callable[[MovePermutations, Node], Arranged | None]:
    """A rule for an operation whose attributes have an entry for each dimension."""

    def rule(walk: MovePermutations, node: Node) -> Arranged | None:
        order = next(walk.arranged[v].order for v in node.inputs if v in walk.arranged)
        if len(order) != node.output.type.ndim or len(order) != node.inputs[0].type.ndim:
            return None
        operands = []
        for value in node.inputs:
            same = value.type.ndim == len(order)
            operands.append(walk.in_order(value, order) if same else walk.plain(value))
        moved = {name: _by_source(order, node.attributes[name]) for name in names}
        (result,) = walk._emit(node, operands, {**node.attributes, **moved})
        return Arranged(result, order)

    return rule


def _concatenate(walk: MovePermutations, node: Node) -> Arranged:
    order = next(walk.arranged[v].order for v in node.inputs if v in walk.arranged)
    operands = [walk.in_order(v, order) for v in node.inputs]
    (result,) = walk._emit(node, operands, {"axis": order[node.attributes["axis"]]})
    return Arranged(result, order)


def _windows(walk: MovePermutations, node: Node) -> Arranged:
    source, order = walk.arranged[node.inputs[0]]
    axes = node.attributes["axes"]
    moved = sorted(range(len(axes)), key=lambda n: order[axes[n]])
    last = order[axes[moved[-1]]]
    attributes = {
        name: tuple(node.attributes[name][n] for n in moved)
        for name in ("counts", "sizes", "steps", "dilations")
    }
    sources = tuple(order[axes[n]] for n in moved)
    (result,) = walk._emit(node, [source], {"axes": sources, **attributes})
    outer = [a + (len(axes) if a > last else 0) for a in order]
    inner = [last + 1 + moved.index(n) for n in range(len(axes))]
    end = axes[-1] + 1
    return Arranged(result, (*outer[:end], *inner, *outer[end:]))


def _reshape(walk: MovePermutations, node: Node) -> Arranged | None:
    """Where each new dimension is a part of old ones that are neighbours in the source, too."""
    source, order = walk.arranged[node.inputs[0]]
    groups = _matched(node.inputs[0].type.shape, node.output.type.shape)
    if groups is None:
        return None
    shape = node.output.type.shape
    pieces: list[tuple[int, range]] = []  # the first source dimension, the new dimensions
    place = 0
    for old, count in groups:
        have = node.inputs[0].type.shape
        at = [order[a] for a in old if not structurally_equal(have[a], 1)]
        first = at[0] if at else -1
        if at != list(range(first, first + len(at))):
            return None
        pieces.append((first, range(place, place + count)))
        place += count
    pieces.sort(key=lambda piece: piece[0])
    places = [p for _, numbers in pieces for p in numbers]
    result = walk.builder.reshape(source, shape=tuple(shape[p] for p in places))
    return Arranged(result, inverse_permutation(tuple(places)))


def _matched(old: Sequence[Dim], new: Sequence[Dim]) -> list[tuple[list[int], int]] | None:
    """Runs of old dimensions, and how many new ones have the same elements, all in order."""
    groups: list[tuple[list[int], int]] = []
    taken = 0
    run: list[int] = []
    have: Dim = 1
    for i, size in enumerate(old):
        run.append(i)
        have = have * size
        count, want = 0, 1
        while taken + count < len(new) and not (count and structurally_equal(want, have)):
            count, want = count + 1, want * new[taken + count]
            if exact_quotient(have, want) is None:
                break
        if structurally_equal(want, have) and (count or structurally_equal(have, 1)):
            groups.append((run, count))
            taken, run, have = taken + count, [], 1
    if run:
        return None
    if taken < len(new):
        if not groups or not all(structurally_equal(d, 1) for d in new[taken:]):
            return None
        groups[-1] = (groups[-1][0], groups[-1][1] + len(new) - taken)
    return groups


_RULES: dict[str, Callable[[MovePermutations, Node], Arranged | None]] = {
    "permute": _permute,
    "pad": _each_dimension("low", "high"),
    "slice": _each_dimension("starts", "sizes", "steps"),
    "slice_update": _each_dimension("starts", "steps"),
    "expand": _each_dimension("shape"),
    "detach": _each_dimension(),
    "overwrite": _each_dimension(),
    "concatenate": _concatenate,
    "windows": _windows,
    "reshape": _reshape,
}
