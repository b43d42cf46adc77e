"""Gradients of what a loop reads in every step, as sums over the steps.

In: the nodes that compute the gradients of one step. Out: which terms of a constant's gradient are
computed after the loop, from stacked factors, and which are added up from step to step. A sum of
products is one contraction over all steps then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from flamec.ir.graph import Node, Value
from flamec.ir.op import OpKind
from flamec.ir.shape import product, structurally_equal


@dataclass(eq=False)
class Product:
    """A term of a constant's gradient: views and casts of a contraction of two factors."""

    node: Node
    chain: list[Node]


@dataclass(eq=False)
class Total:
    """A term that is a sum over axes of a value that is stacked."""

    node: Node
    chain: list[Node]


@dataclass(eq=False)
class Sums:
    """How the gradients of constants become sums over the steps.

    ``terms``: for each constant those that are computed after the scan; ``carried``: those that
    are added up from step to step.
    """

    terms: dict[Value, list[Product | Total]] = field(default_factory=dict)
    carried: dict[Value, list[Value]] = field(default_factory=dict)


def sums_over_steps(
    late: Sequence[Node],
    varying: set[Value],
    constants: Iterable[tuple[Value, Value]],
    stacks: Stacks | None,
) -> Sums:
    """``constants``: pairs of a constant and its gradient in one step, by the nodes ``late``;
    ``varying``: what differs from step to step; ``stacks`` gets what must be stacked, None where
    everything is to be added up from step to step."""
    sums = Sums()
    if stacks is None:
        sums.carried.update((constant, [gradient]) for constant, gradient in constants)
        return sums
    made = set(late)
    rest: list[tuple[Value, Value, Total]] = []
    for constant, gradient in constants:
        for term in _added(gradient, made):
            base, chain = _unwrapped(term, made)
            node = base.node
            if node is None or node not in made:
                sums.carried.setdefault(constant, []).append(term)
            elif node.op.kind is OpKind.CONTRACTION and all(v in varying for v in node.inputs):
                for factor in node.inputs:
                    stacks.add(factor)
                sums.terms.setdefault(constant, []).append(Product(node, chain))
            elif node.op.name == "sum":
                rest.append((constant, term, Total(node, chain)))
            else:
                sums.carried.setdefault(constant, []).append(term)
    for constant, term, total in rest:
        if stacks.has(total.node.inputs[0]):
            sums.terms.setdefault(constant, []).append(total)
        else:
            sums.carried.setdefault(constant, []).append(term)
    return sums


def _added(value: Value, late: set[Node]) -> list[Value]:
    """The terms of a sum."""
    node = value.node
    if node is None or node not in late or node.op.name != "add":
        return [value]
    if any(v.type != value.type for v in node.inputs):
        return [value]
    return [term for v in node.inputs for term in _added(v, late)]


def _unwrapped(value: Value, late: set[Node]) -> tuple[Value, list[Node]]:
    """What a value is a view or another float type of, and the nodes between, outermost last."""
    chain: list[Node] = []
    while value.node is not None and value.node in late:
        node = value.node
        source = node.inputs[0] if node.inputs else value
        casts = node.op.name == "convert" and source.type.dtype.is_floating_point
        if not (casts or (node.op.kind is OpKind.VIEW and _keeps_all(source, value))):
            break
        chain.append(node)
        value = source
    return value, chain[::-1]


def _keeps_all(source: Value, view: Value) -> bool:
    """Whether a view has every element of its source."""
    before, after = product(source.type.shape), product(view.type.shape)
    if isinstance(before, int) and isinstance(after, int):
        return before <= after
    return structurally_equal(before, after)


class Stacks:
    """Values of the backward step that are needed of all steps at once.

    ``known``: those that exist before the scan; ``results``: those that the scan stacks.
    """

    def __init__(self, known: Iterable[Value]) -> None:
        self.known = set(known)
        self.results: list[Value] = []

    def source(self, value: Value) -> tuple[Value, list[Node]]:
        """What is stacked in place of a view, and the views from there."""
        views: list[Node] = []
        while value not in self.known and value not in self.results:
            node = value.node
            if node is None or node.op.kind is not OpKind.VIEW:
                break
            if not _keeps_all(node.inputs[0], value):
                break
            views.append(node)
            value = node.inputs[0]
        return value, views[::-1]

    def has(self, value: Value) -> bool:
        source, _ = self.source(value)
        return source in self.known or source in self.results

    def add(self, value: Value) -> None:
        if not self.has(value):
            self.results.append(self.source(value)[0])
