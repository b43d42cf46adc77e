"""Checkpointed regions: values that the backward pass computes again instead of keeping.

A ``Region`` is a part of a graph that the user marked. While its nodes are differentiated,
``Rematerializer.value`` gives for a value inside it a second computation from what came into the
region. That reads its sources through a choice which depends on the gradient that has just
arrived, so no pass can merge it with the first computation or move it before the backward pass.
Random bits are drawn again from the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from flamec.ir.builder import Builder
from flamec.ir.graph import Node, Value
from flamec.ir.op import OpKind
from flamec.ir.shape import has_symbols, product, structurally_equal


@dataclass(frozen=True, eq=False)
class Region:
    """Nodes in order; ``sources``: what they are computed from again; ``outputs``: what is kept.

    ``dependent``: the values of the region that are computed again.
    """

    nodes: tuple[Node, ...]
    sources: frozenset[Value]
    outputs: frozenset[Value]
    dependent: frozenset[Value]


def region(nodes: Sequence[Node], kept: Collection[Value], outputs: Collection[Value]) -> Region:
    """The region of ``nodes``, whose results are ``outputs``.

    ``kept``: what comes from outside and stays in memory anyway (parameters), so that what
    follows from it alone is not computed again.
    """
    made = {v for node in nodes for v in node.outputs}
    sources: set[Value] = set()
    dependent: set[Value] = set()
    for node in nodes:
        if node.op.kind is OpKind.RANDOM:
            sources.update(node.inputs)
            dependent.update(node.outputs)
            continue
        for value in node.inputs:
            if value in made or value in kept:
                continue
            if value.node is None or value.node.op.kind is not OpKind.CREATION:
                sources.add(value)
        if any(v in sources or v in dependent for v in node.inputs):
            dependent.update(node.outputs)
    return Region(tuple(nodes), frozenset(sources), frozenset(outputs), frozenset(dependent))


class Rematerializer:
    """The ``saved`` of one backward pass (see ``backpropagate``) over a graph with regions."""

    def __init__(
        self, regions: Sequence[Region], builder: Builder, present: Callable[[Value], Any]
    ) -> None:
        """``present(value)``: the run-time value that the first computation gave."""
        self._builder = builder
        self._present = present
        self._region: dict[Node, Region] = {}
        for part in regions:  # of nested ones the outer comes last and wins
            self._region.update(dict.fromkeys(part.nodes, part))
        self._arrived: Any = None
        self._again: dict[tuple[Region, Value], Any] = {}

    def enter(self, node: Node, incoming: Sequence[Any]) -> None:
        """The rule of ``node`` is about to run with these gradients."""
        self._arrived = next(g for g in incoming if g is not None)

    def value(self, node: Node, value: Value) -> Any:
        """What the rule of ``node`` reads for ``value``."""
        part = self._region.get(node)
        if part is None or not self._lost(part, value):
            return self._present(value)
        pending = [value]
        while pending:
            maker = pending[-1].node
            assert maker is not None
            if (part, pending[-1]) in self._again:
                pending.pop()
                continue
            missing = [
                v for v in maker.inputs if self._lost(part, v) and (part, v) not in self._again
            ]
            if missing:
                pending.extend(missing)
                continue
            operands = [self._operand(part, v) for v in maker.inputs]
            result = self._builder.apply(maker.op, operands, maker.attributes)
            results = result if isinstance(result, tuple) else (result,)
            for output, made in zip(maker.outputs, results, strict=True):
                self._again[part, output] = made
        return self._again[part, value]

    def _lost(self, part: Region, value: Value) -> bool:
        return value in part.dependent and value not in part.outputs

    def _operand(self, part: Region, value: Value) -> Any:
        key = part, value
        if key not in self._again:
            if value not in part.sources or value in part.dependent:
                return self._present(value)
            self._again[key] = self._after_arrival(self._present(value))
        return self._again[key]

    def _after_arrival(self, x: Any) -> Any:
        """``x`` itself, as a value that cannot be known before the gradient has arrived."""
        b = self._builder
        token, type = self._arrived, b.type_of(self._arrived)
        rank = len(type.shape)
        if rank and has_symbols(type.shape):
            token = b.sum(token, axes=tuple(range(rank)))
        elif rank:
            if structurally_equal(product(type.shape), 0):
                return x
            token = b.slice(token, starts=(0,) * rank, sizes=(1,) * rank, steps=(1,) * rank)
            token = b.reshape(token, shape=())
        always = b.bitwise_or(b.eq(token, token), b.ne(token, token))
        return b.where(always, x, b.constant(0, b.type_of(x)))
