"""The NumPy meaning of operations and graphs: eager mode on the CPU, and the oracle.

In: arrays that match the types. Out: arrays of exactly the inferred dtype and
shape. 16-bit floats are computed in float32 and rounded once for each
operation, here and nowhere else. Results of views may share memory with
their operands; results of ``evaluate_graph`` never share memory with its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from flamec.ir.bodies import bound_attribute
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import Attributes, Op, OpKind
from flamec.ir.shape import (
    SymbolicDim,
    evaluate_shape,
    format_shape,
    symbols_of,
)
from flamec.ir.types import TensorType, bfloat16, float16

Watch = Callable[[Node, Sequence[np.ndarray], Sequence[np.ndarray]], None]
Explain = Callable[[Node, Exception], Exception]

# what looks at the nodes of bodies that are being evaluated
_body_watch: ContextVar[Watch | None] = ContextVar("flamec_body_watch", default=None)

_ELEMENTWISE = OpKind.ELEMENTWISE
_COMPUTING = frozenset(
    k.value
    for k in (
        OpKind.REDUCTION,
        OpKind.CONTRACTION,
        OpKind.ATTENTION,
        OpKind.SCAN,
        OpKind.SCATTER,
        OpKind.SORT,
        OpKind.HOST,
    )
)
_HALVES = frozenset((float16.numpy.num, bfloat16.numpy.num))
_ndarray = np.ndarray
_errstate = np.errstate
_float32 = np.dtype(np.float32)


def run_op(
    op: Op,
    attributes: Attributes,
    arrays: Sequence[np.ndarray],
    output_types: tuple[TensorType, ...],
) -> tuple[np.ndarray, ...]:
    """Apply one operation. ``attributes`` and ``output_types`` are concrete (no symbols).

    Raises what the operation's ``evaluate`` raises (IndexError for an index out of
    range), and RuntimeError if the result has not the inferred shape.
    """
    kind = op.kind
    if kind is _ELEMENTWISE or kind._value_ in _COMPUTING:
        for array in arrays:
            if array.dtype.num in _HALVES:
                arrays = [a.astype(_float32) if a.dtype.num in _HALVES else a for a in arrays]
                break
        if op.inexact and kind is _ELEMENTWISE:
            arrays = [a if _is_plain(a) else a.copy("K") for a in arrays]
        with _errstate(all="ignore"):
            result = op.evaluate(attributes, *arrays)
            if type(result) is not tuple:
                return (_exactly(op, result, output_types[0]),)
            return tuple(map(_exactly, (op,) * len(result), result, output_types))
    result = op.evaluate(attributes, *arrays)
    if type(result) is not tuple:
        return (_exactly(op, result, output_types[0]),)
    return tuple(map(_exactly, (op,) * len(result), result, output_types))


def _is_plain(array: np.ndarray) -> bool:
    """Whether neighbours lie side by side along some axis, and none runs backwards.

    NumPy has vector code for such arrays and computes others element by element, in part by
    other functions; equal numbers shall have equal results however they lie.
    """
    return not array.ndim or min(array.strides) == array.itemsize


def _exactly(op: Op, value: Any, wanted: TensorType) -> np.ndarray:
    """``value`` as an array of the wanted dtype and shape."""
    if value.__class__ is not _ndarray:
        value = np.asarray(value)
    dtype = wanted.dtype.numpy
    if value.dtype is not dtype and value.dtype != dtype:
        value = value.astype(dtype)
    if value.shape != wanted.shape:
        raise RuntimeError(
            f"{op.name} gave an array of shape {list(value.shape)} where its shape rule "
            f"promises {format_shape(wanted.shape)}"
        )
    return value


def concrete_attributes(attributes: Attributes, bindings: Mapping[str, int]) -> dict[str, Any]:
    """Attributes with symbolic dimensions replaced by their values."""
    return {name: bound_attribute(value, bindings) for name, value in attributes.items()}


def bind_symbols(
    types: Sequence[TensorType],
    shapes: Sequence[tuple[int, ...]],
    bindings: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Values of the symbols in ``types`` such that the types have ``shapes``.

    Raises ValueError where a shape contradicts its type, or where a symbol stands
    only inside expressions and is not in ``bindings``.
    """
    found = dict(bindings or {})
    for type, shape in zip(types, shapes, strict=True):
        for dim, size in zip(type.shape, shape, strict=False):
            if isinstance(dim, SymbolicDim):
                names = symbols_of(dim)
                if len(names) == 1 and str(dim) in names:
                    found.setdefault(str(dim), size)
    for position, (type, shape) in enumerate(zip(types, shapes, strict=True)):
        missing = [n for d in type.shape for n in sorted(symbols_of(d)) if n not in found]
        if missing:
            raise ValueError(f"the sizes do not determine {missing[0]} of input {position}: {type}")
        if evaluate_shape(type.shape, found) != tuple(shape):
            raise ValueError(
                f"input {position} is {type} and cannot have shape {list(shape)}"
                + (f" with {found}" if found else "")
            )
    return found


