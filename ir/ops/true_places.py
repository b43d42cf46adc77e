"""Where a mask is True: a result whose size the values decide, given as an attribute."""

from __future__ import annotations

import numpy as np

from flamec.ir.op import Attributes, Op, OpKind, Types, register
from flamec.ir.ops.checks import check_operand_count
from flamec.ir.types import bool_, int64


def _infer(types: Types, attributes: Attributes) -> Types:
    check_operand_count("true_places", types, 1)
    if types[0].dtype is not bool_:
        raise TypeError(f"true_places: the mask must be bool, not {types[0].dtype.name}")
    count = attributes["count"]
    if isinstance(count, int) and count < 0:
        raise ValueError(f"true_places: the count must not be negative, is {count}")
    return (types[0].with_dtype(int64).with_shape((count,)),)


def _evaluate(attributes: Attributes, mask: np.ndarray) -> np.ndarray:
    found = np.zeros(attributes["count"], np.int64)
    places = np.flatnonzero(mask)[: found.size]
    found[: places.size] = places
    return found


register(
    Op(
        name="true_places",
        kind=OpKind.HOST,
        infer=_infer,
        evaluate=_evaluate,
        expensive=True,
        dimensions=("count",),
        counted=True,
        doc="The first `count` places of True, counted through all dimensions; 0 past the last.",
    )
)
