"""``cond``: one of two graphs is run, chosen by a value of the program.

The first operand is the predicate, a bool without dimensions; both branches take all the others
and give results of the same types, which are those of the operation.

Attributes: ``true_body`` and ``false_body``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flamec.ir.batching import BatchBuilder, Operand, batched_body, near, whole
from flamec.ir.bodies import check_same, emitted
from flamec.ir.builder import Builder
from flamec.ir.evaluate import evaluate_body
from flamec.ir.graph import Graph
from flamec.ir.op import Attributes, Op, OpKind, Types, register
from flamec.ir.passes.differentiate_branches import cond_derivative
from flamec.ir.shape import Dim
from flamec.ir.types import bool_


def _infer_cond(types: Types, attributes: Attributes) -> Types:
    bodies: tuple[Graph, Graph] = attributes["true_body"], attributes["false_body"]
    if not types or types[0].dtype is not bool_:
        raise TypeError(f"cond: the predicate must be a bool, not {types[0] if types else None}")
    if types[0].shape:
        raise ValueError(f"cond: the predicate must have no dimensions, it is {types[0]}")
    for name, body in zip(("true", "false"), bodies, strict=True):
        if len(types) != 1 + len(body.inputs):
            raise TypeError(
                f"cond: the {name} branch takes {len(body.inputs)} values, "
                f"{len(types) - 1} operands were given"
            )
        for position, (have, value) in enumerate(zip(types[1:], body.inputs, strict=True)):
            check_same("cond", f"operand {position}", have, f"the {name} branch takes", value.type)
    first, second = (body.outputs for body in bodies)
    if len(first) != len(second):
        raise TypeError(
            f"cond: the true branch gives {len(first)} values, the false branch {len(second)}"
        )
    for position, (a, b) in enumerate(zip(first, second, strict=True)):
        check_same("cond", f"result {position}", a.type, "the false branch gives", b.type)
    return tuple(v.type for v in first)


def _evaluate_cond(attributes: Attributes, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    body = attributes["true_body" if arrays[0] else "false_body"]
    return tuple(np.array(x) for x in evaluate_body(body, arrays[1:]))  # may be an operand


def _batched_cond(
    b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes
) -> Any:
    """Branches over the whole batch; where elements choose for themselves, both and a choice."""
    predicate, rest = operands[0], operands[1:]
    names = ("true_body", "false_body")
    if not predicate.batched:
        flags = [x.batched for x in rest]
        changed = {n: batched_body(attributes[n], size, flags, 0)[0] for n in names}
        return b.apply_all(op, [x.value for x in operands], changed)
    batch = BatchBuilder(b, size)
    chosen, other = (emitted(batch, attributes[n], rest) for n in names)
    picked = (
        batch.where(near(batch, predicate, x), x, y) for x, y in zip(chosen, other, strict=True)
    )
    return tuple(whole(b, size, x) for x in picked)


cond = register(
    Op(
        name="cond",
        kind=OpKind.BRANCH,
        infer=_infer_cond,
        evaluate=_evaluate_cond,
        derivative=cond_derivative,
        saves_inputs="all",
        expensive=True,
        batch=_batched_cond,
        doc="One of two bodies, by a predicate.",
    )
)
