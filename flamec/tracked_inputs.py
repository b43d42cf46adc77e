"""Which inputs of a program get gradients if it is differentiated outside.

In: a finished trace, its graph, the outputs that gradients arrive at. Out: the positions of the
inputs that they reach.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flamec.errors import CompileError, user_location
from flamec.ir.graph import Graph
from flamec.ir.passes.differentiate import reachable_nodes

if TYPE_CHECKING:
    from flamec.trace import Trace


def reached_inputs(trace: Trace, graph: Graph, outputs: Iterable[int]) -> tuple[int, ...]:
    """The inputs that gradients of the outputs reach; others get no gradient, not one of 0."""
    roots = [graph.outputs[i] for i in outputs]
    nodes = reachable_nodes(roots, lambda value: value not in trace.tracked)
    reached = {*roots, *(v for node in nodes for v in node.inputs)} & trace.tracked
    return tuple(i for i, value in enumerate(graph.inputs) if value in reached)


def check_leaves(trace: Trace, graph: Graph, outputs: Iterable[int]) -> None:
    """CompileError if a leaf that must get a gradient required none when it was first used."""
    roots = [graph.outputs[i] for i in outputs] if trace.late_leaves else []
    nodes = reachable_nodes(roots, lambda value: value not in trace.tracked)
    if any(v in trace.late_leaves for n in nodes for v in n.inputs):
        raise CompileError(
            "requires_grad of a tensor is switched on in a compiled function that has used it "
            f"before, and gradients begin outside (at {user_location()}); call backward inside, or "
            "switch it on outside"
        )
