"""An optimizer's update while a function is traced: the rule is traced once for equal parameters.

In: a group and its parameters with their gradients. Out: the nodes and writes that
``Optimizer.update_group`` would have added for each pair. A parameter that looks like an earlier
one (types, state, what autograd knows) gets the nodes of that one again, over its own tensors;
what does not depend on them, such as numbers of the group, is shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flamec.ir.graph import Node, Value
from flamec.state import thread
from flamec.tensor import Tensor
from flamec.trace import Trace

if TYPE_CHECKING:
    from flamec.optim.optimizer import Optimizer

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Traced:
    """What the update of one parameter added. ``values``: of its tensors, before."""

    values: tuple[Value, ...]
    nodes: tuple[Node, ...]
    writes: tuple[tuple[int, Value], ...]  # positions of tensors, and what they hold then


def update_group(optimizer: Optimizer, group: dict[str, Any], pairs: Sequence[Pair]) -> None:
    """``optimizer.update_group(group, pairs)`` of an optimizer of this package."""
    trace = thread.trace
    if len(pairs) < 2 or type(trace) is not Trace or thread.grad_enabled:
        optimizer.update_group(group, list(pairs))
        return
    known: dict[Any, _Traced | None] = {}
    for pair in pairs:
        tensors = _tensors(optimizer, pair)
        key = None if tensors is None else _looks(trace, optimizer, pair, tensors)
        if key is None or tensors is None:
            optimizer.update_group(group, [pair])
            continue
        traced = known.get(key)
        if traced is None:
            values = tuple([trace.value_of(t) for t in tensors])
            start = len(trace.builder.nodes)
            with trace.writes_noted() as writes:
                optimizer.update_group(group, [pair])
            if key not in known:  # else it could not be repeated before
                nodes = tuple(trace.builder.nodes[start:])
                known[key] = _repeatable(tensors, values, nodes, writes)
        else:
            _repeat(trace, traced, tensors)


def _tensors(optimizer: Optimizer, pair: Pair) -> list[Tensor] | None:
    """The parameter, its gradient and its state, if each is a tensor with memory of its own."""
    state = optimizer.state.get(pair[0]) or {}
    found = [*pair, *state.values()]
    if not all(isinstance(t, Tensor) and not t._steps for t in found):
        return None
    return found if len({t._storage for t in found}) == len(found) else None


def _looks(trace: Trace, optimizer: Optimizer, pair: Pair, tensors: Sequence[Tensor]) -> Any:
    """Equal for parameters whose updates differ in the tensors alone; None: nothing equals it."""
    looks = []
    for tensor in tensors:
        value = trace.value_of(tensor)
        if trace.root_of(tensor).steps:
            return None
        leaf = trace.leaf_tensors.get(value)
        is_own = None if leaf is None else leaf is tensor
        looks.append((tensor._type, tensor._requires_grad, value in trace.tracked, is_own))
    return tuple(optimizer.state.get(pair[0]) or ()), tuple(looks)


def _repeatable(
    tensors: Sequence[Tensor],
    values: tuple[Value, ...],
    nodes: tuple[Node, ...],
    writes: Sequence[tuple[Tensor, Value]],
) -> _Traced | None:
    """The record of an update; None if it wrote to other tensors or to parts of them."""
    positions = {tensor._storage: i for i, tensor in enumerate(tensors)}
    if any(t._storage not in positions or t._steps for t, _ in writes):
        return None
    return _Traced(values, nodes, tuple((positions[t._storage], v) for t, v in writes))


def _repeat(trace: Trace, traced: _Traced, tensors: Sequence[Tensor]) -> None:
    replaced = dict(zip(traced.values, map(trace.value_of, tensors), strict=True))
    for node in traced.nodes:
        if any(v in replaced for v in node.inputs):
            copy = node.on([replaced.get(v, v) for v in node.inputs])
            trace.builder.nodes.append(copy)
            for value, new in zip(node.outputs, copy.outputs, strict=True):
                replaced[value] = new
                if value in trace.tracked:
                    trace.tracked.add(new)
    for position, value in traced.writes:
        trace.hold(tensors[position], replaced.get(value, value))
