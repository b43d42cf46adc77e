"""``while_loop``: graphs of its own, run as long as a value of the program says so.

The condition takes the carried values and the constants and gives a bool without dimensions; the
body takes the same and gives the new carried values, and then what is stacked for a derivative. The
operands are the first carried values and the constants; the results are the last carried values,
the number of steps (int64), and the stacks.

Attributes: ``condition`` and ``body``; ``carries``: how many values are carried; ``limit``: the
most steps that are made, whatever the condition says, None for any number; ``residuals``: how many
stacks there are, each ``limit`` long, with zeros where there was no step.

``while_transpose`` is what its derivative is where there is no limit: see
``passes/differentiate_while.py``. Its operands are those of the loop and a seed for each carried
value in ``state``; its results the gradients of the operands in ``state`` and ``constants``.
``pullback`` takes a step's operands and seeds, and gives the same gradients of one step.
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
from flamec.ir.bodies import check_same, emitted
from flamec.ir.builder import Builder, GraphBuilder
from flamec.ir.evaluate import evaluate_body
from flamec.ir.graph import Graph
from flamec.ir.op import Attributes, Op, OpKind, Types, register
from flamec.ir.passes.differentiate_loops import pullback_of
from flamec.ir.passes.differentiate_while import (
    as_scan,
    transpose_derivative,
    transposed,
    while_derivative,
)
from flamec.ir.shape import Dim
from flamec.ir.types import TensorType, bool_, int64


def _check_loop(name: str, types: Types, attributes: Attributes) -> None:
    """The condition and the body take the operands, and the body gives carried values."""
    carries = attributes["carries"]
    graphs: dict[str, Graph] = {part: attributes[part] for part in ("condition", "body")}
    for part, graph in graphs.items():
        if len(types) != len(graph.inputs) or not 0 < carries <= len(types):
            raise TypeError(
                f"{name}: the {part} takes {len(graph.inputs)} values and carries {carries}, "
                f"{len(types)} operands were given"
            )
        for position, (have, value) in enumerate(zip(types, graph.inputs, strict=True)):
            check_same(name, f"operand {position}", have, f"the {part} takes", value.type)
    found = [v.type for v in graphs["condition"].outputs]
    if len(found) != 1 or found[0].dtype is not bool_ or found[0].shape:
        shown = ", ".join(map(str, found))
        raise TypeError(f"{name}: the condition must give a bool without dimensions, not {shown}")
    outputs = graphs["body"].outputs
    if len(outputs) < carries:
        raise TypeError(f"{name}: {carries} values are carried, but the body gives {len(outputs)}")
    for position, value in enumerate(outputs[:carries]):
        have = types[position]
        check_same(name, f"carried value {position}", have, "the body gives", value.type)


def _infer_while(types: Types, attributes: Attributes) -> Types:
    _check_loop("while_loop", types, attributes)
    carries, limit = attributes["carries"], attributes["limit"]
    stacked = attributes["body"].outputs[carries:]
    if len(stacked) != attributes["residuals"] or (stacked and limit is None):
        raise TypeError(
            f"while_loop: the body gives {len(stacked)} values more than are carried, for "
            f"{attributes['residuals']} stacks of {limit} steps"
        )
    count = TensorType((), int64, types[0].device)
    stacks = (v.type.with_shape((limit, *v.type.shape)) for v in stacked)
    return (*types[:carries], count, *stacks)


def _evaluate_while(attributes: Attributes, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    body, carries, limit = (attributes[k] for k in ("body", "carries", "limit"))
    state, constants = list(arrays[:carries]), arrays[carries:]
    stacks = [np.zeros((limit, *v.type.shape), v.type.dtype.numpy) for v in body.outputs[carries:]]
    count = 0
    while count != limit and evaluate_body(attributes["condition"], [*state, *constants])[0]:
        results = evaluate_body(body, [*state, *constants])
        state = results[:carries]
        for stack, result in zip(stacks, results[carries:], strict=True):
            stack[count] = result
        count += 1
    # two results may be one array, or an operand
    return (*(np.array(x) for x in state), np.array(count, np.int64), *stacks)


# batches -----------------------------------------------------------------------------------


def _batched_condition(condition: Graph, size: Dim, flags: Sequence[bool]) -> tuple[Graph, bool]:
    """The condition for a batch, true as long as it is for one element; whether it differs."""
    inner, operands = batched_inputs(condition, size, flags)
    (goes_on,) = emitted(BatchBuilder(inner, size), condition, operands)
    value = goes_on.value
    if goes_on.batched:
        total = inner.sum(inner.convert(value, dtype=int64), axes=(0,))
        value = inner.gt(total, inner.constant(0, total.type))
    return inner.build([value], name=condition.name), goes_on.batched


def _masked_body(attributes: Attributes, size: Dim, flags: Sequence[bool]) -> Graph:
    """The body for a batch in which every element stops for itself; it gives the steps, too."""
    body, carries = attributes["body"], attributes["carries"]
    inner, operands = batched_inputs(body, size, flags)
    batch = BatchBuilder(inner, size)
    (runs,) = emitted(batch, attributes["condition"], operands)
    outputs = []
    for position, new in enumerate(emitted(batch, body, operands)):
        zero = Operand(inner.constant(0, batch.type_of(new)), False)
        old = operands[position] if position < carries else zero
        mask = near(batch, runs, new)
        outputs.append(whole(inner, size, batch.where(mask, new, old)))
    outputs.append(inner.convert(runs.value, dtype=int64))
    return inner.build(outputs, name=body.name)


def _counting(body: Graph, condition: Graph, carries: int) -> tuple[Graph, Graph]:
    """Both graphs with one more carried value, to which the body's last result is added."""
    made = []
    for graph in (body, condition):
        inner = GraphBuilder()
        values = [inner.input(v.type, v.name) for v in graph.inputs[:carries]]
        count = inner.input(body.outputs[-1].type, "steps")
        values += [inner.input(v.type, v.name) for v in graph.inputs[carries:]]
        results = emitted(inner, graph, values)
        if graph is body:
            more = inner.add(count, results[-1])
            results = [*results[:carries], more, *results[carries:-1]]
        made.append(inner.build(results, name=graph.name))
    return made[0], made[1]


