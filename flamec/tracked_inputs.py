"""Which inputs of a program get gradients if it is differentiated outside.

In: a finished trace, its graph, the outputs that gradients arrive at. Out: the positions of the
inputs that they reach; that they reach nothing else that keeps a gradient.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from flamec.errors import Uncompiled
from flamec.ir.graph import Graph, Value
from flamec.ir.passes.differentiate import reachable_nodes

if TYPE_CHECKING:
    from flamec.trace import Trace


def reached_inputs(trace: Trace, graph: Graph, outputs: Iterable[int]) -> tuple[int, ...]:
    """The inputs that gradients of the outputs reach; others get no gradient, not one of 0."""
    roots = [graph.outputs[i] for i in outputs]
    nodes = reachable_nodes(roots, lambda value: value not in trace.tracked)
    reached = {*roots, *(v for node in nodes for v in node.inputs)} & trace.tracked
    return tuple(i for i, value in enumerate(graph.inputs) if value in reached)


def check_leaves(
    trace: Trace, graph: Graph, outputs: Iterable[int], made: Collection[Value]
) -> None:
    """Uncompiled if a gradient that begins outside arrives at a leaf that no input stands for.

    That is one that required none when it was first used, or one of ``made``: the function made
    it, and it leaves the function with what was computed from it.
    """
    roots = [graph.outputs[i] for i in outputs] if trace.late_leaves or made else []
    nodes = reachable_nodes(roots, lambda value: value not in trace.tracked)
    reached = {v for n in nodes for v in n.inputs}
    if not reached.isdisjoint(trace.late_leaves):
        raise Uncompiled(
            "requires_grad of a tensor is switched on when it has been used, and gradients begin "
            "outside (call backward inside, or switch it on outside)"
        )
    if not reached.isdisjoint(made):
        raise Uncompiled(
            "it returns or stores a leaf that it made and what it computed from it (call backward "
            "inside)"
        )
