"""Assembly: inputs placed side by side, in turns, inside a border, or into another."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.ir import batching
from flamec.ir.op import Attributes, DerivativeContext, Op, OpKind, Types, register
from flamec.ir.ops.checks import (
    check_alike,
    check_axis,
    check_one_per_dimension,
    check_operand_count,
    surely_less,
)
from flamec.ir.ops.view import check_window, numpy_window
from flamec.ir.shape import Dim, equal, format_shape
from flamec.ir.types import TensorType

if TYPE_CHECKING:
    from flamec.ir.builder import Builder


# concatenate --------------------------------------------------------------
def _infer_concatenate(types: Types, attributes: Attributes) -> TensorType:
    if not types:
        raise TypeError("concatenate takes at least one operand")
    check_alike("concatenate", types)
    first = types[0]
    axis = check_axis("concatenate", attributes["axis"], first)
    total: Dim = first.shape[axis]
    for position, other in enumerate(types[1:], 1):
        if len(other.shape) != len(first.shape):
            raise ValueError(
                f"concatenate: operand {position} has {len(other.shape)} dimensions, operand 0 has "
                f"{len(first.shape)}: {format_shape(other.shape)} and {format_shape(first.shape)}"
            )
        for i, (mine, theirs) in enumerate(zip(first.shape, other.shape, strict=True)):
            if i != axis and not equal(mine, theirs):
                raise ValueError(
                    f"concatenate along axis {axis}: operand {position} has shape "
                    f"{format_shape(other.shape)}, operand 0 {format_shape(first.shape)}: "
                    f"dimension {i} is {theirs} against {mine}"
                )
        total = total + other.shape[axis]
    return first.with_shape((*first.shape[:axis], total, *first.shape[axis + 1 :]))


def _concatenate_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> list[Any]:
    axis = ctx.attributes["axis"]
    gradients: list[Any] = []
    offset: Dim = 0
    for operand, needed in zip(ctx.input_types, ctx.needs, strict=True):
        rank = len(operand.shape)
        starts = tuple(offset if i == axis else 0 for i in range(rank))
        part = b.slice(g, starts=starts, sizes=operand.shape, steps=(1,) * rank) if needed else None
        gradients.append(part)
        offset = offset + operand.shape[axis]
    return gradients


concatenate = register(
    Op(
        name="concatenate",
        kind=OpKind.ASSEMBLE,
        infer=_infer_concatenate,
        evaluate=lambda attributes, *xs: np.concatenate(xs, axis=attributes["axis"]),
        derivative=_concatenate_gradient,
        batch=batching.shifting("axis"),
        doc="The operands one after the other along an axis.",
    )
)


# interleave ---------------------------------------------------------------
def _turns(attributes: Attributes) -> list[tuple[int, ...]]:
    """For each operand, which of the turns along each axis is its own."""
    return list(product(*(range(step) for step in attributes["steps"])))


def _infer_interleave(types: Types, attributes: Attributes) -> TensorType:
    axes, steps = attributes["axes"], attributes["steps"]
    if not axes or list(axes) != sorted(set(axes)) or len(steps) != len(axes):
        raise ValueError(f"interleave: steps {steps} for axes {axes}, which must be sorted")
    turns = _turns(attributes)
    if not turns or len(types) != len(turns):
        raise TypeError(f"interleave: {len(types)} operands for steps {steps}")
    check_alike("interleave", types)
    for axis in axes:
        check_axis("interleave", axis, types[0])
    for position, piece in enumerate(types):
        if len(piece.shape) != len(types[0].shape):
            raise ValueError(
                f"interleave: operand {position} has {len(piece.shape)} dimensions, operand 0 has "
                f"{len(types[0].shape)}"
            )
    shape = list(types[0].shape)
    for n, axis in enumerate(axes):
        alone = (t for t, turn in zip(types, turns, strict=True) if sum(turn) == turn[n])
        total: Dim = 0
        for piece in alone:
            total = total + piece.shape[axis]
        shape[axis] = total
    for position, (piece, turn) in enumerate(zip(types, turns, strict=True)):
        wanted = list(shape)
        for axis, step, own in zip(axes, steps, turn, strict=True):
            size = shape[axis]  # what a symbolic size is divided into is left to the caller
            wanted[axis] = (
                len(range(own, size, step)) if isinstance(size, int) else piece.shape[axis]
            )
        if not all(map(equal, piece.shape, wanted)):
            raise ValueError(
                f"interleave: operand {position} has shape {format_shape(piece.shape)}, its share "
                f"of {format_shape(tuple(shape))} has {format_shape(tuple(wanted))}"
            )
    return types[0].with_shape(tuple(shape))


def turn_window(
    attributes: Attributes, position: int, rank: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where the elements of an operand of ``interleave`` start, and their steps."""
    starts, steps = [0] * rank, [1] * rank
    for axis, step, own in zip(
        attributes["axes"], attributes["steps"], _turns(attributes)[position], strict=True
    ):
        starts[axis], steps[axis] = own, step
    return tuple(starts), tuple(steps)


