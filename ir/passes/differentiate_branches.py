"""The derivative of ``cond`` is a ``cond`` over the derivatives of its branches.

In: the node's operands and the gradients of its results. Out: the gradients of the operands, by a
branch with the same predicate, which computes the branch that was taken once more and its
gradients behind it. So nothing of the other branch is computed or kept, and what is emitted has a
derivative again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.ir.builder import Builder
from flamec.ir.graph import Graph
from flamec.ir.op import DerivativeContext, lookup
from flamec.ir.passes.differentiate import dependents, differentiate_graph
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code


def cond_derivative(b: Builder, ctx: DerivativeContext, *gradients: Any) -> Sequence[Any]:
    """The derivative rule of ``cond``; see the module's docstring."""
    branches = ("true_body", "false_body")
    given = [i for i, g in enumerate(gradients) if g is not None]
    needs = [i for i, need in enumerate(ctx.needs[1:]) if need]
    graphs = [ctx.attributes[name] for name in branches]
    wanted = [i for i in needs if any(_reaches(graph, i, given) for graph in graphs)]
    found: list[Any] = [None] * len(ctx.inputs)
    if not wanted:
        return found
    changed = {
        name: _gradient(graph, wanted, given) for name, graph in zip(branches, graphs, strict=True)
    }
    made = b.apply_all(lookup("cond"), [*ctx.inputs, *(gradients[i] for i in given)], changed)
    for position, gradient in zip(wanted, made, strict=True):
        found[1 + position] = gradient
    return found


def _reaches(graph: Graph, position: int, given: Sequence[int]) -> bool:
    """Whether one of these outputs depends on the input by operations with a derivative."""
    tracked = dependents(graph, [graph.inputs[position]])
    return any(graph.outputs[i] in tracked for i in given)


def _gradient(graph: Graph, wrt: Sequence[int], given: Sequence[int]) -> Graph:
    """The branch that takes operands and gradients, and gives the gradients of ``wrt``."""
    both = differentiate_graph(graph, wrt, given)
    results = both.outputs[len(graph.outputs) :]
    name = f"{graph.name}_backward"
    return eliminate_dead_code(Graph(both.inputs, both.nodes, results, {}, name))
