"""``vmap``: a function of one example becomes a function of a batch.

The function is traced once on examples without the batch dimension. The graph is then emitted
again through a ``BatchBuilder``, which applies each operation's batching rule: eager that runs
the operations, in a compiled function it adds them to the program. So gradients flow through,
vmap and derivatives nest in any order, and compiled functions inside are part of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from flamec.dispatch import apply_named, tensor_builder, write
from flamec.errors import user_location
from flamec.inner_trace import InnerTrace
from flamec.ir.batching import BatchBuilder, Operand, to_front, whole
from flamec.ir.bodies import all_nodes
from flamec.ir.graph import Node, Value
from flamec.ir.op import OpKind
from flamec.ir.passes.differentiate import reachable_nodes
from flamec.ir.shape import Dim, equal
from flamec.state import no_grad, set_grad_enabled, thread
from flamec.structures import Structure, flatten, unflatten
from flamec.tensor import ExampleStorage, Tensor
from flamec.trace import Trace
from flamec.values import concrete_array

__all__ = ["vmap"]

_RANDOMNESS = ("error", "different", "same")


def vmap(
    func: Callable[..., Any],
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """The function that applies ``func`` to each element of a batch, without a loop.

    ``in_dims``: for each positional argument the dimension that is the batch, None for one
    that is the same for all; an int for all arguments, or a nested structure. Keyword arguments
    are the same for all. ``out_dims``: where the batch goes in each result; None for a
    result that does not depend on the batch. ``randomness``: ``"different"`` draws numbers
    for each element, ``"same"`` the same for all, ``"error"`` raises RuntimeError.
    ``chunk_size``: how many elements at a time. ValueError if dimensions do not fit, or
    batch sizes differ.
    """
    if randomness not in _RANDOMNESS:
        raise RuntimeError(
            "Only allowed values for randomness are 'error', 'different', or 'same'. "
            f"Got {randomness}"
        )
    if chunk_size is not None and chunk_size <= 0:
        raise ValueError(f"vmap: chunk_size should be None or greater than 0. (got {chunk_size})")

    @functools.wraps(func)
    def batched(*args: Any, **kwargs: Any) -> Any:
        leaves, structure = flatten((args, kwargs))
        dims = [*_spread(in_dims, args, "in_dims"), *_spread(None, kwargs, "in_dims")]
        dims = [_checked_dim(d, leaf) for d, leaf in zip(dims, leaves, strict=True)]
        size = _batch_size(leaves, dims)
        if chunk_size is None or not isinstance(size, int) or size <= chunk_size:
            return _run(func, leaves, structure, dims, size, out_dims, randomness)
        parts = []
        for start in range(0, size, chunk_size):
            count = min(chunk_size, size - start)
            chosen = [
                leaf if dim is None else leaf.narrow(dim, start, count)
                for leaf, dim in zip(leaves, dims, strict=True)
            ]
            parts.append(_run(func, chosen, structure, dims, count, out_dims, randomness))
        return _joined(parts, out_dims)

    return batched


# dimensions ------------------------------------------------------------------------------


def _spread(dims: Any, value: Any, what: str) -> list[int | None]:
    """``dims``, a structure that ``value`` continues, as one entry for each leaf of ``value``."""
    if dims is None or isinstance(dims, int):
        return [dims] * len(flatten(value)[0])
    matches = type(dims) is type(value) or (
        isinstance(dims, (list, tuple)) and isinstance(value, (list, tuple))
    )
    if not matches or len(dims) != len(value):
        raise ValueError(
            f"vmap: {what} is not compatible with the structure of the values: {what} is {dims}, "
            f"for {type(value).__name__} of {len(flatten(value)[0])} (at {user_location()})"
        )
    if isinstance(dims, dict):
        if dims.keys() != value.keys():
            raise ValueError(f"vmap: {what} has keys {list(dims)}, the values {list(value)}")
        return [d for key in value for d in _spread(dims[key], value[key], what)]
    return [d for one, v in zip(dims, value, strict=True) for d in _spread(one, v, what)]


def _checked_dim(dim: int | None, leaf: Any) -> int | None:
    if dim is None:
        return None
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise ValueError(f"vmap: in_dims must be made of int or None, not {type(dim).__name__}")
    if not isinstance(leaf, Tensor):
        raise ValueError(
            f"vmap: Got in_dim={dim} for an input but the input is of type {type(leaf)}. We cannot "
            "vmap over non-Tensor arguments, please use None as the respective in_dim"
        )
    if not -leaf.ndim <= dim < leaf.ndim:
        raise ValueError(
            f"vmap: Got in_dim={dim} for some input, but that input is a Tensor of dimensionality "
            f"{leaf.ndim} so expected in_dim to satisfy -{leaf.ndim} <= in_dim < {leaf.ndim}."
        )
    return dim % leaf.ndim


def _batch_size(leaves: Sequence[Any], dims: Sequence[int | None]) -> Dim:
    sizes = [t._type.shape[d] for t, d in zip(leaves, dims, strict=True) if d is not None]
    if not sizes:
        raise ValueError(
            "vmap: at least one input must be a Tensor with an in_dim that is not None "
            f"(at {user_location()})"
        )
    if not all(equal(s, sizes[0]) for s in sizes):
        raise ValueError(
            "vmap: Expected all tensors to have the same size in the mapped dimension, got sizes "
            f"{sizes} for the mapped dimension"
        )
    return sizes[0]


# one run -----------------------------------------------------------------------------------


class BatchTrace(InnerTrace):
    """The trace of a function of one element of a batch."""

    def read_value(self, tensor: Tensor, what: str, recurs: bool = False) -> Any:
        """Values can be read of what is the same for all elements, and is not drawn."""
        value = self.value_of(tensor)
        known = {
            v: Operand(source.tensor, False)
            for v, source in zip(self.builder.graph_inputs, self.sources, strict=True)
            if source.kind == "captured"
        }
        nodes = reachable_nodes([value], lambda value: False)
        made = {*known, *(v for node in nodes for v in node.outputs)}
        needed = (value, *(v for node in nodes for v in node.inputs))
        if any(v not in made for v in needed) or any(n.op.kind is OpKind.RANDOM for n in nodes):
            return super().read_value(tensor, what, recurs)
        thread.trace = self.outer
        try:
            with no_grad():
                _emit(self, [value], BatchBuilder(tensor_builder, 1), known, "error")
            return concrete_array(known[value].value, what, recurs)
        finally:
            thread.trace = self


def _run(
    func: Callable[..., Any],
    leaves: list[Any],
    structure: Structure,
    dims: list[int | None],
    size: Dim,
    out_dims: Any,
    randomness: str,
) -> Any:
    trace = BatchTrace(randomness)
    thread.trace = trace
    try:
        examples = [
            leaf if dim is None else _example(trace, leaf, dim)
            for leaf, dim in zip(leaves, dims, strict=True)
        ]
        args, kwargs = unflatten(structure, iter(examples))
        result = func(*args, **kwargs)
        results, shape = flatten(result)
        for leaf in results:
            if not isinstance(leaf, Tensor):
                raise ValueError(
                    f"vmap: the function must only return Tensors, got type {type(leaf)} as a "
                    f"return (at {user_location()})"
                )
        values = [trace.value_of(t) for t in results]
        written = [
            (trace.roots[e._storage].value, leaf, dim)
            for e, leaf, dim in zip(examples, leaves, dims, strict=True)
            if dim is not None and trace.roots[e._storage].written
        ]
        if trace.gradients.written:
            raise RuntimeError(
                "vmap: backward() and assignments to .grad are not possible in the function; use "
                f"flamec.func.grad or autograd.grad (at {user_location()})"
            )
        if trace.hooks.registered:
            raise RuntimeError(
                "vmap: hooks of tensors cannot be registered in the function "
                f"(at {user_location()})"
            )
    finally:
        thread.trace = trace.outer
    batched = [(e, t) for e, t, d in zip(examples, leaves, dims, strict=True) if d is not None]
    _require_separate(trace, batched, values)
    batch = BatchBuilder(tensor_builder, size)
    known = _inputs(trace, leaves, dims)
    stored = [root.value for root in trace.roots.values() if root.written]
    _emit(trace, [*values, *stored], batch, known, randomness)
    for value, leaf, dim in written:
        write(leaf, whole(tensor_builder, size, known[value]).movedim(0, dim), "vmap")
    _write_captured(trace, known, size, randomness)
    outs = _spread(out_dims, result, "out_dims")
    placed = [_placed(known[v], d, size) for v, d in zip(values, outs, strict=True)]
    trace.close()
    return unflatten(shape, iter(placed))


def _example(trace: InnerTrace, tensor: Tensor, dim: int) -> Tensor:
    """What stands for one element of ``tensor``."""
    shape = tensor._type.shape
    type = tensor._type.with_shape((*shape[:dim], *shape[dim + 1 :]))
    storage = ExampleStorage(type, tensor, dim, trace.outer)
    return trace.stand_in(type, trace.is_outer_tracked(tensor), storage)


def _inputs(
    trace: Trace, leaves: Sequence[Any], dims: Sequence[int | None]
) -> dict[Value, Operand]:
    """The tensors that the inputs of the traced graph stand for."""
    known: dict[Value, Operand] = {}
    batched = iter([(t, d) for t, d in zip(leaves, dims, strict=True) if d is not None])
    for value, source in zip(trace.builder.graph_inputs, trace.sources, strict=True):
        if source.kind == "argument":
            tensor, dim = next(batched)
            known[value] = Operand(to_front(tensor_builder, tensor, dim), True)
        elif source.kind == "captured":
            assert source.tensor is not None
            known[value] = Operand(source.tensor, False)
        else:
            raise RuntimeError(
                f"vmap: a {source.kind} cannot be used in the function (at {user_location()})"
            )
    return known


def _require_separate(
    trace: Trace, batched: Sequence[tuple[Tensor, Tensor]], results: Sequence[Value]
) -> None:
    """RuntimeError if the function writes memory that another tensor which it uses lies in: the
    two are different values to the trace. ``batched``: examples, and what they are of."""
    writers = {r.input_position: r.writer for r in trace.roots.values() if r.written}
    inputs: list[Tensor | None] = []
    examples = iter(batched)
    for position, source in enumerate(trace.sources):
        tensor = source.tensor
        if source.kind == "argument":
            example, tensor = next(examples)
            root = trace.roots[example._storage]
            if root.written:
                writers[position] = root.writer
        inputs.append(tensor)
    if not writers.keys() - {None}:
        return
    read = {*results, *(v for node in trace.builder.nodes for v in node.inputs)}
    used = [i for i, value in enumerate(trace.builder.graph_inputs) if value in read]
    for position, writer in writers.items():
        target = None if position is None else inputs[position]
        for other in (inputs[i] for i in used if i != position):
            if target is not None and other is not None and _share_memory(target, other):
                raise RuntimeError(
                    f"vmap: the function writes to a tensor {target._type}, and another that it "
                    f"uses, {other._type}, shares its memory; clone() one (at {writer})"
                )


def _share_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors may have an element in common; of tracers views of one tensor do."""
    from flamec.common_memory import share_memory  # only where something is written

    if one._array is None or other._array is None:
        return one._storage is other._storage
    return share_memory(one._array, other._array)


