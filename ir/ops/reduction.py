"""Reductions: axes folded into one value; the result drops them.

``axes`` is a sorted tuple of nonnegative positions (argmax and argmin: exactly
one). sum and prod keep the dtype. NaN propagates through all of them. The
backends' text combines two partial results; that of argmax and argmin says
whether ``{0}`` beats ``{1}``, the earlier one winning where neither does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.ir.op import Attributes, DerivativeContext, Op, OpKind, Types, register
from flamec.ir.ops.checks import check_axis, check_numeric, check_operand_count
from flamec.ir.ops.scan import exclusive_product, exclusive_product_from_end, wide_dtype
from flamec.ir.ops.view import inverse_permutation
from flamec.ir.shape import Dim, format_shape, product, structurally_equal
from flamec.ir.types import DType, TensorType, dtype_of_numpy, highest, int64, lowest

if TYPE_CHECKING:
    from flamec.ir.builder import Builder


def _infer_reduction(name: str, types: Types, attributes: Attributes) -> TensorType:
    check_operand_count(name, types, 1)
    (x,) = types
    axes = attributes["axes"]
    if not isinstance(axes, tuple):
        raise TypeError(f"{name}: axes must be a tuple, not {axes!r}")
    for axis in axes:
        check_axis(name, axis, x)
    if any(a >= b for a, b in itertools.pairwise(axes)):
        raise ValueError(f"{name}: axes {axes} must be sorted and distinct")
    return x.with_shape(tuple(d for i, d in enumerate(x.shape) if i not in axes))


def _infer_arithmetic(name: str) -> Callable[[Types, Attributes], TensorType]:
    def infer(types: Types, attributes: Attributes) -> TensorType:
        result = _infer_reduction(name, types, attributes)
        check_numeric(name, types[0])
        return result

    return infer


def _infer_extreme(name: str) -> Callable[[Types, Attributes], TensorType]:
    def infer(types: Types, attributes: Attributes) -> TensorType:
        result = _infer_reduction(name, types, attributes)
        has_unit = types[0].dtype.kind == "bool"  # any() and all() of nothing
        for axis in attributes["axes"]:
            if structurally_equal(types[0].shape[axis], 0) and not has_unit:
                raise ValueError(
                    f"{name}: dimension {axis} of {format_shape(types[0].shape)} is empty "
                    f"and has no extreme value"
                )
        return result

    return infer


def _infer_position(name: str) -> Callable[[Types, Attributes], TensorType]:
    infer_extreme = _infer_extreme(name)

    def infer(types: Types, attributes: Attributes) -> TensorType:
        result = infer_extreme(types, attributes)
        check_numeric(name, types[0])
        if len(attributes["axes"]) != 1:
            raise ValueError(f"{name} folds exactly one axis, not {attributes['axes']}")
        return result.with_dtype(int64)

    return infer


def restore_axes(b: Builder, value: Any, axes: tuple[int, ...], shape: tuple[Dim, ...]) -> Any:
    """A result of folding ``axes`` of ``shape``, broadcast back to ``shape``."""
    if not axes:
        return value
    kept = tuple(1 if i in axes else d for i, d in enumerate(shape))
    return b.expand_to(b.reshape(value, shape=kept), shape)


# sum ----------------------------------------------------------------------
STRETCH = 1024  # elements that NumPy adds one after the other here, along an axis of rows


def _sum(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """NumPy's sum, which is pairwise along neighbours in memory, and elsewhere row after row: there
    it loses more, the more rows there are, so those of floats are added stretch by stretch."""
    count = math.prod(x.shape[axis] for axis in axes)
    long = count > 2 * STRETCH and dtype_of_numpy(x.dtype).kind == "float"
    if not long or any(abs(x.strides[a]) == x.itemsize for a in axes if x.shape[a] > 1):
        return np.add.reduce(x, axis=axes, dtype=x.dtype)
    axis = max(axes, key=lambda a: x.shape[a])
    place, size = axis - sum(a < axis for a in axes), x.shape[axis]
    if size <= 2 * STRETCH:
        others = tuple(a - (a > axis) for a in axes if a != axis)
        return _sum(np.add.reduce(x, axis=axis, dtype=x.dtype), others)
    count = size // STRETCH
    whole, rest = np.split(x, [count * STRETCH], axis=axis)
    stretches = whole.reshape(*x.shape[:axis], count, STRETCH, *x.shape[axis + 1 :])
    inside = tuple(a + (a >= axis) for a in axes)
    parts = np.add.reduce(stretches, axis=inside, dtype=x.dtype)
    return _sum(parts, (place,)) + np.add.reduce(rest, axis=axes, dtype=x.dtype)


def _sum_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any]:
    return (restore_axes(b, g, ctx.attributes["axes"], ctx.input_types[0].shape),)


sum_ = register(
    Op(
        name="sum",
        kind=OpKind.REDUCTION,
        infer=_infer_arithmetic("sum"),
        evaluate=lambda attributes, x: _sum(x, attributes["axes"]),
        derivative=_sum_gradient,
        c="({0} + {1})",
        triton="({0} + {1})",
        commutative=True,
        associative=True,
        identity=lambda dtype: 0,
        compensated=True,
        inexact=True,
        doc="Sum over axes; 0 over an empty axis.",
    )
)


# prod ---------------------------------------------------------------------
def _prod_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any]:
    """The product of the other elements, from both sides, so that zeros are no special case."""
    x, axes, shape = ctx.inputs[0], ctx.attributes["axes"], ctx.input_types[0].shape
    kept = tuple(i for i in range(len(shape)) if i not in axes)
    order = (*kept, *axes)
    ordered_shape = tuple(shape[i] for i in order)
    batch = ordered_shape[: len(kept)]
    rows = b.reshape(b.permute(x, axes=order), shape=(*batch, product(shape[i] for i in axes)))
    axis = len(kept)
    others = b.mul(exclusive_product(b, rows, axis), exclusive_product_from_end(b, rows, axis))
    gradient = b.mul(b.reshape(g, shape=(*batch, 1)), others)
    gradient = b.reshape(gradient, shape=ordered_shape)
    return (b.permute(gradient, axes=inverse_permutation(order)),)


prod = register(
    Op(
        name="prod",
        kind=OpKind.REDUCTION,
        infer=_infer_arithmetic("prod"),
        evaluate=lambda attributes, x: np.multiply.reduce(
            x, axis=attributes["axes"], dtype=wide_dtype(x)
        ).astype(x.dtype),
        derivative=_prod_gradient,
        saves_inputs=(0,),
        c="({0} * {1})",
        triton="({0} * {1})",
        commutative=True,
        associative=True,
        identity=lambda dtype: 1,
        drifts=True,
        inexact=True,
        doc="Product over axes; 1 over an empty axis.",
    )
)


# amax, amin ---------------------------------------------------------------
def _extreme_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any]:
    """Shared evenly between the elements that equal the extreme value."""
    axes, x = ctx.attributes["axes"], ctx.input_types[0]
    extreme = restore_axes(b, ctx.outputs[0], axes, x.shape)
    hit = b.cast(b.eq(ctx.inputs[0], extreme), x.dtype)
    share = b.div(g, b.sum(hit, axes=axes))
    return (b.mul(hit, restore_axes(b, share, axes, x.shape)),)


_LANES = ("f32", "f64", "i8", "i16", "i32", "i64", "u8")


def _evaluate_amax(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    fold = np.logical_or if x.dtype.kind == "b" else np.maximum
    return _fold_extreme(fold, lowest, x, attributes["axes"])


def _evaluate_amin(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    fold = np.logical_and if x.dtype.kind == "b" else np.minimum
    return _fold_extreme(fold, highest, x, attributes["axes"])


def _fold_extreme(
    fold: np.ufunc, start: Callable[[DType], bool | int | float], x: np.ndarray, axes: Any
) -> np.ndarray:
    """A symbolic axis may be empty at run time; the extreme of nothing is the start value."""
    if x.size:
        return fold.reduce(x, axis=axes)
    return fold.reduce(x, axis=axes, initial=start(dtype_of_numpy(x.dtype)))


amax = register(
    Op(
        name="amax",
        kind=OpKind.REDUCTION,
        infer=_infer_extreme("amax"),
        evaluate=_evaluate_amax,
        derivative=_extreme_gradient,
        saves_inputs=(0,),
        saves_outputs=(0,),
        c={"b": "({0} | {1})", **{lane: f"vmaximum_{lane}({{0}}, {{1}})" for lane in _LANES}},
        triton={
            **dict.fromkeys(_LANES, "tl.maximum({0}, {1})"),
            **dict.fromkeys(
                ("f32", "f64"), "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)"
            ),
            "b": "({0} | {1})",
        },
        commutative=True,
        associative=True,
        idempotent=True,
        identity=lowest,
        doc="Greatest value over axes; NaN if there is one; any() of bool.",
    )
)

amin = register(
    Op(
        name="amin",
        kind=OpKind.REDUCTION,
        infer=_infer_extreme("amin"),
        evaluate=_evaluate_amin,
        derivative=_extreme_gradient,
        saves_inputs=(0,),
        saves_outputs=(0,),
        c={"b": "({0} & {1})", **{lane: f"vminimum_{lane}({{0}}, {{1}})" for lane in _LANES}},
        triton={
            **dict.fromkeys(_LANES, "tl.minimum({0}, {1})"),
            **dict.fromkeys(
                ("f32", "f64"), "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)"
            ),
            "b": "({0} & {1})",
        },
        commutative=True,
        associative=True,
        idempotent=True,
        identity=highest,
        doc="Least value over axes; NaN if there is one; all() of bool.",
    )
)


# argmax, argmin -----------------------------------------------------------
def _beats(comparison: str) -> dict[str, str]:
    """Text of "{0} beats {1}" a lane type; NaN beats every number."""
    return {
        lane: (
            f"({comparison}_{lane}({{0}}, {{1}}) | "
            f"(vne_{lane}({{0}}, {{0}}) & veq_{lane}({{1}}, {{1}})))"
            if lane in ("f32", "f64")
            else f"{comparison}_{lane}({{0}}, {{1}})"
        )
        for lane in _LANES
    }


argmax = register(
    Op(
        name="argmax",
        kind=OpKind.REDUCTION,
        infer=_infer_position("argmax"),
        evaluate=lambda attributes, x: np.argmax(x, axis=attributes["axes"][0]),
        c=_beats("vgt"),
        triton="(({0} > {1}) | (({0} != {0}) & ({1} == {1})))",
        identity=lowest,
        doc="Position of the first greatest element; a NaN counts as greatest.",
    )
)

argmin = register(
    Op(
        name="argmin",
        kind=OpKind.REDUCTION,
        infer=_infer_position("argmin"),
        evaluate=lambda attributes, x: np.argmin(x, axis=attributes["axes"][0]),
        c=_beats("vlt"),
        triton="(({0} < {1}) | (({0} != {0}) & ({1} == {1})))",
        identity=highest,
        doc="Position of the first least element; a NaN counts as least.",
    )
)
