"""Factor out what arrives last: g*a + (g*b)*c becomes g * (a + b*c).

In: any graph. Out: one in which sums of products have their latest factor outside. A derivative
by the chain rule is such a sum, with the arriving gradient in every term. Without it, what is
left in the brackets follows from the forward pass alone: it is computed there, and one value waits
for the backward pass instead of each factor (of gelu one instead of three).

This is not exact: products are rounded elsewhere. There are never more operations than before.
Only float32 and float64, where terms have no other reader.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import reduce
from typing import NamedTuple

from flamec.ir.graph import Graph, Node, Value
from flamec.ir.passes.rewrite import RewriteBuilder, rewrite
from flamec.ir.shape import format_shape

MOST_FACTORS = 8  # of one term


class _Term(NamedTuple):
    """``base`` times all of ``factors``, negated or not."""

    base: Value
    factors: tuple[Value, ...]
    negated: bool


def factor_gradients(graph: Graph) -> Graph:
    """See the module's docstring; the graph itself if nothing can be factored out."""
    return rewrite(graph, _Factoring(graph))


class _Factoring:
    """The rule. It sees nodes in order, so it knows how many steps lead to a value."""

    def __init__(self, graph: Graph) -> None:
        self._uses = Counter(v for node in graph.nodes for v in node.inputs)
        self._uses.update((*graph.outputs, *graph.updates.values()))
        self._depth: dict[Value, int] = {}
        self._single: set[Value] = set()  # what has one reader

    def __call__(self, b: RewriteBuilder, node: Node) -> Value | None:
        found = self._factored(b, node)
        assert b.original is not None
        results = node.outputs if found is None else (found,)
        if len(results) == 1 and self._uses[b.original.outputs[0]] == 1:
            self._single.add(results[0])
        depth = 1 + max((self._depth.get(v, 0) for v in node.inputs), default=-1)
        self._depth.update(dict.fromkeys(node.outputs, depth))
        return found

    def _factored(self, b: RewriteBuilder, node: Node) -> Value | None:
        if node.op.name not in ("add", "sub") or node.output.type.dtype.name not in _EXACT_ENOUGH:
            return None
        left, right = node.inputs
        if left is right:
            return None
        others = {term.base: term for term in self._terms(right)}
        pairs = [(term, others[term.base]) for term in self._terms(left) if term.base in others]
        for first, second in sorted(pairs, key=lambda pair: -self._depth.get(pair[0].base, 0)):
            if self._arrives_last(first, second) and _same_shape(first.base, node.output):
                inner = [_product(b, first), _product(b, second)]
                return b.mul(first.base, b.add(*inner) if node.op.name == "add" else b.sub(*inner))
        return None

    def _terms(
        self, value: Value, factors: tuple[Value, ...] = (), negated: bool = False
    ) -> Iterator[_Term]:
        """The ways to write a value, which only the sum reads, as a product."""
        if factors:
            yield _Term(value, factors, negated)
        node = value.node
        if node is None or value not in self._single or len(factors) == MOST_FACTORS:
            return
        if node.op.name == "neg":
            yield from self._terms(node.inputs[0], factors, not negated)
        elif node.op.name == "mul":
            for x, y in (node.inputs, node.inputs[::-1]):
                if _same_shape(x, value):
                    yield from self._terms(x, (y, *factors), negated)

    def _arrives_last(self, *terms: _Term) -> bool:
        """Whether more leads to the base than to any factor: a gradient has come a long way."""
        base = self._depth.get(terms[0].base, 0)
        return all(self._depth.get(v, 0) < base for term in terms for v in term.factors)


def _product(b: RewriteBuilder, term: _Term) -> Value:
    made: Value = reduce(b.mul, term.factors)
    return b.neg(made) if term.negated else made


def _same_shape(a: Value, b: Value) -> bool:
    return format_shape(a.type.shape) == format_shape(b.type.shape)


_EXACT_ENOUGH = ("float32", "float64")  # whose products need not be rounded where they were
