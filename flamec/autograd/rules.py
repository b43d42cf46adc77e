"""Python functions of gradients, run once while tracing and kept as rules in IR."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flamec.dispatch import tensor_builder
from flamec.ir.builder import Builder
from flamec.ir.custom import RecordedRule, record_rule
from flamec.ir.graph import Node, Value
from flamec.ir.op import Attributes, Op
from flamec.ir.shape import SymbolicDim, symbols_of
from flamec.ir.types import TensorType
from flamec.state import set_grad_enabled, thread
from flamec.tensor import Tensor, is_generator_state

if TYPE_CHECKING:
    from flamec.trace import Trace


def record_nodes(
    nodes: Sequence[Node],
    gradients: Sequence[Value],
    outputs: Sequence[Value],
    found: Sequence[Tensor | None],
    drawn: Sequence[Drawn] = (),
) -> RecordedRule:
    """What ``nodes`` of the trace in progress compute from gradients, outputs and ``drawn``."""
    trace = thread.trace
    assert trace is not None
    results = [None if g is None else trace.value_of(g) for g in found]
    symbols = sorted({str(s) for node in nodes for s in _symbols_in(node.attributes)})
    gradients = [*gradients, *(d.before for d in drawn)]
    results += [d.after for d in drawn]
    rule = record_rule(nodes, gradients, outputs, results, trace.tracked, symbols)
    return replace(rule, states=tuple([d.state for d in drawn]))


@dataclass(frozen=True, eq=False)
class Drawn:
    """The state of a generator that a rule draws from: its values before and after."""

    state: Tensor
    before: Value
    after: Value


@contextmanager
def draws_postponed(trace: Trace) -> Iterator[list[Drawn]]:
    """The generators that the block draws from, in the list when it ends; to the rest of the trace
    they are as they were before it. Only in the trace of a compiled call."""
    roots = {s: (root.value, root.written) for s, root in trace.roots.items()}
    drawn: list[Drawn] = []
    with trace.writes_noted() as written:
        yield drawn
    targets = dict.fromkeys(t for t, _ in written if is_generator_state(t))
    for state in targets if trace.host is not None else ():
        root = trace.root_of(state)
        assert root.input_position is not None
        first = trace.builder.graph_inputs[root.input_position], False
        before, was_written = roots.get(state._storage, first)
        drawn.append(Drawn(state, before, root.value))
        root.value, root.written = before, was_written
        root.version += 1


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
