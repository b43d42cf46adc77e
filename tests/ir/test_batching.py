"""Every operation's batching rule against a Python loop over the batch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from op_table import ROWS

from flamec.dispatch import tensor_builder
from flamec.ir.batching import BatchBuilder, Operand, rule_of, whole
from flamec.ir.evaluate import run_op
from flamec.ir.op import REGISTRY, Op, OpKind
from flamec.ir.types import float64, int64
from flamec.tensor import Tensor

SIZE = 3


def why_without_a_rule(op: Op) -> str:
    """What the error says; "" of an operation that has a rule."""
    if op.counted:
        return "a size of its own"
    # the state of a generator has no batch; vmap draws for all at once
    return "no batching rule" if op.kind is OpKind.RANDOM else ""


def samples(op: Op) -> list[Any]:
    row = ROWS[op.name]
    dtype = next((d for d in (float64, int64) if d in row.dtypes), row.dtypes[0])
    return [s for s in row.samples(dtype, np.random.default_rng(0)) if s.arrays]


def varied(op: Op, array: np.ndarray, number: int) -> np.ndarray:
    """Another operand that the operation accepts: other matrices keep their properties."""
    if op.kind is OpKind.HOST:
        return array * (1 + number) if array.dtype.kind == "f" else array
    return np.roll(array.reshape(-1), number).reshape(array.shape)


def test_every_operation_has_a_rule_or_a_reason() -> None:
    for op in REGISTRY.values():
        if op.kind is OpKind.CREATION:  # without operands there is nothing to batch
            continue
        if reason := why_without_a_rule(op):
            with pytest.raises(NotImplementedError, match=reason):
                rule_of(op)
        else:
            assert rule_of(op) is not None


@pytest.mark.parametrize(
    "name",
    [
        o.name
        for o in REGISTRY.values()
        if o.kind is not OpKind.CREATION and not why_without_a_rule(o)
    ],
)
def test_agrees_with_a_loop(name: str) -> None:
    op = REGISTRY[name]
    compared = 0
    for sample in samples(op):
        arrays = [np.asarray(a) for a in sample.arrays]
        choices = list(itertools.product([False, True], repeat=len(arrays)))[1:]
        for flags in choices if len(choices) <= 7 else [choices[-1], choices[len(choices) // 2]]:
            batches = [
                np.stack([varied(op, a, i) for i in range(SIZE)]) if flag else a
                for a, flag in zip(arrays, flags, strict=True)
            ]
            builder = BatchBuilder(tensor_builder, SIZE)
            operands = [
                Operand(Tensor._from_array(np.array(a)), flag)
                for a, flag in zip(batches, flags, strict=True)
            ]
            found = builder.apply(op, operands, sample.attributes)
            found = found if isinstance(found, tuple) else (found,)
            types = op.infer_types(tuple(builder.type_of(o) for o in operands), sample.attributes)
            for i in range(SIZE):
                row = [b[i] if flag else b for b, flag in zip(batches, flags, strict=True)]
                expected = run_op(op, sample.attributes, row, types)
                for f, e in zip(found, expected, strict=True):
                    result = whole(tensor_builder, SIZE, f).numpy()[i]
                    assert result.shape == e.shape
                    np.testing.assert_allclose(result, e, rtol=1e-12, atol=1e-12)
            compared += 1
    assert compared
