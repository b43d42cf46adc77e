"""Creation: arrays that come from attributes alone."""

from __future__ import annotations

import math

import numpy as np

from flamec.ir.op import Attributes, Op, OpKind, Types, register
from flamec.ir.ops.checks import check_axis, check_operand_count, check_shape_attribute
from flamec.ir.shape import Dim, SymbolicDim
from flamec.ir.types import CPU, TensorType


def _created(attributes: Attributes, shape: tuple[Dim, ...]) -> TensorType:
    return TensorType(shape, attributes["dtype"], attributes.get("device", CPU))


# full ---------------------------------------------------------------------
def _infer_full(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("full", types, 0)
    value, dtype, shape = attributes["value"], attributes["dtype"], attributes["shape"]
    if not isinstance(value, (bool, int, float)):
        raise TypeError(f"full: the value must be a bool, int or float, not {value!r}")
    if shape:
        check_shape_attribute("full", shape)
    if dtype.kind in ("int", "uint"):
        if isinstance(value, float) and (not math.isfinite(value) or value != int(value)):
            raise ValueError(f"full: {value!r} is not representable as {dtype.name}")
        bounds = np.iinfo(dtype.numpy)
        if not bounds.min <= value <= bounds.max:
            raise ValueError(f"full: {value!r} is out of range for {dtype.name}")
    return _created(attributes, shape)


def _evaluate_full(attributes: Attributes) -> np.ndarray:
    shape, dtype = attributes["shape"], attributes["dtype"].numpy
    if shape == ():
        return np.array(attributes["value"], dtype=dtype)
    value = attributes["value"]
    if value == 0 and math.copysign(1.0, value) > 0:
        return np.zeros(shape, dtype)  # memory that the system gives is not written again
    return np.full(shape, value, dtype=dtype)


full = register(
    Op(
        name="full",
        kind=OpKind.CREATION,
        infer=_infer_full,
        evaluate=_evaluate_full,
        dimensions=("shape",),
        doc="One value everywhere; with shape () a scalar constant.",
    )
)


# iota ---------------------------------------------------------------------
def _infer_iota(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("iota", types, 0)
    check_shape_attribute("iota", attributes["shape"])
    created = _created(attributes, attributes["shape"])
    check_axis("iota", attributes["axis"], created)
    if created.dtype.kind == "bool":
        raise TypeError("iota is not defined for bool")
    return created


def _evaluate_iota(attributes: Attributes) -> np.ndarray:
    shape, axis = attributes["shape"], attributes["axis"]
    steps = np.arange(shape[axis]).astype(attributes["dtype"].numpy)
    if len(shape) == 1:
        return steps
    return np.broadcast_to(steps.reshape(-1, *(1,) * (len(shape) - axis - 1)), shape).copy()


iota = register(
    Op(
        name="iota",
        kind=OpKind.CREATION,
        infer=_infer_iota,
        evaluate=_evaluate_iota,
        dimensions=("shape",),
        doc="The position along one axis: 0, 1, 2 …",
    )
)


# dim_size -----------------------------------------------------------------
def _infer_dim_size(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("dim_size", types, 0)
    size = attributes["size"]
    if isinstance(size, bool) or not isinstance(size, (int, SymbolicDim)):
        raise TypeError(f"dim_size: not a dimension: {size!r}")
    if attributes["dtype"].kind == "bool":
        raise TypeError("dim_size is not defined for bool")
    return _created(attributes, ())


dim_size = register(
    Op(
        name="dim_size",
        kind=OpKind.CREATION,
        infer=_infer_dim_size,
        evaluate=lambda attributes: np.array(attributes["size"]).astype(attributes["dtype"].numpy),
        dimensions=("size",),
        doc="The value of a symbolic dimension as a scalar.",
    )
)
