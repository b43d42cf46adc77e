"""``Function.vmap``: the batching rule that the user of a custom function writes.

In: one application in a function that is being batched, traced on examples. Out: its results
behind a node whose batching rule calls ``vmap`` on the batched tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from flamec.dispatch import apply, tensor_builder
from flamec.errors import user_location
from flamec.ir.batching import Operand, whole
from flamec.ir.builder import Builder
from flamec.ir.custom import custom_op
from flamec.ir.op import Attributes, DerivativeContext, Op
from flamec.ir.shape import Dim
from flamec.tensor import Tensor

__all__ = ["VmapInfo", "with_batching_rule"]


class VmapInfo(NamedTuple):
    """What ``Function.vmap`` is told of the batch."""

    batch_size: Dim
    randomness: str


def with_batching_rule(
    function: Any, args: Sequence[Any], outputs: Sequence[Any], randomness: str
) -> list[Any]:
    """``outputs`` of ``function.forward(*args)`` that ``function.vmap`` computes for a batch."""
    places = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
    results = [i for i, o in enumerate(outputs) if isinstance(o, Tensor)]
    template = [None if isinstance(a, Tensor) else a for a in args]
    count = len(results)

    def derivative(b: Builder, ctx: DerivativeContext, *gradients: Any) -> list[Any]:
        return [*gradients, *[None] * len(places)]

    def batch(
        b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes
    ) -> tuple[Any, ...]:
        given = list(template)
        in_dims: list[int | None] = [None] * len(template)
        for place, operand in zip(places, operands[count:], strict=True):
            given[place] = operand.value
            in_dims[place] = 0 if operand.batched else None
        found, dims = function.vmap(VmapInfo(size, randomness), tuple(in_dims), *given)
        values = list(found) if isinstance(found, tuple) else [found]
        out_dims = list(dims) if isinstance(dims, (tuple, list)) else [dims] * len(values)
        if len(values) != len(outputs) or len(out_dims) != len(values):
            raise RuntimeError(
                f"{function.__name__}.vmap gave {len(values)} results and {len(out_dims)} "
                f"dimensions for {len(outputs)} results of forward (at {user_location()})"
            )
        return tuple(
            whole(tensor_builder, size, Operand(values[i], False))
            if out_dims[i] is None
            else values[i].movedim(out_dims[i], 0)
            for i in results
        )

    op = replace(custom_op(function.__name__, count, derivative), batch=batch)
    tensors = [*(outputs[i] for i in results), *(args[i] for i in places)]
    marked = apply(op, tensors, {"sizes": ()})
    fresh = list(outputs)
    parts = marked if isinstance(marked, tuple) else (marked,)
    for place, tensor in zip(results, parts, strict=True):
        fresh[place] = tensor
    return fresh
