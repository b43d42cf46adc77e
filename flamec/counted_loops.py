"""Reverse mode of a ``while_loop`` without ``max_steps`` in a compiled function.

A program's memory is planned before it runs, and what the steps back read is kept for every step.
So the loop is run twice: first it only counts its steps, in a part of the function that ends there
(``segments``); the number, rounded up to a power of two, bounds the memory of the second, which
makes as many steps as were counted. Powers of two, so that there are few programs (at most 63).

In: what a trace that succeeded has in it, then the loop's node when it is traced again. Out:
whether that is needed; operands and attributes of a loop with a limit. Invariants: the second loop
makes the steps of the first, whatever its condition rounds to; only it writes to tensors from
outside and draws random numbers for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.conversion import constant_array
from flamec.dispatch import apply_named
from flamec.ir.bodies import emitted
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.op import OpKind
from flamec.ir.passes.extract import needed_nodes
from flamec.ir.types import TensorType, int64
from flamec.state import no_grad, thread
from flamec.tensor import Tensor
from flamec.values import concrete_array

if TYPE_CHECKING:
    from flamec.capture import Captured

MOST_STEPS = 62  # as a power of two


def needs_counts(captured: Captured) -> bool:
    """Whether a gradient that the function computes, or may be asked for, goes through a loop
    without a bound."""
    graph = captured.graph
    if all(op.kind not in (OpKind.UNBOUNDED, OpKind.WHILE) for op in graph.ops):
        return False
    results = [*graph.outputs, *graph.updates.values()]
    nodes = needed_nodes(results, ())
    if any(node.op.kind is OpKind.UNBOUNDED for node in nodes):
        return True
    if not captured.tracked_outputs:
        return False
    tracked = captured.trace.tracked
    return any(
        node.op.kind is OpKind.WHILE
        and node.attributes["limit"] is None
        and any(v in tracked for v in node.outputs)
        for node in nodes
    )


def can_count() -> bool:
    """Whether the trace in progress is one whose loops count, and may be split here. One that can
    begin anew for that no more counts at once; one that can must know that before an effect."""
    trace = thread.trace
    if trace is None or trace.host is None or not trace.can_read():
        return False
    effects = trace.host.happenings
    if thread.loops_counted or effects.found:
        return True
    effects.is_counted = False
    return False


def counted(
    operands: Sequence[Tensor], attributes: dict[str, Any]
) -> tuple[list[Tensor], dict[str, Any]]:
    """The loop with a limit, whose first carried value counts its steps; the function is split."""
    carries = attributes["carries"]
    with no_grad():
        made = apply_named("while_loop", *operands, **attributes)
        steps = made[carries]
        device = steps._type.device
        powers = constant_array(np.int64(1) << np.arange(MOST_STEPS, dtype=np.int64), device)
        exponent = (steps > powers).sum()
    power = int(concrete_array(exponent, "the number of steps of a while_loop", recurs=True))
    zero = constant_array(np.zeros((), np.int64), device)
    number = TensorType((), int64, device)
    condition, body = (_with_steps(attributes[k], number, k) for k in ("condition", "body"))
    changed = {"condition": condition, "body": body, "carries": carries + 1, "limit": 1 << power}
    return [zero, *operands, steps], {**attributes, **changed}


def _with_steps(graph: Graph, number: TensorType, part: str) -> Graph:
    """The condition or body over the number of steps made, its own operands, and how many there
    are to be: which is the condition."""
    b = GraphBuilder()
    made = b.input(number, "steps")
    values = [b.input(v.type, v.name) for v in graph.inputs]
    wanted = b.input(number, "wanted")
    if part == "condition":
        return b.build([b.lt(made, wanted)], name=graph.name)
    more = b.add(made, b.constant(1, number))
    return b.build([more, *emitted(b, graph, values)], name=graph.name)
