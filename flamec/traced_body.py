"""The body of a loop or branch: a Python function, run once on stand-ins, as a graph.

In: a function and the types of its arguments. Out: a ``TracedBody``: a graph over the arguments and
whatever tensors the function used from outside. Tensors from outside that it changed in place are
``written``: their new values are results of the graph. Values that were computed without recording
stand behind a ``detach``, so that the graph's derivative is the function's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.primitives import ops
from flamec.functional.promotion import number_dtype
from flamec.inner_trace import InnerTrace
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Value
from flamec.ir.types import DType, TensorType
from flamec.state import thread
from flamec.structures import Structure, flatten
from flamec.tensor import Tensor


@dataclass(frozen=True, eq=False)
class TracedBody:
    """``graph``: takes the arguments and then ``captured``; gives the leaves of the result that are
    not None, and then new values of the captured tensors at the positions ``written``, of which
    those ``recorded`` have a history that begins in the body, or before.

    ``structure``: that of the result; ``present``: which of its leaves are not None.
    """

    graph: Graph
    captured: tuple[Tensor, ...]
    written: tuple[int, ...]
    recorded: frozenset[int]
    structure: Structure
    present: tuple[bool, ...]


def trace_body(
    name: str,
    function: Callable[..., Any],
    types: Sequence[TensorType],
    tracked: Sequence[bool],
    arguments: Callable[[list[Tensor]], tuple[Any, ...]],
) -> TracedBody:
    """Run ``function(*arguments(stand-ins))`` once. ``name``: of the operation, for errors.

    ``tracked``: which stand-ins take part in autograd. Raises what the function raises, and
    RuntimeError for what a body cannot do.
    """
    trace = InnerTrace()
    trace.body_of = name
    thread.trace = trace
    try:
        stand_ins = [trace.stand_in(t, flag) for t, flag in zip(types, tracked, strict=True)]
        leaves, structure = flatten(function(*arguments(stand_ins)))
        tensors = [as_tensor(name, leaf) for leaf in leaves]
        values = [trace.value_of(t) for t in tensors if t is not None]
        _refuse(name, trace, stand_ins)
        positions = {
            root.input_position: root.value
            for root in trace.roots.values()
            if root.written and root.input_position is not None
        }
        captured = [source.tensor for source in trace.sources[len(types) :]]
        found = tuple(t for t in captured if t is not None)
        if len(found) < len(captured):
            raise OperationError(
                f"{name}: a number that changes from call to call cannot be read in the function; "
                f"pass it as a tensor (at {user_location()})"
            )
        written = tuple(sorted(p - len(types) for p in positions))
        recorded = frozenset(p for p in written if positions[p + len(types)] in trace.tracked)
        outputs = [*values, *(positions[p + len(types)] for p in written)]
        graph = _graph(trace, outputs, getattr(function, "__name__", name))
    finally:
        thread.trace = trace.outer
    trace.close()
    return TracedBody(
        graph,
        found,
        written,
        recorded,
        structure,
        tuple(t is not None for t in tensors),
    )


def number_tensor(number: bool | int | float, dtype: DType | None = None) -> Tensor:
    """A tensor without dimensions, of the default dtype of such numbers if none is given.

    While tracing it is a constant of the program.
    """
    made: Tensor = ops.constant(number, TensorType((), dtype or number_dtype(number)))
    return made


def as_tensor(name: str, leaf: Any) -> Tensor | None:
    """A tensor for what a function returned; None stays. TypeError for anything but a number."""
    if leaf is None or isinstance(leaf, Tensor):
        return leaf
    if isinstance(leaf, (bool, int, float)):
        return number_tensor(leaf)
    raise OperationTypeError(
        f"{name}: values must be tensors or numbers, not {type(leaf).__name__} "
        f"(at {user_location()})"
    )


def _refuse(name: str, trace: InnerTrace, stand_ins: Sequence[Tensor]) -> None:
    """RuntimeError for effects that a body cannot have."""
    if trace.gradients.written:
        raise OperationError(
            f"{name}: backward() and assignments to .grad are not possible in the function; use "
            f"flamec.func.grad or autograd.grad (at {user_location()})"
        )
    if trace.hooks.registered:
        raise OperationError(
            f"{name}: hooks of tensors cannot be registered in the function (at {user_location()})"
        )
    for tensor in stand_ins:
        root = trace.roots[tensor._storage]
        if root.written:
            raise OperationError(
                f"{name}: the function changes one of its arguments in place; it must return the "
                f"new value instead (at {root.writer})"
            )


def _graph(trace: InnerTrace, outputs: Sequence[Value], name: str) -> Graph:
    """The nodes that lead to ``outputs``, with a barrier where recording was off."""
    live = set(outputs)
    for node in reversed(trace.builder.nodes):
        if not live.isdisjoint(node.outputs):
            live.update(node.inputs)
    builder = GraphBuilder()
    known = {v: builder.input(v.type, v.name) for v in trace.builder.graph_inputs}
    for node in trace.builder.nodes:
        if live.isdisjoint(node.outputs):
            continue
        builder.location, builder.scope = node.location, node.scope
        made = builder.add_node(node.op, [known[v] for v in node.inputs], node.attributes)
        tracked = any(v in trace.tracked for v in node.inputs)
        for old, new in zip(node.outputs, made.outputs, strict=True):
            cut = tracked and node.op.derivative is not None and old not in trace.tracked
            known[old] = builder.detach(new) if cut and new.type.dtype.is_floating_point else new
    return builder.build([known[v] for v in outputs], name=name)