def _emit(
    trace: Trace,
    results: Sequence[Value],
    batch: BatchBuilder,
    known: dict[Value, Operand],
    randomness: str,
) -> None:
    """Emit the nodes that lead to ``results`` for the whole batch; ``known`` gets all values."""
    for node in reachable_nodes(results, lambda value: False):
        operands = [known[v] for v in node.inputs]
        recorded = any(v in trace.tracked for v in node.outputs)
        if any(n.op.kind is OpKind.RANDOM for g in node.bodies.values() for n in all_nodes(g)):
            _check_random_body(node, randomness)
        with set_grad_enabled(thread.grad_enabled and recorded):
            if node.op.kind is OpKind.RANDOM:
                found: Any = _random(node, batch, known, randomness)
            else:
                found = batch.apply(node.op, operands, node.attributes)
        found = found if isinstance(found, tuple) else (found,)
        known.update(zip(node.outputs, found, strict=True))


def _check_random_body(node: Node, randomness: str) -> None:
    """A loop draws from one stream: RuntimeError unless all elements may have the same numbers."""
    if randomness != "same":
        raise RuntimeError(
            f"vmap: {node.op.name} draws random numbers, which is possible with randomness='same' "
            f"only, not {randomness!r} (at {node.location})"
        )


def _random(
    node: Node, batch: BatchBuilder, known: dict[Value, Operand], randomness: str
) -> Operand:
    if randomness == "error":
        raise RuntimeError(
            "vmap: called random operation while in randomness error mode. Please either use the "
            "'same' or 'different' randomness flags on vmap or perform the randomness operation "
            f"out of vmap (at {node.location})"
        )
    state = known[node.inputs[0]]
    if randomness == "same":
        result = batch.apply(node.op, [state], node.attributes)
        assert isinstance(result, Operand)
        return result
    first = known[_origin(node.inputs[0])]
    shape = (batch.size, *node.attributes["shape"])
    advanced = _advanced(first.value, state.value, batch.size)
    return Operand(tensor_builder.random_bits(advanced, shape=shape), True)


