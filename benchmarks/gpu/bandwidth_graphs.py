"""From a ``Row`` to the graphs that flamec makes of it: traced, differentiated, optimized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flamec
from benchmarks.gpu.bandwidth_rows import Row
from flamec.capture import Dynamic, capture
from flamec.ir.graph import Graph
from flamec.ir.passes.differentiate import differentiate_graph
from flamec.ir.passes.manager import run_passes
from flamec.ir.passes.partition import partition
from flamec.ir.passes.pipeline import pipeline


@dataclass(frozen=True)
class Programs:
    """``timed`` takes the outputs of ``before`` at ``saved``, the row's operands at ``inputs``
    (-1: the random state), and with ``before`` the gradient of the row's result.
    """

    timed: Graph
    before: Graph | None = None
    saved: tuple[int, ...] = ()
    inputs: tuple[int, ...] = ()


def programs(row: Row) -> Programs:
    """The graphs of a row, optimized."""
    function = row.make(flamec)
    arguments = [flamec.empty(*o.shape, dtype=getattr(flamec, o.dtype)) for o in row.operands]
    for position in row.wrt:
        arguments[position].requires_grad_()
    if row.part == "both":
        function = _with_gradient(function)
    captured = capture(function, tuple(arguments), {}, Dynamic(), row.name.split()[0])
    graph = captured.graph
    if row.part != "backward":
        arguments = [s.position if s.kind == "argument" else -1 for s in captured.sources]
        return Programs(_optimized(graph), inputs=tuple(arguments))
    joint = differentiate_graph(graph, row.wrt, (0,))
    parts = partition(joint, len(graph.inputs), 1, expensive=True)
    saved = tuple(range(1, 1 + parts.saved_count))
    return Programs(
        _optimized(parts.backward), _optimized(parts.forward), saved, parts.saved_inputs
    )


def _with_gradient(function: Any) -> Any:
    def loss_and_gradient(x: Any, *rest: Any) -> Any:
        loss = function(x, *rest)
        (gradient,) = flamec.autograd.grad(loss, [x])
        return loss, gradient

    return loss_and_gradient


def _optimized(graph: Graph) -> Graph:
    return run_passes(graph, pipeline(), False)[0]
