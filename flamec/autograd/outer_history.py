"""Traced backward passes that reach what a tensor was computed from before the call.

In: the gradients of a pass in a traced function, of arguments and captured tensors that are no
leaves. Out: a last step of each call that goes on with them through the history outside, when the
program has run. Eager mode does so at once, so the gradients that follow are not known in the rest
of the function: whoever asks for one there is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from flamec.dispatch import tape_value
from flamec.errors import CompileError, unknown_outer_gradient, user_location
from flamec.host_state import LastAct
from flamec.ir.graph import Value
from flamec.ir.passes.differentiate import reachable_nodes
from flamec.tape import Leaf
from flamec.tensor import Tensor

if TYPE_CHECKING:
    from flamec.trace import Trace

Run = Callable[[dict[Value, Tensor], Sequence[Tensor] | None, bool, bool], None]


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
    histories = [outer_value(trace, t) for t in reached.values()]
    goals = None if wanted is None else _inside(trace, wanted, histories)
    if not reached or goals == []:
        return
    if create_graph:
        raise CompileError(
            f"backward(create_graph=True) in a compiled function reaches a tensor of shape "
            f"{list(next(iter(reached.values())).shape)} that was computed before the call (at "
            f"{user_location()}); call it outside, or give the function a detached copy"
        )
    assert trace.host is not None
    asked = trace.gradients.begin_outer(leaves_of(histories) if goals is None else goals)
    act = partial(_go_on, run, goals, keep_graph, asked)
    given = [gradients[v] for v in reached]
    trace.host.at_last(LastAct(_histories, tuple(reached.values()), act, tuple(given)))


def refuse_outside(
    trace: Trace, gradients: Mapping[Value, Tensor], wanted: Sequence[Tensor]
) -> None:
    """An error if gradients that are asked for here also come through a history outside."""
    reached = [t for v, t in outer_values(trace).items() if v in gradients]
    found = _inside(trace, wanted, [outer_value(trace, t) for t in reached])
    if found:
        raise unknown_outer_gradient(found[0].shape)


def _histories(*tensors: Tensor) -> list[Value | None]:
    """Of which values the tensors are when a call begins; it may change them in place."""
    return [tape_value(tensor) for tensor in tensors]


def _go_on(
    run: Run,
    wanted: Sequence[Tensor] | None,
    keep_graph: bool,
    asked: Sequence[Tensor],
    histories: Sequence[Value | None],
    *gradients: Tensor,
) -> None:
    if asked:
        reached = {id(leaf) for leaf in leaves_of(histories)}
        if any(id(tensor) in reached for tensor in asked):
            raise unknown_outer_gradient()
    pairs = zip(histories, gradients, strict=True)
    run({v: g for v, g in pairs if v is not None}, wanted, False, keep_graph)


def _inside(
    trace: Trace, wanted: Sequence[Tensor], histories: Sequence[Value | None]
) -> list[Tensor]:
    """The tensors that the histories began with, or went through."""
    values = set(_values_of(histories))
    originals = [trace.gradients.original(tensor) for tensor in wanted]
    return [t for t in originals if t._trace is None and tape_value(t) in values]


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
