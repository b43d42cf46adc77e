"""Which inputs of a program get gradients if it is differentiated outside.

In: a finished trace, its graph, the outputs that gradients arrive at. Out: the positions of the
inputs that they reach; that they reach nothing else that keeps a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, NamedTuple

from flamec.errors import Uncompiled
from flamec.ir.graph import Graph, Value
from flamec.ir.passes.differentiate import reachable_nodes
from flamec.recomputed_parts import reads_changed_memory

if TYPE_CHECKING:
    from flamec.trace import Trace


class Leaves(NamedTuple):
    """The values of the leaves that a function made: ``all``, and those that leave it."""

    all: Collection[Value]
    leaving: Collection[Value]


def reached_inputs(trace: Trace, graph: Graph, outputs: Iterable[int]) -> tuple[int, ...]:
    """The inputs that the outputs' histories begin with, some perhaps behind a leaf that the
    function made of something detached: by those, too, results require gradients."""
    return _begins(trace, graph, outputs, lambda value: value not in trace.tracked)


def inputs_with_gradients(trace: Trace, graph: Graph, outputs: Iterable[int]) -> tuple[int, ...]:
    """The inputs that gradients of the outputs reach; others get no gradient, not one of 0."""

    def ends(value: Value) -> bool:
        passes = value.node is None or value.node.op.derivative is not None
        return value not in trace.tracked or not passes

    return _begins(trace, graph, outputs, ends)


def _begins(
    trace: Trace, graph: Graph, outputs: Iterable[int], ends: Callable[[Value], bool]
) -> tuple[int, ...]:
    roots = [graph.outputs[i] for i in outputs]
    nodes = reachable_nodes(roots, ends)
    reached = {*roots, *(v for node in nodes for v in node.inputs)} & trace.tracked
    return tuple(i for i, value in enumerate(graph.inputs) if value in reached)


def check_gradients_outside(
    trace: Trace, graph: Graph, outputs: Iterable[int], made: Leaves
) -> None:
    """Uncompiled if a gradient that begins outside arrives at a leaf that no input stands for, or
    in a part that is computed again from memory that has changed.

    Such a leaf is one that required none when it was first used, or that the function made and that
    leaves it with what was computed from it. Of one that stays, results would require no gradient
    if they depend on no input that does.
    """
    changed = trace.parts.changed()
    for output in outputs if trace.late_leaves or made.all or changed else ():
        nodes = reachable_nodes([graph.outputs[output]], lambda value: value not in trace.tracked)
        for node in nodes:
            if node in changed:
                raise reads_changed_memory(node)
        reached = {v for n in nodes for v in n.inputs}
        if not reached.isdisjoint(trace.late_leaves):
            raise Uncompiled(
                "requires_grad of a tensor is switched on when it has been used, and gradients "
                "begin outside (call backward inside, or switch it on outside)"
            )
        has_inputs = any(v in reached and v in trace.tracked for v in graph.inputs)
        if not reached.isdisjoint(made.leaving if has_inputs else made.all):
            raise Uncompiled(
                "it makes a leaf, and gradients begin outside at what it computed from it (call "
                "backward inside)"
            )
