"""Sorting along one axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.ir import batching
from flamec.ir.op import Attributes, DerivativeContext, Op, OpKind, Types, register
from flamec.ir.ops.checks import check_axis, check_operand_count
from flamec.ir.ops.scan import scattered_along
from flamec.ir.types import int64

if TYPE_CHECKING:
    from flamec.ir.builder import Builder


def _infer_sort(types: Types, attributes: Attributes) -> Types:
    check_operand_count("sort", types, 1)
    check_axis("sort", attributes["axis"], types[0])
    return (types[0], types[0].with_dtype(int64))


def _evaluate_sort(attributes: Attributes, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """NumPy puts NaN last; a descending order is the ascending one of the reversed axis, read
    from its end, so that equal elements stay in their order."""
    axis = attributes["axis"]
    if not attributes["descending"]:
        places = np.argsort(x, axis=axis, kind="stable")
    else:
        backwards = np.argsort(np.flip(x, axis), axis=axis, kind="stable")
        places = x.shape[axis] - 1 - np.flip(backwards, axis)
    return np.take_along_axis(x, places, axis), places.astype(np.int64, copy=False)


def _sort_gradient(b: Builder, ctx: DerivativeContext, g: Any, index_gradient: Any) -> tuple[Any]:
    if g is None:
        return (None,)
    return (scattered_along(b, g, ctx.outputs[1], ctx.attributes["axis"], ctx.input_types[0]),)


sort = register(
    Op(
        name="sort",
        kind=OpKind.HOST,
        infer=_infer_sort,
        evaluate=_evaluate_sort,
        derivative=_sort_gradient,
        saves_outputs=(1,),
        expensive=True,
        batch=batching.shifting("axis"),
        doc="One axis in order, and where its elements were: stable, NaN above all numbers.",
    )
)
