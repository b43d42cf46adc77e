"""Scans: running reductions along one axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.ir.op import Attributes, DerivativeContext, Op, OpKind, Types, register
from flamec.ir.ops.checks import check_alike, check_axis, check_numeric, check_operand_count
from flamec.ir.ops.view import flip
from flamec.ir.shape import Dim, structural_key
from flamec.ir.types import TensorType, highest, int64, lowest

if TYPE_CHECKING:
    from flamec.ir.builder import Builder


def _infer_scan(name: str) -> Callable[[Types, Attributes], TensorType]:
    def infer(types: Types, attributes: Attributes) -> TensorType:
        check_operand_count(name, types, 1)
        check_numeric(name, types[0])
        check_axis(name, attributes["axis"], types[0])
        return types[0]

    return infer


def part(b: Builder, x: Any, axis: int, start: Dim, size: Dim) -> Any:
    """``size`` elements of one axis from ``start`` on."""
    shape = b.type_of(x).shape
    rank = range(len(shape))
    return b.slice(
        x,
        starts=tuple(start if i == axis else 0 for i in rank),
        sizes=tuple(size if i == axis else shape[i] for i in rank),
        steps=(1,) * len(shape),
    )


def wide_dtype(x: np.ndarray) -> np.dtype[Any]:
    """In what float32 is folded where each element adds its rounding error to the others'."""
    return np.dtype(np.float64) if x.dtype == np.float32 else x.dtype


def _running(fold: Callable[..., np.ndarray]) -> Callable[[Attributes, np.ndarray], np.ndarray]:
    def evaluate(attributes: Attributes, x: np.ndarray) -> np.ndarray:
        wide = fold(x, axis=attributes["axis"], dtype=wide_dtype(x))
        return wide.astype(x.dtype, copy=False)

    return evaluate


# cumsum -------------------------------------------------------------------
def _cumsum_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any]:
    axis = ctx.attributes["axis"]
    return (flip(b, b.cumsum(flip(b, g, axis), axis=axis), axis),)


cumsum = register(
    Op(
        name="cumsum",
        kind=OpKind.SCAN,
        infer=_infer_scan("cumsum"),
        evaluate=_running(np.cumsum),
        derivative=_cumsum_gradient,
        c="({0} + {1})",
        triton="({0} + {1})",
        commutative=True,
        associative=True,
        identity=lambda dtype: 0,
        scan_of=("sum", "add"),
        drifts=True,
        inexact=True,
        doc="Running sum.",
    )
)


# recurrence ---------------------------------------------------------------
def _infer_recurrence(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("recurrence", types, 2)
    check_alike("recurrence", types)
    x, factors = types
    if structural_key(x.shape) != structural_key(factors.shape):
        raise ValueError(f"recurrence: {x} needs a factor for each element, not {factors}")
    check_numeric("recurrence", types[0])
    check_axis("recurrence", attributes["axis"], types[0])
    return types[0]


def _evaluate_recurrence(attributes: Attributes, x: np.ndarray, factors: np.ndarray) -> np.ndarray:
    axis = attributes["axis"]
    terms, by = (np.moveaxis(t.astype(wide_dtype(t)), axis, 0) for t in (x, factors))
    result = np.empty_like(terms)
    total = np.zeros(terms.shape[1:], terms.dtype)
    for n, (term, factor) in enumerate(zip(terms, by, strict=True)):
        total = total * factor + term
        result[n] = total
    return np.moveaxis(result, 0, axis).astype(x.dtype, copy=False)


def one_before(b: Builder, x: Any, axis: int, first: float) -> Any:
    """At each place the element before it, ``first`` at the first."""
    shape = b.type_of(x).shape
    none = (0,) * len(shape)
    low = tuple(int(i == axis) for i in range(len(shape)))
    shifted = b.pad(x, b.constant(first, b.type_of(x).with_shape(())), low=low, high=none)
    return part(b, shifted, axis, 0, shape[axis])


def recurrence_from_end(b: Builder, x: Any, factors: Any, axis: int) -> Any:
    """``h[k] = x[k] + factors[k+1] * h[k+1]``, from the last place on."""
    from_end = one_before(b, flip(b, factors, axis), axis, 0)
    return flip(b, b.recurrence(flip(b, x, axis), from_end, axis=axis), axis)


def _recurrence_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any, Any]:
    factors, axis = ctx.inputs[1], ctx.attributes["axis"]
    total = recurrence_from_end(b, g, factors, axis)
    before = one_before(b, ctx.outputs[0], axis, 0) if ctx.needs[1] else None
    return total, None if before is None else b.mul(total, before)


