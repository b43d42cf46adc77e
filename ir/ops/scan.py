"""Scans: running reductions along one axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.ir.op import Attributes, DerivativeContext, Op, OpKind, Types, register
from flamec.ir.ops.checks import check_axis, check_numeric, check_operand_count
from flamec.ir.ops.view import flip
from flamec.ir.shape import Dim, SymbolicDim
from flamec.ir.types import TensorType, int64

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


# cumprod ------------------------------------------------------------------
def exclusive_product(b: Builder, x: Any, axis: int) -> Any:
    """At each place the product of the elements before it."""
    shape = b.type_of(x).shape
    none = (0,) * len(shape)
    one_before = tuple(int(i == axis) for i in range(len(shape)))
    shifted = b.pad(x, b.constant(1, b.type_of(x)), low=one_before, high=none)
    return part(b, b.cumprod(shifted, axis=axis), axis, 0, shape[axis])


def exclusive_product_from_end(b: Builder, x: Any, axis: int) -> Any:
    """At each place the product of the elements after it."""
    return flip(b, exclusive_product(b, flip(b, x, axis), axis), axis)


def _recurrence(b: Builder, x: Any, g: Any, axis: int, size: int) -> Any:
    """``s[k] = g[k] + x[k+1] * s[k+1]`` from the end, in log2(size) doubling steps.

    Hillis and Steele, "Data parallel algorithms", CACM 29(12), 1986: the maps
    ``s -> g + a * s`` compose associatively.
    """
    if size <= 1:
        return g
    total, factor = g, part(b, x, axis, 1, size - 1)
    distance = 1
    while distance < size:
        rest = size - distance
        added = b.mul(factor, part(b, total, axis, distance, rest))
        head = b.add(part(b, total, axis, 0, rest), added)
        total = b.concatenate(head, part(b, total, axis, rest, distance), axis=axis)
        rest -= distance
        if rest > 0:
            factor = b.mul(part(b, factor, axis, 0, rest), part(b, factor, axis, distance, rest))
        distance *= 2
    return total


def _recurrence_by_matrix(b: Builder, x: Any, g: Any, axis: int) -> Any:
    """The same for a size not known yet: products of all ranges, quadratic in the size.

    Entry (k, j) is the product of x over k < i <= j, and 0 for j < k.
    """
    type = b.type_of(x)
    shape = type.shape
    size = shape[axis]
    wide = (*shape[: axis + 1], *shape[axis:])
    line = (*shape[:axis], 1, *shape[axis:])
    ones = (1,) * (len(shape) - axis - 1)
    grid: dict[str, Any] = {"shape": (size, size), "dtype": int64, "device": type.device}
    k, j = b.iota(axis=0, **grid), b.iota(axis=1, **grid)
    after = b.reshape(b.gt(j, k), shape=(size, size, *ones))
    reached = b.reshape(b.ge(j, k), shape=(size, size, *ones))
    one, zero = b.constant(1, type), b.constant(0, type)
    factors = b.where(after, b.reshape(x, shape=line), one)
    products = b.cumprod(b.expand_to(factors, wide), axis=axis + 1)
    terms = b.mul(b.where(reached, products, zero), b.reshape(g, shape=line))
    return b.sum(terms, axes=(axis + 1,))


def _cumprod_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any]:
    """Product before k, times the sum over j >= k of g[j] and the product over (k, j]."""
    x, axis = ctx.inputs[0], ctx.attributes["axis"]
    size = ctx.input_types[0].shape[axis]
    if isinstance(size, SymbolicDim):
        tail = _recurrence_by_matrix(b, x, g, axis)
    else:
        tail = _recurrence(b, x, g, axis, size)
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
        c=_replaces("vge"),
        triton="(({0} >= {1}) | ({0} != {0}))",
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
        c=_replaces("vle"),
        triton="(({0} <= {1}) | ({0} != {0}))",
        doc="Running minimum and where it stands (the latest of equal elements).",
    )
)