def evaluate_graph(
    graph: Graph,
    inputs: Sequence[np.ndarray],
    bindings: Mapping[str, int] | None = None,
    watch: Watch | None = None,
    in_bodies: bool = False,
    explain: Explain | None = None,
) -> tuple[tuple[np.ndarray, ...], dict[int, np.ndarray]]:
    """The outputs, and for each input that the graph updates its new content.

    ``bindings`` gives symbols that the shapes of the inputs do not determine. ``watch`` is
    called after each node with its operands and results; with ``in_bodies`` also after those in
    the bodies of loops and branches, before the node that runs them. ``explain`` makes the error
    to raise of one that an operation raised.
    Raises ValueError for inputs of the wrong number or shape, TypeError for a wrong dtype.
    """
    if len(inputs) != len(graph.inputs):
        raise ValueError(f"the graph has {len(graph.inputs)} inputs, {len(inputs)} were given")
    for position, (value, array) in enumerate(zip(graph.inputs, inputs, strict=True)):
        if array.dtype != value.type.dtype.numpy:
            raise TypeError(f"input {position} is {value.type}, not {array.dtype}")
    symbols = bind_symbols([v.type for v in graph.inputs], [a.shape for a in inputs], bindings)
    token = _body_watch.set(watch if in_bodies else None)
    try:
        memory = _run_nodes(graph, inputs, symbols, watch, explain)
    finally:
        _body_watch.reset(token)
    outputs = tuple(_unshared(memory[v], inputs) for v in graph.outputs)
    return outputs, {i: _unshared(memory[v], inputs) for i, v in sorted(graph.updates.items())}


def evaluate_body(body: Graph, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a graph without symbols, for inputs of its types.

    They may share memory with the inputs and with each other.
    """
    memory = _run_nodes(body, inputs, {}, _body_watch.get())
    return [memory[v] for v in body.outputs]


def _run_nodes(
    graph: Graph,
    inputs: Sequence[np.ndarray],
    symbols: Mapping[str, int],
    watch: Watch | None = None,
    explain: Explain | None = None,
) -> dict[Value, np.ndarray]:
    """The arrays of the graph's results; what is not needed any more is let go."""
    memory: dict[Value, np.ndarray] = dict(zip(graph.inputs, inputs, strict=True))
    last_use = _last_uses(graph)
    for position, node in enumerate(graph.nodes):
        types = tuple(
            v.type if v.type.is_static else v.type.with_shape(evaluate_shape(v.type.shape, symbols))
            for v in node.outputs
        )
        attributes = concrete_attributes(node.attributes, symbols) if symbols else node.attributes
        operands = [memory[v] for v in node.inputs]
        try:
            results = run_op(node.op, attributes, operands, types)
        except (TypeError, ValueError, IndexError, ZeroDivisionError) as error:
            if explain is None:
                raise
            raise explain(node, error) from error
        if watch is not None:
            watch(node, operands, results)
        memory.update(zip(node.outputs, results, strict=True))
        for value in (*node.inputs, *node.outputs):
            if last_use.get(value, -1) <= position and value in memory:
                del memory[value]
    return memory


def _last_uses(graph: Graph) -> dict[Value, int]:
    """The position of the last node that reads a value; results are read at the end."""
    last: dict[Value, int] = {}
    for position, node in enumerate(graph.nodes):
        for value in node.inputs:
            last[value] = position
    for value in graph.results:
        last[value] = len(graph.nodes)
    return last


def _unshared(result: np.ndarray, inputs: Sequence[np.ndarray]) -> np.ndarray:
    if any(np.may_share_memory(result, x) for x in inputs):
        return result.copy()
    return result
