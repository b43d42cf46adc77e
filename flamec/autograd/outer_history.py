"""Traced backward passes that reach what a tensor was computed from before the call.

In: the gradients of a pass in a traced function, of arguments and captured tensors that are no
leaves. Out: a last step of each call that goes on with them through the history outside, when the
program has run. Eager mode does so at once, so the gradients that follow are not known in the rest
of the function: whoever asks for one there is refused.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from flamec.errors import CompileError, unknown_outer_gradient, user_location
from flamec.host_actions import LastAct
from flamec.ir.graph import Value
from flamec.ir.passes.differentiate import reachable_nodes
from flamec.tape import Leaf, tape_value
from flamec.tensor import Tensor

if TYPE_CHECKING:
    from flamec.trace import Trace

Run = Callable[..., None]  # ``engine._backward_from``


def outer_values(trace: Trace) -> dict[Value, Tensor]:
    """The inputs that have a history outside, each with its tensor."""
    found: dict[Value, Tensor] = {}
    if trace.host is None:
        return found
    for value, source in zip(trace.builder.graph_inputs, trace.sources, strict=True):
        if value not in trace.tracked or value in trace.leaf_tensors:
            continue
        if source.kind == "captured" and source.held is not None:
            found[value] = source.held
        elif source.kind == "argument":
            found[value] = trace.gradients.argument_at(source.position)
        elif source.kind == "base":  # of several tensors in one memory
            storage = source.storage or trace.gradients.argument_at(source.position)._storage
            found[value] = Tensor._from_trace(trace, storage.base_type, storage)
    return found


def go_on_outside(
    trace: Trace,
    gradients: Mapping[Value, Tensor],
    wanted: Sequence[Tensor] | None,
    keep_graph: bool,
    create_graph: bool,
    run: Run,
) -> None:
    """Let each call go on with the gradients of what has a history outside.

    ``wanted``: the only tensors whose ``.grad`` is to be set. ``run`` is the engine.
    """
    reached = {v: t for v, t in outer_values(trace).items() if v in gradients}
    if not reached:
        return
    if create_graph:
        raise CompileError(
            f"backward(create_graph=True) in a compiled function reaches a tensor of shape "
            f"{list(next(iter(reached.values())).shape)} that was computed before the call (at "
            f"{user_location()}); call it outside, or give the function a detached copy"
        )
    assert trace.host is not None
    histories = [outer_value(trace, t) for t in reached.values()]
    goals = None if wanted is None else [t for t in wanted if _is_outside(trace, t)]
    coming = leaves_of(histories) if goals is None else _inside(trace, goals, histories)
    asked = trace.gradients.begin_outer(coming)
    trace.host.at_last(
        LastAct(
            partial(_begin, len(reached), goals is not None, asked),
            (*reached.values(), *(goals or ())),
            partial(_go_on, run, goals is not None, keep_graph),
            tuple([gradients[v] for v in reached]),
        )
    )


def leading_outside(trace: Trace, wanted: Sequence[Tensor]) -> dict[Value, Tensor]:
    """The inputs through whose histories outside one of ``wanted`` gets another gradient, each
    with such a tensor: what was computed from it before the call, or is the same value."""
    outside = [t for t in wanted if _is_outside(trace, t)]
    if not outside:
        return {}
    found: dict[Value, Tensor] = {}
    for value, tensor in outer_values(trace).items():
        others = [t for t in outside if trace.autograd_value(t) is not value]
        leading = _inside(trace, others, [outer_value(trace, tensor)])
        if leading:
            found[value] = leading[0]
    return found


def _begin(
    count: int, has_goals: bool, asked: Sequence[weakref.ref[Tensor]], *tensors: Tensor
) -> tuple[list[Value | None], Sequence[Tensor]]:
    """Of which values tensors are when a call begins, which may change them in place; and those
    behind the first ``count``, which are leaves of the histories even if switched off by now.

    ``asked``: whose gradients the function uses; CompileError if one of them gets another here.
    """
    values = [tape_value(tensor) for tensor in tensors]
    histories, goals = values[:count], tensors[count:]
    if None in values[count:]:
        known = [v for v in _values_of(histories) if isinstance(v, Leaf)]
        for place, goal in enumerate(goals, count):
            was = (v for v in known if v.tensor() is goal)
            values[place] = values[place] or next(was, None)
    if asked:
        reached = leaves_of(histories)
        if has_goals:
            met = set(_values_of(histories))
            reached = [goal for goal, v in zip(goals, values[count:], strict=True) if v in met]
        used = [reference() for reference in asked]
        if any(one is tensor for one in reached for tensor in used):
            raise unknown_outer_gradient()
    return values, goals


def _go_on(
    run: Run,
    has_goals: bool,
    keep_graph: bool,
    begun: tuple[Sequence[Value | None], Sequence[Tensor]],
    *gradients: Tensor,
) -> None:
    values, goals = begun
    count = len(values) - len(goals)
    histories, targets = values[:count], values[count:]
    seeds = {v: g for v, g in zip(histories, gradients, strict=True) if v is not None}
    if not has_goals:
        run(seeds, None, False, keep_graph)
        return
    known = [(goal, v) for goal, v in zip(goals, targets, strict=True) if v is not None]
    run(seeds, [goal for goal, _ in known], False, keep_graph, [v for _, v in known])


def _inside(
    trace: Trace, wanted: Sequence[Tensor], histories: Sequence[Value | None]
) -> list[Tensor]:
    """Those tensors, as they are outside, that the histories began with, or went through."""
    values = set(_values_of(histories))
    originals = [trace.gradients.original(t) for t in wanted if _is_outside(trace, t)]
    return [t for t in originals if tape_value(t) in values]


def _is_outside(trace: Trace, tensor: Tensor) -> bool:
    return trace.gradients.original(tensor)._trace is None


def outer_value(trace: Trace, tensor: Tensor) -> Value | None:
    """What a tensor of ``outer_values`` is on the tape."""
    original = trace.gradients.original(tensor)
    return tape_value(original) if original._trace is None else tensor._storage.value


def leaves_of(histories: Iterable[Value | None]) -> list[Tensor]:
    """The leaves that eager backward from these values of the tape would reach."""
    leaves = dict.fromkeys(v for v in _values_of(histories) if isinstance(v, Leaf))
    return [tensor for leaf in leaves if (tensor := leaf.tensor()) is not None]


def _values_of(histories: Iterable[Value | None]) -> list[Value]:
    values = [value for value in histories if value is not None]
    nodes = reachable_nodes(values, lambda value: False)
    return [*values, *(v for n in nodes for v in n.inputs)]
