"""``scan``: a graph of its own, run once for each step of a sequence.

The body takes the carried values, one element of each sequence and the constants, in this order,
and gives the new carried values and then what is stacked. The operands are the first carried
values, the sequences (stacked along their first dimension) and the constants; the results are the
last carried values and the stacked ones. As in JAX (``jax.lax.scan``) the body is compiled
once, whatever the length.

Attributes: ``body``; ``carries`` and ``sequences``: how many there are; ``length``: the number of
steps; ``reverse``: from the last element to the first; ``residuals``: how many of the last
stacked results are there for the derivative alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flamec.ir.batching import BatchBuilder, Operand, to_front, whole
from flamec.ir.builder import Builder, GraphBuilder
from flamec.ir.evaluate import evaluate_body
from flamec.ir.graph import Graph
from flamec.ir.op import Attributes, Op, OpKind, Types, register
from flamec.ir.passes.differentiate_loops import scan_derivative
from flamec.ir.shape import Dim, equal, format_shape
from flamec.ir.types import TensorType


def _infer_scan(types: Types, attributes: Attributes) -> Types:
    body: Graph = attributes["body"]
    carries, sequences = attributes["carries"], attributes["sequences"]
    length = attributes["length"]
    if len(types) != len(body.inputs) or len(types) < carries + sequences:
        raise TypeError(
            f"scan: the body takes {len(body.inputs)} values, {len(types)} operands were given"
        )
    if len(body.outputs) < carries + attributes["residuals"]:
        raise TypeError(
            f"scan: {carries} values are carried and {attributes['residuals']} are residuals, but "
            f"the body gives {len(body.outputs)}"
        )
    for position, (type, value) in enumerate(zip(types, body.inputs, strict=True)):
        wanted, have = value.type, type
        if carries <= position < carries + sequences:
            if not type.shape:
                raise ValueError(f"scan: operand {position} has no dimension to go along: {type}")
            if not equal(type.shape[0], length):
                raise ValueError(
                    f"scan: operand {position} of shape {format_shape(type.shape)} has "
                    f"{type.shape[0]} elements, there are {length} steps"
                )
            have = type.with_shape(type.shape[1:])
        _check_same(f"operand {position}", have, "the body takes", wanted)
    for position in range(carries):
        new, old = body.outputs[position].type, body.inputs[position].type
        _check_same(f"carried value {position}", old, "the body gives", new)
    last = tuple(v.type for v in body.outputs[:carries])
    rest = (v.type for v in body.outputs[carries:])
    return (*last, *(t.with_shape((length, *t.shape)) for t in rest))


def _check_same(what: str, have: TensorType, relation: str, other: TensorType) -> None:
    if have.dtype is not other.dtype or have.device != other.device:
        raise TypeError(f"scan: {what} is {have}, {relation} {other}")
    same_rank = len(have.shape) == len(other.shape)
    if not same_rank or not all(map(equal, have.shape, other.shape)):
        raise ValueError(f"scan: {what} is {have}, {relation} {other}")


def _evaluate_scan(attributes: Attributes, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    body, carries = attributes["body"], attributes["carries"]
    length, split = attributes["length"], carries + attributes["sequences"]
    state, sequences, constants = list(arrays[:carries]), arrays[carries:split], arrays[split:]
    stacks = [np.empty((length, *v.type.shape), v.type.dtype.numpy) for v in body.outputs[carries:]]
    steps = range(length)
    for i in reversed(steps) if attributes["reverse"] else steps:
        results = evaluate_body(body, [*state, *(x[i, ...] for x in sequences), *constants])
        state = results[:carries]
        for stack, result in zip(stacks, results[carries:], strict=True):
            stack[i] = result
    return (*(np.array(x) for x in state), *stacks)  # two may be one array, or an operand


def _batched_scan(
    b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes
) -> Any:
    """The body over the whole batch. A carried value is batched once its new value is."""
    carries, split = attributes["carries"], attributes["carries"] + attributes["sequences"]
    flags = [x.batched for x in operands]
    while True:
        body, found = _batched_body(attributes["body"], size, flags, carries)
        changed = [a or b for a, b in zip(flags[:carries], found, strict=True)]
        if changed == flags[:carries]:
            break
        flags[:carries] = changed
    values = []
    for position, (x, flag) in enumerate(zip(operands, flags, strict=True)):
        value = whole(b, size, x) if flag else x.value
        if flag and carries <= position < split:
            value = _exchanged(b, value)
        values.append(value)
    results = b.apply(op, values, {**attributes, "body": body})
    results = results if isinstance(results, tuple) else (results,)
    state = (
        r if flag else whole(b, size, Operand(r, False))
        for r, flag in zip(results[:carries], flags, strict=False)
    )
    return (*state, *(to_front(b, r, 1) for r in results[carries:]))


def _exchanged(b: Builder, value: Any) -> Any:
    """The first two dimensions exchanged."""
    return to_front(b, value, 1)


def _batched_body(
    body: Graph, size: Dim, flags: Sequence[bool], carries: int
) -> tuple[Graph, list[bool]]:
    """The body for a batch, and which of the new carried values depend on it.

    Everything that it stacks has the batch.
    """
    inner = GraphBuilder()
    batch = BatchBuilder(inner, size)
    known = {}
    for value, flag in zip(body.inputs, flags, strict=True):
        shape = (size, *value.type.shape) if flag else value.type.shape
        known[value] = Operand(inner.input(value.type.with_shape(shape), value.name), flag)
    for node in body.nodes:
        inner.location, inner.scope = node.location, node.scope
        made = batch.apply(node.op, [known[v] for v in node.inputs], node.attributes)
        results = made if isinstance(made, tuple) else (made,)
        known.update(zip(node.outputs, results, strict=True))
    found = [known[v].batched for v in body.outputs[:carries]]
    outputs = [
        known[v].value if i < carries and not flags[i] else whole(inner, size, known[v])
        for i, v in enumerate(body.outputs)
    ]
    return inner.build(outputs, name=body.name), found


def _residuals(attributes: Attributes) -> slice:
    count = attributes["residuals"]
    return slice(-count, None) if count else slice(0, 0)


scan = register(
    Op(
        name="scan",
        kind=OpKind.LOOP,
        infer=_infer_scan,
        evaluate=_evaluate_scan,
        derivative=scan_derivative,
        saves_inputs="all",
        saves_outputs=_residuals,
        expensive=True,
        dimensions=("length",),
        batch=_batched_scan,
        doc="A body run for each element of sequences, with values carried from step to step.",
    )
)
