"""``scan``: a graph of its own, run once for each step of a sequence.

The body takes the carried values, one element of each sequence and the constants, in this order,
and gives the new carried values and then what is stacked. The operands are the first carried
values, the sequences (stacked along their first dimension) and the constants; the results are the
last carried values and the stacked ones. As in JAX (``jax.lax.scan``) the body is compiled
once, whatever the length.

Attributes: ``body``; ``carries`` and ``sequences``: how many there are; ``length``: the number of
steps; ``reverse``: from the last element to the first; ``residuals``: how many of the last
stacked results are there for the derivative alone. With ``counted=True`` one more operand, an
int64 without dimensions, says how many elements from the first on there are steps for (at most
``length``); what is stacked is zero for the others. ``checkpoint=True``: in a loop's body the
derivative runs the scan again instead of having what it needs stacked by all steps of that loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flamec.ir.batching import (
    BatchBuilder,
    Operand,
    batched_body,
    batched_inputs,
    near,
    settled_flags,
    to_front,
    whole,
)
from flamec.ir.bodies import check_same, emitted, reordered
from flamec.ir.builder import Builder
from flamec.ir.evaluate import evaluate_body
from flamec.ir.graph import Graph
from flamec.ir.op import Attributes, Op, OpKind, Types, register
from flamec.ir.passes.differentiate_loops import scan_derivative
from flamec.ir.shape import Dim, equal, format_shape
from flamec.ir.types import int64


def _infer_scan(types: Types, attributes: Attributes) -> Types:
    body: Graph = attributes["body"]
    carries, sequences = attributes["carries"], attributes["sequences"]
    length = attributes["length"]
    if attributes.get("counted"):
        if not types or types[-1].dtype is not int64 or types[-1].shape:
            raise TypeError("scan: the last operand must be the number of steps, an int64")
        types = types[:-1]
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
        check_same("scan", f"operand {position}", have, "the body takes", wanted)
    for position in range(carries):
        new, old = body.outputs[position].type, body.inputs[position].type
        check_same("scan", f"carried value {position}", old, "the body gives", new)
    last = tuple(v.type for v in body.outputs[:carries])
    rest = (v.type for v in body.outputs[carries:])
    return (*last, *(t.with_shape((length, *t.shape)) for t in rest))


def _evaluate_scan(attributes: Attributes, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    body, carries = attributes["body"], attributes["carries"]
    length, split = attributes["length"], carries + attributes["sequences"]
    count = length
    if attributes.get("counted"):
        count = min(max(int(arrays[-1]), 0), length)
        arrays = arrays[:-1]
    state, sequences, constants = list(arrays[:carries]), arrays[carries:split], arrays[split:]
    stacks = [np.zeros((length, *v.type.shape), v.type.dtype.numpy) for v in body.outputs[carries:]]
    steps = range(count)
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
    count: Sequence[Operand] = ()
    if attributes.get("counted"):
        operands, count = operands[:-1], operands[-1:]
        if count[0].batched:
            return _batched_counts(b, size, op, operands, count[0].value, attributes)
    flags = settled_flags(attributes["body"], size, [x.batched for x in operands], carries)
    body, _ = batched_body(attributes["body"], size, flags, carries)
    values = _values(b, size, operands, flags, carries, split)
    values += [x.value for x in count]
    results = b.apply_all(op, values, {**attributes, "body": body})
    state = (
        r if flag else whole(b, size, Operand(r, False))
        for r, flag in zip(results[:carries], flags, strict=False)
    )
    return (*state, *(to_front(b, r, 1) for r in results[carries:]))


def _values(
    b: Builder,
    size: Dim,
    operands: Sequence[Operand],
    flags: Sequence[bool],
    carries: int,
    split: int,
) -> list[Any]:
    """The operands for a whole batch, which is the second dimension of sequences."""
    values = []
    for position, (x, flag) in enumerate(zip(operands, flags, strict=True)):
        value = whole(b, size, x) if flag else x.value
        values.append(to_front(b, value, 1) if flag and carries <= position < split else value)
    return values


def _batched_counts(
    b: Builder, size: Dim, op: Op, operands: Sequence[Operand], counts: Any, attributes: Attributes
) -> Any:
    """As many steps as the element with the most has; the others keep what they have."""
    body: Graph = attributes["body"]
    carries, split = attributes["carries"], attributes["carries"] + attributes["sequences"]
    flags = [x.batched or i < carries for i, x in enumerate(operands)]
    inner, known = batched_inputs(body, size, flags)
    type = b.type_of(counts)
    number = Operand(inner.input(type.with_shape(()), "step"), False)
    limit = Operand(inner.input(type, "steps"), True)
    batch = BatchBuilder(inner, size)
    results = emitted(batch, body, known)
    runs = batch.lt(number, limit)
    outputs = []
    for position, new in enumerate(results):
        new_type = batch.type_of(new)
        zero = Operand(inner.constant(0, new_type), False)
        old = known[position] if position < carries else zero
        outputs.append(whole(inner, size, batch.where(near(batch, runs, new), new, old)))
    made = inner.build(outputs, name=body.name)
    order = [*made.inputs[:split], number.value, *made.inputs[split:-2], limit.value]
    most = b.amax(b.pad(counts, b.constant(0, type), low=(0,), high=(1,)), axes=(0,))
    numbers = b.iota(shape=(attributes["length"],), axis=0, dtype=type.dtype, device=type.device)
    values = _values(b, size, operands, flags, carries, split)
    values = [*values[:split], numbers, *values[split:], counts, most]
    changed = {
        **attributes,
        "body": reordered(made, order, made.outputs),
        "sequences": attributes["sequences"] + 1,
    }
    results = b.apply_all(op, values, changed)
    return (*results[:carries], *(to_front(b, r, 1) for r in results[carries:]))


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
