"""Traced backward passes that reach what a tensor was computed from before the call.

In: the gradients of a pass in a traced function, of arguments and captured tensors that are no
leaves. Out: a last step of each call that goes on with them through the history outside, when the
program has run. Eager mode does so at once, so the gradients that follow are not known in the rest
of the function: whoever asks for one there is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from flamec.dispatch import tape_value
from flamec.errors import CompileError, unknown_outer_gradient, user_location
from flamec.ir.graph import Node, Value
from flamec.ir.passes.differentiate import reachable_nodes
from flamec.tape import Leaf
from flamec.tensor import Tensor

if TYPE_CHECKING:
    from flamec.trace import Trace


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
    keep_graph: bool,
    create_graph: bool,
    backward: Callable[..., None],
) -> None:
    """Let each call go on with the gradients of what has a history outside."""
    reached = {v: t for v, t in outer_values(trace).items() if v in gradients}
    if not reached:
        return
    assert trace.host is not None
    for value, tensor in reached.items():
        if create_graph or trace.roots[tensor._storage].value is not value:
            why = "with create_graph=True" if create_graph else "and the function changed in place"
            raise CompileError(
                f"backward in a compiled function reaches a tensor of shape "
                f"{list(tensor.shape)} that was computed before the call, {why} (at "
                f"{user_location()}); call backward outside, or give the function a detached copy"
            )
    histories = [outer_value(trace, t) for t in reached.values()]
    asked = trace.gradients.begin_outer(leaves_of(histories))
    operands = [*reached.values(), *[gradients[v] for v in reached]]
    trace.host.at_last(partial(_backward, backward, keep_graph, asked), operands)


def _backward(
    backward: Callable[..., None], keep_graph: bool, asked: Sequence[Tensor], *operands: Tensor
) -> None:
    """Go on from the first half of ``operands`` with the gradients that are the second half."""
    count = len(operands) // 2
    tensors = list(operands[:count])
    if asked:
        reached = {id(leaf) for leaf in leaves_of(map(tape_value, tensors))}
        if any(id(tensor) in reached for tensor in asked):
            raise unknown_outer_gradient()
    backward(tensors, list(operands[count:]), retain_graph=keep_graph)


def outer_value(trace: Trace, tensor: Tensor) -> Value | None:
    """What a tensor of ``outer_values`` is on the tape."""
    original = trace.gradients.original(tensor)
    return tape_value(original) if original._trace is None else tensor._storage.value


def leaves_of(histories: Iterable[Value | None]) -> list[Tensor]:
    """The leaves that eager backward from these values of the tape would reach."""
    values = [value for value in histories if value is not None]
    nodes: Sequence[Node] = reachable_nodes(values, lambda value: False)
    found: dict[Any, Tensor] = {}
    for value in (*values, *(v for n in nodes for v in n.inputs)):
        leaf = value.tensor() if isinstance(value, Leaf) else None
        if leaf is not None:
            found[value] = leaf
    return list(found.values())
