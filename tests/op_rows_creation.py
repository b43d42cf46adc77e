"""Rows of the primitives that make elements of attributes alone, or of a generator's state."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import op_oracles as oracles
from op_row import EVERY, NUMBERS, Attributes, Draw, Row, Sample, bad, tensor

from flamec.ir.types import CPU, DType, bool_, float32, int8, int32, int64

X = tensor(2, 3, dtype=float32)


def _make_full(draw: Draw) -> list[Sample]:
    dtype = draw.dtype
    values: list[Any] = [True, False] if dtype is bool_ else [0, 1, 5]
    if dtype.kind == "int":
        values.append(-3)
    if dtype.kind == "float":
        values += [0.1, -0.0, math.inf, -math.inf, math.nan, 1e-3]
    return [
        Sample((), {"value": v, "shape": s, "dtype": dtype, "device": CPU})
        for v in values
        for s in ((), (2, 3), (0,))
    ]


def _make_iota(draw: Draw) -> list[Sample]:
    cases = (((5,), 0), ((2, 3), 0), ((2, 3), 1), ((0, 3), 1), ((2, 3, 4), 1))
    return [
        Sample((), {"shape": shape, "axis": axis, "dtype": draw.dtype, "device": CPU})
        for shape, axis in cases
    ]


def _created(dtype: DType, **attributes: Any) -> Attributes:
    return {**attributes, "dtype": dtype, "device": CPU}


def _make_random(draw: Draw) -> list[Sample]:
    states = ((0, 0), (2**63 - 1, 2**32 - 2), (-5, 7), (1, -3))
    shapes = ((), (0,), (1,), (7,), (3, 5), (16,))
    return [Sample((np.array(s, np.int64),), {"shape": shape}) for s in states for shape in shapes]


CREATION_ROWS = [
    Row(
        "full",
        EVERY,
        _make_full,
        oracles.full,
        symbolic=lambda B, dtype: ((), _created(dtype, value=2.0, shape=(B, 2))),
        errors=(
            bad(ValueError, "out of range", **_created(int8, value=200, shape=())),
            bad(ValueError, "not representable", **_created(int64, value=0.5, shape=())),
            bad(TypeError, "the value must be", **_created(float32, value="1", shape=())),
            bad(
                ValueError,
                "negative size -1 at dimension 1",
                **_created(int8, value=0, shape=(2, -1)),
            ),
            bad(TypeError, "0 operands", X, **_created(int8, value=0, shape=())),
        ),
    ),
    Row(
        "iota",
        NUMBERS,
        _make_iota,
        oracles.iota,
        symbolic=lambda B, dtype: ((), _created(dtype, shape=(2, B), axis=1)),
        errors=(
            bad(ValueError, "axis 1 is out of range", **_created(int64, shape=(2,), axis=1)),
            bad(TypeError, "bool", **_created(bool_, shape=(2,), axis=0)),
        ),
    ),
    Row(
        "dim_size",
        NUMBERS,
        lambda draw: [Sample((), _created(draw.dtype, size=n)) for n in (0, 1, 100)],
        oracles.attribute("size"),
        symbolic=lambda B, dtype: ((), _created(dtype, size=B * 2 + 1)),
        errors=(
            bad(TypeError, "not a dimension", **_created(int64, size=1.5)),
            bad(TypeError, "bool", **_created(bool_, size=1)),
        ),
    ),
    Row(
        "random_bits",
        (int64,),
        _make_random,
        oracles.random_bits,
        symbolic=lambda B, dtype: ((tensor(2, dtype=int64),), {"shape": (B, 3)}),
        errors=(
            bad(TypeError, "int64[2]", tensor(3, dtype=int64), shape=(2,)),
            bad(TypeError, "int64[2]", tensor(2, dtype=int32), shape=(2,)),
        ),
    ),
]
