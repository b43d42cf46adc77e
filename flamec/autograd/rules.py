"""Python functions of gradients, run once while tracing and kept as rules in IR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flamec.dispatch import tensor_builder
from flamec.ir.builder import Builder
from flamec.ir.custom import RecordedRule, record_rule
from flamec.ir.graph import Node, Value
from flamec.ir.op import Attributes, Op
from flamec.ir.shape import SymbolicDim, symbols_of
from flamec.ir.types import TensorType
from flamec.state import set_grad_enabled, thread
from flamec.tensor import Tensor


def record_nodes(
    nodes: Sequence[Node],
    gradients: Sequence[Value],
    outputs: Sequence[Value],
    found: Sequence[Tensor | None],
) -> RecordedRule:
    """What ``nodes`` of the trace in progress compute from gradients and outputs."""
    trace = thread.trace
    assert trace is not None
    results = [None if g is None else trace.value_of(g) for g in found]
    symbols = sorted({str(s) for node in nodes for s in _symbols_in(node.attributes)})
    return record_rule(nodes, gradients, outputs, results, trace.tracked, symbols)


def record_gradient_rule(type: TensorType, function: Callable[[Tensor], Tensor]) -> RecordedRule:
    """``function`` of one gradient as a rule; it is run on a stand-in."""
    return record_gradients_rule([type], lambda seeds: [function(*seeds)])


def record_gradients_rule(
    types: Sequence[TensorType], function: Callable[[Sequence[Tensor]], Sequence[Tensor | None]]
) -> RecordedRule:
    """``function`` of several gradients as a rule; it is run on stand-ins."""
    trace = thread.trace
    assert trace is not None
    nodes = trace.builder.nodes
    start = len(nodes)
    with trace.without_values():
        seeds = [tensor_builder.full_like(0, type) for type in types]
        values = [trace.value_of(seed) for seed in seeds]
        trace.tracked.update(values)
        found = function(seeds)
    for gradient in found:
        if gradient is not None:
            trace.value_of(gradient)  # views become nodes now
    return record_nodes(nodes[start:], values, (), found)


def _symbols_in(attributes: Attributes) -> set[str]:
    found: set[str] = set()
    pending: list[Any] = list(attributes.values())
    while pending:
        value = pending.pop()
        if isinstance(value, tuple):
            pending.extend(value)
        elif isinstance(value, SymbolicDim):
            found |= set(symbols_of(value))
    return found


def apply_recorded(
    b: Builder, op: Op, inputs: Sequence[Any], attributes: Attributes, recorded: bool
) -> Any:
    """Apply an operation of a rule, recording only what the rule recorded."""
    with set_grad_enabled(thread.grad_enabled and recorded):
        return b.apply(op, inputs, attributes)
