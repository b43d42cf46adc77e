"""The primitive ``scan`` with what its derivative needs.

In: operands and attributes without residuals. Out: its results. Where a memory budget below 1 is in
force the steps of a loop of known length are divided into segments (``ir/passes/segment_loops``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.dispatch import apply_named
from flamec.functional.primitives import ops
from flamec.inner_trace import InnerTrace
from flamec.ir.estimates import value_bytes
from flamec.ir.graph import Value
from flamec.ir.passes.differentiate_loops import with_residuals
from flamec.ir.passes.segment_loops import Division, StepBytes, divide, in_segments
from flamec.state import thread
from flamec.tensor import Tensor

WORTHWHILE = 1 << 16  # bytes that all steps save


def apply_scan(operands: Sequence[Tensor], attributes: dict[str, Any]) -> tuple[Tensor, ...]:
    """The last carried values, then what is stacked."""
    needs = [t.requires_grad for t in operands] if thread.grad_enabled else []
    if not any(needs):
        return _results(operands, attributes)
    recorded = with_residuals(attributes, needs)
    division = _division(attributes, recorded)
    if division is None:
        return _results(operands, recorded)
    return _divided(operands, attributes, needs, division)


def _results(operands: Sequence[Tensor], attributes: dict[str, Any]) -> tuple[Tensor, ...]:
    made = apply_named("scan", *operands, **attributes)
    made = made if isinstance(made, tuple) else (made,)
    return tuple(made[: len(made) - attributes["residuals"]])


def _division(attributes: dict[str, Any], recorded: dict[str, Any]) -> Division | None:
    """How to divide the steps; None outside of a function with a budget, and inside of a loop."""
    length = attributes["length"]
    alone = thread.trace is not None and not isinstance(thread.trace, InnerTrace)
    if thread.memory_budget == 1 or not alone or not isinstance(length, int):
        return None
    body = recorded["body"]
    carries, split = attributes["carries"], attributes["carries"] + attributes["sequences"]
    results = len(body.outputs) - recorded["residuals"]
    step = StepBytes(
        _bytes(body.outputs[results:]),
        _bytes(body.inputs[:carries]),
        _bytes((*body.inputs[carries:split], *body.outputs[carries:results])),
    )
    if length * step.saved < WORTHWHILE:
        return None
    return divide(length, step, thread.memory_budget)


def _bytes(values: Sequence[Value]) -> int:
    return sum(map(value_bytes, values))


def _divided(
    operands: Sequence[Tensor],
    attributes: dict[str, Any],
    needs: Sequence[bool],
    division: Division,
) -> tuple[Tensor, ...]:
    """The segments, then the rest, whose steps are run last and so differentiated first."""
    count, length, rest = division
    steps = count * length
    carries, split = attributes["carries"], attributes["carries"] + attributes["sequences"]
    state, sequences, constants = operands[:carries], operands[carries:split], operands[split:]
    first, second = (slice(rest, None), slice(rest)) if attributes["reverse"] else (
        slice(steps), slice(steps, None),
    )  # fmt: skip
    parts = [ops.reshape(x[first], shape=(count, length, *x._type.shape[1:])) for x in sequences]
    made = _results([*state, *parts, *constants], in_segments(attributes, length, count, needs))
    state = made[:carries]
    stacks = [ops.reshape(y, shape=(steps, *y._type.shape[2:])) for y in made[carries:]]
    if not rest:
        return (*state, *stacks)
    after = [*state, *(x[second] for x in sequences), *constants]
    last = with_residuals({**attributes, "length": rest}, [t.requires_grad for t in after])
    made = _results(after, last)
    pairs = zip(stacks, made[carries:], strict=True)
    order = -1 if attributes["reverse"] else 1
    joined = [ops.concatenate(*pair[::order], axis=0) for pair in pairs]
    return (*made[:carries], *joined)