def _batched_flags(
    attributes: Attributes, size: Dim, flags: Sequence[bool]
) -> tuple[list[bool], bool]:
    """Which operands have the batch from some step on; whether elements stop for themselves."""
    carries = attributes["carries"]
    settled = settled_flags(attributes["body"], size, flags, carries)
    alone = _batched_condition(attributes["condition"], size, settled)[1]
    if alone:
        settled[:carries] = [True] * carries
    return settled, alone


def _batched_while(
    b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes
) -> Any:
    """Until all elements are done; those that are keep their values."""
    carries = attributes["carries"]
    flags, alone = _batched_flags(attributes, size, [x.batched for x in operands])
    condition, _ = _batched_condition(attributes["condition"], size, flags)
    values = [
        whole(b, size, x) if flag else x.value for x, flag in zip(operands, flags, strict=True)
    ]
    if not alone:
        body, _ = batched_body(attributes["body"], size, flags, carries)
        results = b.apply(op, values, {**attributes, "body": body, "condition": condition})
        count = whole(b, size, Operand(results[carries], False))
    else:
        masked = _masked_body(attributes, size, flags)
        body, condition = _counting(masked, condition, carries)
        start = b.full_like(0, masked.outputs[-1].type)
        changed = {**attributes, "body": body, "condition": condition, "carries": carries + 1}
        values = [*values[:carries], start, *values[carries:]]
        made = b.apply(op, values, changed)
        count, results = near(b, made[carries], made[0]), (*made[:carries], *made[carries + 1 :])
    state = (
        r if flag else whole(b, size, Operand(r, False))
        for r, flag in zip(results[:carries], flags, strict=False)
    )
    return (*state, count, *(to_front(b, r, 1) for r in results[carries + 1 :]))