recurrence = register(
    Op(
        name="recurrence",
        kind=OpKind.SCAN,
        infer=_infer_recurrence,
        evaluate=_evaluate_recurrence,
        derivative=_recurrence_gradient,
        saves_inputs=(1,),
        saves_outputs=(0,),
        c="({0} + {1})",
        triton="({0} + {1})",
        associative=True,
        identity=lambda dtype: 0,
        drifts=True,
        inexact=True,
        doc="h[k] = x[k] + factors[k] * h[k-1] for operands x and factors, from h[-1] = 0 on.",
    )
)


# cumprod ------------------------------------------------------------------
def exclusive_product(b: Builder, x: Any, axis: int) -> Any:
    """At each place the product of the elements before it."""
    return b.cumprod(one_before(b, x, axis, 1), axis=axis)


def exclusive_product_from_end(b: Builder, x: Any, axis: int) -> Any:
    """At each place the product of the elements after it."""
    return flip(b, exclusive_product(b, flip(b, x, axis), axis), axis)


def _cumprod_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any]:
    """Product before k, times the sum over j >= k of g[j] and the product over (k, j]."""
    x, axis = ctx.inputs[0], ctx.attributes["axis"]
    tail = recurrence_from_end(b, g, x, axis)
    return (b.mul(exclusive_product(b, x, axis), tail),)


cumprod = register(
    Op(
        name="cumprod",
        kind=OpKind.SCAN,
        infer=_infer_scan("cumprod"),
        evaluate=_running(np.cumprod),
        derivative=_cumprod_gradient,
        saves_inputs=(0,),
        c="({0} * {1})",
        triton="({0} * {1})",
        commutative=True,
        associative=True,
        identity=lambda dtype: 1,
        scan_of=("prod", "mul"),
        drifts=True,
        inexact=True,
        doc="Running product.",
    )
)


# cummax, cummin -----------------------------------------------------------
def _infer_running_extreme(name: str) -> Callable[[Types, Attributes], Types]:
    infer = _infer_scan(name)

    def infer_both(types: Types, attributes: Attributes) -> Types:
        values = infer(types, attributes)
        return (values, values.with_dtype(int64))

    return infer_both


def _evaluate_running(extreme: np.ufunc) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    def evaluate(attributes: Attributes, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        axis = attributes["axis"]
        values = extreme.accumulate(x, axis=axis)
        places = np.arange(x.shape[axis]).reshape(-1, *(1,) * (x.ndim - axis - 1))
        hit = (x == values) | (x != x)
        return values, np.maximum.accumulate(np.where(hit, places, 0), axis=axis)

    return evaluate


def _replaces(comparison: str) -> str:
    """Text of "{0} takes the place of the running extreme {1}"; NaN always does."""
    return f"({comparison}_{{t}}({{0}}, {{1}}) | vne_{{t}}({{0}}, {{0}}))"


def scattered_along(b: Builder, values: Any, places: Any, axis: int, type: TensorType) -> Any:
    """Zeros of the given type, to which ``values`` are added at ``places`` of one axis."""
    indices = [
        places
        if i == axis
        else b.iota(shape=b.type_of(places).shape, axis=i, dtype=int64, device=type.device)
        for i in range(len(type.shape))
    ]
    return b.index_put(b.full_like(0, type), values, *indices, mode="add")


def _running_extreme_gradient(
    b: Builder, ctx: DerivativeContext, g: Any, index_gradient: Any
) -> tuple[Any]:
    if g is None:
        return (None,)
    return (scattered_along(b, g, ctx.outputs[1], ctx.attributes["axis"], ctx.input_types[0]),)


cummax = register(
    Op(
        name="cummax",
        kind=OpKind.SCAN,
        infer=_infer_running_extreme("cummax"),
        evaluate=_evaluate_running(np.maximum),
        derivative=_running_extreme_gradient,
        saves_outputs=(1,),
        takes_over="ge",
        c=_replaces("vge"),
        triton="(({0} >= {1}) | ({0} != {0}))",
        identity=lowest,
        doc="Running maximum and where it stands (the latest of equal elements).",
    )
)

cummin = register(
    Op(
        name="cummin",
        kind=OpKind.SCAN,
        infer=_infer_running_extreme("cummin"),
        evaluate=_evaluate_running(np.minimum),
        derivative=_running_extreme_gradient,
        saves_outputs=(1,),
        takes_over="le",
        c=_replaces("vle"),
        triton="(({0} <= {1}) | ({0} != {0}))",
        identity=highest,
        doc="Running minimum and where it stands (the latest of equal elements).",
    )
)
