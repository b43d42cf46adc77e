"""Order along one axis: all of it, or the elements at one end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.ir import batching
from flamec.ir.op import Attributes, DerivativeContext, Op, OpKind, Types, register
from flamec.ir.ops.checks import check_axis, check_operand_count, surely_less
from flamec.ir.ops.scan import scattered_along
from flamec.ir.shape import format_shape
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
        kind=OpKind.SORT,
        infer=_infer_sort,
        evaluate=_evaluate_sort,
        derivative=_sort_gradient,
        saves_outputs=(1,),
        expensive=True,
        batch=batching.shifting("axis"),
        doc="One axis in order, and where its elements were: stable, NaN above all numbers.",
    )
)


def _infer_topk(types: Types, attributes: Attributes) -> Types:
    check_operand_count("topk", types, 1)
    axis, count = check_axis("topk", attributes["axis"], types[0]), attributes["count"]
    shape = types[0].shape
    if count < 0 or surely_less(shape[axis], count):
        raise ValueError(f"topk: {count} elements of axis {axis} of {format_shape(shape)}")
    chosen = types[0].with_shape((*shape[:axis], count, *shape[axis + 1 :]))
    return (chosen, chosen.with_dtype(int64))


def _evaluate_topk(attributes: Attributes, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quickselect, then the chosen ones in order; equal ones among them in the order of places."""
    axis, count, largest = attributes["axis"], attributes["count"], attributes["largest"]
    size = x.shape[axis]
    if count > size:
        raise ValueError(f"topk: {count} elements of axis {axis} of size {size}")
    if not 0 < count < size // 2:
        values, places = _evaluate_sort({"axis": axis, "descending": largest}, x)
        taken = np.arange(count)
        return np.take(values, taken, axis), np.take(places, taken, axis)
    split = size - count if largest else count - 1
    end = np.arange(split, size) if largest else np.arange(count)
    chosen = np.sort(np.take(np.argpartition(x, split, axis), end, axis), axis)
    options = {"axis": axis, "descending": largest}
    values, order = _evaluate_sort(options, np.take_along_axis(x, chosen, axis))
    return values, np.take_along_axis(chosen, order, axis).astype(np.int64, copy=False)


topk = register(
    Op(
        name="topk",
        kind=OpKind.SORT,
        infer=_infer_topk,
        evaluate=_evaluate_topk,
        derivative=_sort_gradient,
        saves_outputs=(1,),
        expensive=True,
        batch=batching.shifting("axis"),
        doc="The first elements of one axis in order, and where they were; NaN above all numbers.",
    )
)