while_loop = register(
    Op(
        name="while_loop",
        kind=OpKind.WHILE,
        infer=_infer_while,
        evaluate=_evaluate_while,
        derivative=while_derivative,
        saves_inputs="all",
        saves_outputs=lambda attributes: slice(attributes["carries"], None),
        expensive=True,
        dimensions=("limit",),
        batch=_batched_while,
        doc="A body run as long as a condition holds, with values carried from step to step.",
    )
)


# the transposed loop -------------------------------------------------------------------------


def _infer_transpose(types: Types, attributes: Attributes) -> Types:
    pullback: Graph = attributes["pullback"]
    split = len(types) - len(attributes["state"])
    _check_loop("while_transpose", types[:split], attributes)
    if len(pullback.inputs) != len(types):
        raise TypeError(
            f"while_transpose: the pullback takes {len(pullback.inputs)} values, {len(types)} "
            "operands were given"
        )
    for position, seed in zip(attributes["state"], types[split:], strict=True):
        check_same("while_transpose", f"seed {position}", seed, "of a value", types[position])
    found = tuple(types[i] for i in (*attributes["state"], *attributes["constants"]))
    for have, value in zip(found, pullback.outputs, strict=True):
        check_same("while_transpose", "a gradient", value.type, "of a value", have)
    return found


def _evaluate_transpose(attributes: Attributes, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    body, carries, pullback = (attributes[k] for k in ("body", "carries", "pullback"))
    split = len(body.inputs)
    state, constants, seeds = list(arrays[:carries]), arrays[carries:split], list(arrays[split:])
    steps = []
    while evaluate_body(attributes["condition"], [*state, *constants])[0]:
        steps.append(state)
        state = evaluate_body(body, [*state, *constants])[:carries]
    sums = [np.zeros(arrays[i].shape, arrays[i].dtype) for i in attributes["constants"]]
    for state in reversed(steps):
        found = evaluate_body(pullback, [*state, *constants, *seeds])
        seeds = found[: len(seeds)]
        for total, more in zip(sums, found[len(seeds) :], strict=True):
            total += more
    return (*(np.array(x) for x in seeds), *sums)


def _batched_transpose(
    b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes
) -> Any:
    """The transpose of the loop over the whole batch, with gradients for each element."""
    carries, split = attributes["carries"], len(attributes["body"].inputs)
    wanted = {*attributes["state"], *attributes["constants"]}
    flags = [x.batched or i in wanted for i, x in enumerate(operands[:split])]
    flags, alone = _batched_flags(attributes, size, flags)
    condition, _ = _batched_condition(attributes["condition"], size, flags)
    if alone:
        masked = _masked_body(attributes, size, flags)
        body = Graph(masked.inputs, masked.nodes, masked.outputs[:carries], {}, masked.name)
    else:
        body, _ = batched_body(attributes["body"], size, flags, carries)
    form = {"condition": condition, "body": body, "carries": carries, "limit": 0, "residuals": 0}
    needs = [i in wanted for i in range(split)]
    given = [i in attributes["state"] for i in range(carries)]
    pullback = pullback_of(as_scan(form), needs, given)
    assert pullback is not None
    values = [
        whole(b, size, x) if flag else x.value
        for x, flag in zip(operands[:split], flags, strict=True)
    ]
    seeds = [whole(b, size, x) for x in operands[split:]]
    changed = transposed(form, pullback)
    results = b.apply_all(op, [*values, *seeds], changed)
    found = dict(zip((*changed["state"], *changed["constants"]), results, strict=True))
    types = {i: b.type_of(values[i]) for i in wanted}
    return tuple(
        found[i] if i in found else b.full_like(0.0, types[i])
        for i in (*attributes["state"], *attributes["constants"])
    )


while_transpose = register(
    Op(
        name="while_transpose",
        kind=OpKind.UNBOUNDED,
        infer=_infer_transpose,
        evaluate=_evaluate_transpose,
        derivative=transpose_derivative,
        saves_inputs="all",
        expensive=True,
        batch=_batched_transpose,
        doc="The gradients of a while_loop without a limit, in memory that grows with its steps.",
    )
)