def _evaluate_interleave(attributes: Attributes, *xs: np.ndarray) -> np.ndarray:
    shape = list(xs[0].shape)
    for n, axis in enumerate(attributes["axes"]):
        pairs = zip(xs, _turns(attributes), strict=True)
        shape[axis] = sum(x.shape[axis] for x, turn in pairs if sum(turn) == turn[n])
    result = np.empty(shape, xs[0].dtype)
    for position, x in enumerate(xs):
        starts, steps = turn_window(attributes, position, x.ndim)
        result[numpy_window(starts, x.shape, steps)] = x
    return result


def _interleave_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> list[Any]:
    gradients: list[Any] = []
    for position, (operand, needed) in enumerate(zip(ctx.input_types, ctx.needs, strict=True)):
        starts, steps = turn_window(ctx.attributes, position, len(operand.shape))
        part = b.slice(g, starts=starts, sizes=operand.shape, steps=steps) if needed else None
        gradients.append(part)
    return gradients


interleave = register(
    Op(
        name="interleave",
        kind=OpKind.ASSEMBLE,
        infer=_infer_interleave,
        evaluate=_evaluate_interleave,
        derivative=_interleave_gradient,
        batch=batching.shifting("axes"),
        doc="The operands in turns: along axes[n], element i of the result is one of operands "
        "whose place n in row-major order of steps is i % steps[n].",
    )
)


# pad ----------------------------------------------------------------------
def _infer_pad(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("pad", types, 2)
    x, value = types
    check_alike("pad", types)
    if value.shape != ():
        raise ValueError(f"pad: the value must have shape [], not {format_shape(value.shape)}")
    low, high = attributes["low"], attributes["high"]
    check_one_per_dimension("pad", "low", low, len(x.shape))
    check_one_per_dimension("pad", "high", high, len(x.shape))
    for axis, (before, after) in enumerate(zip(low, high, strict=True)):
        if surely_less(before, 0) or surely_less(after, 0):
            raise ValueError(
                f"pad: negative amount at dimension {axis} of {format_shape(x.shape)}: "
                f"low {before}, high {after}"
            )
    return x.with_shape(
        tuple(before + d + after for before, d, after in zip(low, x.shape, high, strict=True))
    )


def _evaluate_pad(attributes: Attributes, x: np.ndarray, value: np.ndarray) -> np.ndarray:
    low, high = attributes["low"], attributes["high"]
    shape = tuple(before + d + after for before, d, after in zip(low, x.shape, high, strict=True))
    result = np.full(shape, value, dtype=x.dtype)
    result[numpy_window(low, x.shape, (1,) * x.ndim)] = x
    return result


def _pad_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any, Any]:
    x, value = ctx.input_types
    low, steps = ctx.attributes["low"], (1,) * len(x.shape)
    inner = b.slice(g, starts=low, sizes=x.shape, steps=steps) if ctx.needs[0] else None
    border = None
    if ctx.needs[1]:
        border = b.slice_update(g, b.full_like(0, x), starts=low, steps=steps)
        border = b.sum_to(border, value.shape)
    return inner, border


pad = register(
    Op(
        name="pad",
        kind=OpKind.ASSEMBLE,
        infer=_infer_pad,
        evaluate=_evaluate_pad,
        derivative=_pad_gradient,
        dimensions=("low", "high"),
        batch=batching.pad,
        doc="A border of one value: low[i] elements before and high[i] after dimension i.",
    )
)


# slice_update -------------------------------------------------------------
def _infer_slice_update(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("slice_update", types, 2)
    x, y = types
    check_alike("slice_update", types)
    if len(x.shape) != len(y.shape):
        raise ValueError(
            f"slice_update: the update {format_shape(y.shape)} and the operand "
            f"{format_shape(x.shape)} differ in their number of dimensions"
        )
    check_window("slice_update", x.shape, attributes["starts"], y.shape, attributes["steps"])
    return x


def _evaluate_slice_update(attributes: Attributes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    result = np.array(x)
    result[numpy_window(attributes["starts"], y.shape, attributes["steps"])] = y
    return result


def _slice_update_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any, Any]:
    y = ctx.input_types[1]
    starts, steps = ctx.attributes["starts"], ctx.attributes["steps"]
    outside = inside = None
    if ctx.needs[0]:
        outside = b.slice_update(g, b.full_like(0, y), starts=starts, steps=steps)
    if ctx.needs[1]:
        inside = b.slice(g, starts=starts, sizes=y.shape, steps=steps)
    return outside, inside


slice_update = register(
    Op(
        name="slice_update",
        kind=OpKind.ASSEMBLE,
        infer=_infer_slice_update,
        evaluate=_evaluate_slice_update,
        derivative=_slice_update_gradient,
        dimensions=("starts",),
        batch=batching.extending(starts=lambda size: 0, steps=lambda size: 1),
        doc="The first operand with the elements start + i * step replaced by the second.",
    )
)
