"""Gradients, asked for in ``vmap`` or in the body of a loop, through what was computed around it.

In: the gradients of a pass in an inner trace, of tensors that it has captured. Out: those of
tensors that these were computed from, on the tape or in the trace around. The rules of operations
there run in the inner trace, so what arrives may differ from element to element of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from flamec.autograd.backward_pass import BackwardPass
from flamec.autograd.hooks import finished
from flamec.autograd.outer_history import leading_outside
from flamec.dispatch import tensor_builder
from flamec.errors import OperationError, unknown_outer_gradient, user_location
from flamec.inner_trace import InnerTrace
from flamec.ir.graph import Value
from flamec.ir.passes.differentiate import backpropagate, depending_on, reachable_nodes
from flamec.state import set_grad_enabled, thread
from flamec.tape import Leaf, tape_tracked, tape_value, unpack
from flamec.tensor import Tensor

if TYPE_CHECKING:
    from flamec.trace import Trace


def captured(trace: Trace) -> dict[Value, Tensor]:
    """The inputs of an inner trace that are recorded around it, each with its tensor."""
    if not isinstance(trace, InnerTrace):
        return {}
    pairs = zip(trace.builder.graph_inputs, trace.sources, strict=True)
    return {
        value: source.tensor
        for value, source in pairs
        if source.kind == "captured" and source.tensor is not None and value in trace.tracked
    }


def value_at(level: Trace | None, tensor: Tensor) -> Value | None:
    """What a tensor is in a trace, or on the tape; None if it is not recorded there, or made in a
    trace inside."""
    known: Any = level
    while known is not None and known is not tensor._trace:
        known = getattr(known, "outer", None)
    if known is not tensor._trace:
        return None
    inner, thread.trace = thread.trace, level
    try:
        if level is None:
            return tape_value(tensor)
        return level.autograd_value(tensor) if level.is_tracked(tensor) else None
    finally:
        thread.trace = inner


def leading_around(trace: Trace, wanted: Sequence[Tensor]) -> dict[Value, Tensor]:
    """The captured tensors through whose histories around the trace one of ``wanted`` gets another
    gradient than in the trace, and with them those of ``wanted`` that are captured; {} if none."""
    known = captured(trace)
    goals = {value_at(trace, tensor) for tensor in wanted} & known.keys()
    if not goals:
        return {}
    assert isinstance(trace, InnerTrace)
    outer = trace.outer
    own = {value: value_at(outer, tensor) for value, tensor in known.items()}
    around = {own[value]: value for value in goals if value is not None}
    further = _leading(outer, wanted)
    leading = {}
    for value, there in own.items():
        if there is None:
            continue
        nodes = reachable_nodes([there], lambda v: False)
        met = {there, *(v for node in nodes for v in node.inputs)}
        others = {v for v, goal in around.items() if goal is not value}
        if not met.isdisjoint(others | further):
            leading[value] = known[value]
    if leading:
        leading.update((value, known[value]) for value in goals if value is not None)
    return leading


def _leading(level: Trace | None, wanted: Sequence[Tensor]) -> set[Value]:
    """Values of a trace through whose histories around it, or before a call, ``wanted`` get
    gradients."""
    if level is None:
        return set()
    return {*leading_around(level, wanted), *leading_outside(level, wanted)}


def gradients_around(
    trace: Trace,
    leading: Mapping[Value, Tensor],
    found: Mapping[Value, Tensor],
    wanted: Sequence[Tensor],
    create_graph: bool,
    batch: Any = None,
) -> dict[int, Tensor]:
    """The gradients of those of ``wanted``, by their places, that are recorded around the trace.

    ``leading``: what ``leading_around`` gave, ``found``: the gradients in the trace. An Uncompiled
    exception if they go on with what was recorded before a call of a compiled function, a
    RuntimeError if ``found`` are themselves in a ``batch`` (``is_grads_batched``).
    """
    if batch is not None:
        raise OperationError(
            "grad: is_grads_batched in vmap, by a tensor that is not computed in the function "
            f"(at {user_location()}); use func.vjp"
        )
    assert isinstance(trace, InnerTrace)
    outer = trace.outer
    seeds: dict[Value, Tensor] = {}
    for value, tensor in leading.items():
        own = value_at(outer, tensor)
        if value in found and own is not None:
            gradient = found[value]
            seeds[own] = tensor_builder.add(seeds[own], gradient) if own in seeds else gradient
    known = captured(trace)
    places = [i for i, t in enumerate(wanted) if value_at(trace, t) in known]
    goals = [wanted[i] for i in places]
    if not seeds:
        return {}
    further = {} if outer is None else leading_around(outer, goals)
    before = {} if outer is None else leading_outside(outer, goals)
    targets = [value_at(outer, tensor) for tensor in goals]
    goals_there = [*(v for v in targets if v is not None), *further, *before]
    results = _run(outer, seeds, goals_there, create_graph)
    for tensor in (tensor for value, tensor in before.items() if value in results):
        raise unknown_outer_gradient(tensor.shape)
    pairs = zip(places, targets, strict=True)
    given = {i: results[v] for i, v in pairs if v is not None and v in results}
    if further and outer is not None:
        beyond = gradients_around(outer, further, results, goals, create_graph)
        given.update((places[i], gradient) for i, gradient in beyond.items())
    return given


def following_from(trace: Trace | None, tensors: Sequence[Tensor]) -> set[Value]:
    """The captured values whose histories around the trace lead to ``tensors`` alone."""
    if not isinstance(trace, InnerTrace):
        return set()
    level = trace.outer
    own = {value_at(level, tensor) for tensor in tensors} | following_from(level, tensors)
    found = set()
    for value, tensor in captured(trace).items():
        there = value_at(level, tensor)
        if there is None:
            continue
        nodes = reachable_nodes([there], lambda v: False)
        met = {there, *(v for node in nodes for v in node.inputs)}
        if not any(v not in own and _begins(level, v) for v in met):
            found.add(value)
    return found


def _begins(level: Trace | None, value: Value) -> bool:
    """Whether a history begins with a value."""
    if level is None:
        return isinstance(value, Leaf)
    return value in level.leaf_tensors or (value.node is None and value in level.tracked)


def _run(
    level: Trace | None,
    seeds: Mapping[Value, Tensor],
    targets: Sequence[Value],
    create_graph: bool,
) -> Mapping[Value, Tensor]:
    """The gradients of the targets, of what was recorded in a trace ``level`` around the present
    one, or on the tape. That history stays."""
    nodes = reachable_nodes(seeds)
    recorded = tape_tracked if level is None else level.tracked.__contains__
    tracked = depending_on(targets, nodes, recorded)
    saved: Any = unpack if level is None else lambda node, value: level.tensor_of(value)
    reached = chain(seeds, (v for n in nodes for v in (*n.inputs, *n.outputs)))
    outer, thread.backward = thread.backward, BackwardPass(reached)
    try:
        with set_grad_enabled(create_graph):
            found = backpropagate(
                [n for n in nodes if any(map(tracked, n.outputs))],
                dict(seeds),
                tracked,
                tensor_builder,
                saved,
                keep=set(targets),
                finish=finished,
            )
        thread.backward.finish()
    finally:
        thread.backward = outer
    return found