def _origin(value: Value) -> Value:
    """The state of the generator when the function was entered."""
    while value.node is not None:
        value = value.node.inputs[0]
    return value


def _advanced(first: Tensor, state: Tensor, size: Dim) -> Tensor:
    """``state`` moved on from ``first`` as many times as the batch has elements."""
    b = tensor_builder
    moved: Tensor = b.add(first, b.mul(b.sub(state, first), b.constant(size, first._type)))
    return moved


def _write_captured(trace: Trace, known: dict[Value, Operand], size: Dim, randomness: str) -> None:
    """Store what the function wrote to tensors from outside."""
    generators = {_origin(n.inputs[0]) for n in trace.builder.nodes if n.op.kind is OpKind.RANDOM}
    for root in trace.roots.values():
        if not root.written or root.input_position is None:
            continue
        source = trace.sources[root.input_position]
        if source.tensor is None or source.kind == "argument":
            continue
        new = known[root.value]
        origin = trace.builder.graph_inputs[root.input_position]
        if new.batched:
            raise RuntimeError(
                "vmap: an in-place change of a tensor from outside the function is not possible "
                f"with values that differ between the elements of the batch (at {root.writer})"
            )
        stored = new.value
        if origin in generators and randomness == "different":
            stored = _advanced(source.tensor, stored, size)
        with set_grad_enabled(False):
            write(source.tensor, stored, "vmap")


def _placed(result: Operand, dim: int | None, size: Dim) -> Tensor:
    """A result with its batch dimension where the caller wants it."""
    if dim is None:
        if result.batched:
            raise ValueError(
                "vmap: the function can not return a BatchedTensor when out_dim is None "
                f"(at {user_location()})"
            )
        alone: Tensor = result.value
        return alone
    tensor: Tensor = whole(tensor_builder, size, result)
    if not -tensor.ndim <= dim < tensor.ndim:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-tensor.ndim}, "
            f"{tensor.ndim - 1}], but got {dim}): out_dims of vmap (at {user_location()})"
        )
    if dim % tensor.ndim == 0:
        return tensor
    moved: Tensor = tensor.movedim(0, dim)
    return moved


def _joined(parts: list[Any], out_dims: Any) -> Any:
    """The results of the chunks, one after the other."""
    columns = [flatten(part)[0] for part in parts]
    shape = flatten(parts[0])[1]
    dims = _spread(out_dims, parts[0], "out_dims")
    joined = [
        pieces[0] if dim is None else apply_named("concatenate", *pieces, axis=dim % pieces[0].ndim)
        for pieces, dim in zip(zip(*columns, strict=True), dims, strict=True)
    ]
    return unflatten(shape, iter(joined))
