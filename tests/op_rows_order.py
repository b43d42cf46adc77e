"""Rows of the primitives that put elements in order."""

from __future__ import annotations

import numpy as np
import op_oracles as oracles
from op_row import EVERY, Draw, ErrorInput, Row, Sample, tensor

from flamec.ir.types import float32

X = tensor(2, 3, dtype=float32)


def _make_orders(draw: Draw) -> list[Sample]:
    shapes = (
        ((1,), 0),
        ((7,), 0),
        ((3, 5), 1),
        ((3, 5), 0),
        ((2, 4, 3), 1),
        ((0, 3), 0),
        ((3, 0), 0),
    )
    samples = [
        Sample((draw(*shape),), {"axis": axis, "descending": descending})
        for shape, axis in shapes
        for descending in (False, True)
    ]
    mixed = np.concatenate([draw.specials(), draw.specials()[::2]])
    samples += [Sample((mixed,), {"axis": 0, "descending": d}, False) for d in (False, True)]
    return samples


def _make_selections(draw: Draw) -> list[Sample]:
    """Different elements, because of equal ones any may be chosen."""
    samples = []
    for shape, axis, count in (
        ((7,), 0, 2), ((3, 9), 1, 3), ((9, 3), 0, 8), ((9, 2), 0, 1), ((2, 3), 1, 0),
        ((0, 9), 1, 2), ((1,), 0, 1),
    ):  # fmt: skip
        size = shape[axis]
        rows = [draw.rng.permutation(size) for _ in range(int(np.prod(shape)) // size)]
        table = np.array(rows, draw.dtype.numpy if draw.dtype.kind != "bool" else np.int64)
        lines = table.reshape((*shape[:axis], *shape[axis + 1 :], size))
        x = np.ascontiguousarray(np.moveaxis(lines, -1, axis))
        x = x.astype(draw.dtype.numpy) if draw.dtype.kind != "bool" else x > size
        for largest in (False, True):
            attributes = {"axis": axis, "count": count, "largest": largest}
            if draw.dtype.kind != "bool" or count in (0, size):
                samples.append(Sample((x,), attributes))
    if draw.dtype.kind == "float":
        x = draw.array([1.0, np.nan, -np.inf, 3.0, np.inf, 2.0, -1.0, 0.5, 7.0])
        for largest in (False, True):
            attributes = {"axis": 0, "count": 3, "largest": largest}
            samples.append(Sample((x,), attributes, finite=False))
    return samples


ORDER_ROWS = [
    Row(
        "sort",
        EVERY,
        _make_orders,
        oracles.sort,
        gradient=(0,),
        symbolic=lambda B, dtype: ((tensor(2, B, dtype=dtype),), {"axis": 1, "descending": True}),
        errors=(
            ErrorInput(
                (X,), {"axis": 2, "descending": False}, ValueError, "axis 2 is out of range"
            ),
            ErrorInput(
                (tensor(),), {"axis": 0, "descending": False}, ValueError, "axis 0 is out of range"
            ),
        ),
    ),
    Row(
        "topk",
        EVERY,
        _make_selections,
        oracles.topk,
        gradient=(0,),
        symbolic=lambda B, dtype: (
            (tensor(B, 5, dtype=dtype),),
            {"axis": 1, "count": 2, "largest": True},
        ),
        errors=(
            ErrorInput(
                (X,), {"axis": 2, "count": 1, "largest": True}, ValueError, "axis 2 is out of range"
            ),
            ErrorInput((X,), {"axis": 1, "count": 4, "largest": True}, ValueError, "4 elements"),
        ),
    ),
]
