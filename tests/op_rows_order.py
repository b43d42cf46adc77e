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
]
