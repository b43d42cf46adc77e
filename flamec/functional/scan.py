"""Scans and differences along one dimension: running sums, products, extremes, trapezoids.

In: a tensor and ``dim``. Out: a tensor of the same shape (shorter for ``diff``, without
the dimension for ``trapezoid``). Running sums and products of integers are int64
unless ``dtype`` is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from flamec import return_types
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional import arithmetic
from flamec.functional.arguments import public
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.dimensions import dimension
from flamec.functional.primitives import narrowed, ops, widened
from flamec.functional.promotion import as_tensors, float_dtype, is_number, require_tensor
from flamec.functional.reduction import accumulated
from flamec.functional.shape import window
from flamec.functional.unary import copied
from flamec.fusing import fused
from flamec.ir.ops.scan import one_before
from flamec.ir.shape import equal, maximum, minimum
from flamec.ir.types import DType, bool_, int64, uint8
from flamec.tensor import Tensor


def _running(name: str, for_bool: str, input: Any, dim: int, dtype: DType | None) -> Tensor:
    x = accumulated(name, input, dtype)
    axis = dimension(name, dim, x.ndim)
    if x.ndim == 0:
        return copied(x)
    if x._type.dtype is bool_:
        values, _ = getattr(ops, for_bool)(ops.cast(x, uint8), axis=axis)
        return ops.cast(values, bool_)
    return getattr(ops, name)(x, axis=axis)


@autocasts(cuda=FLOAT32)
@public
def cumsum(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """At each place the sum of the elements up to it."""
    return _running("cumsum", "cummax", input, dim, dtype)


@autocasts(cuda=FLOAT32)
@public
def cumprod(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """At each place the product of the elements up to it."""
    return _running("cumprod", "cummin", input, dim, dtype)


def _running_extreme(name: str, input: Any, dim: int) -> Any:
    require_tensor(name, "input", input)
    axis = dimension(name, dim, input.ndim)
    result = getattr(return_types, name)
    if input.ndim == 0:
        zero = ops.full(value=0, shape=(), dtype=int64, device=input._type.device)
        return result(copied(input), zero)
    if input._type.dtype is bool_:
        values, indices = getattr(ops, name)(ops.cast(input, uint8), axis=axis)
        return result(ops.cast(values, bool_), indices)
    return result(*getattr(ops, name)(input, axis=axis))


@public
def cummax(input: Tensor, dim: int) -> Any:
    """The running maximum and the index of its latest occurrence, as (values, indices)."""
    return _running_extreme("cummax", input, dim)


@public
def cummin(input: Tensor, dim: int) -> Any:
    """The running minimum and the index of its latest occurrence, as (values, indices)."""
    return _running_extreme("cummin", input, dim)


@public
def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """At each place log(sum(exp(x))) of the elements up to it.

    The sum of exp(x - m) for the running maximum m is a linear recurrence: it is multiplied by
    exp(m[k-1] - m[k]) from place to place (Milakov and Gimelshein, "Online normalizer calculation
    for softmax", 2018).
    """
    require_tensor("logcumsumexp", "input", input)
    if not input._type.dtype.is_floating_point:
        raise OperationTypeError(
            f"logcumsumexp(): not defined for {input._type.dtype.name} (at {user_location()})"
        )
    axis = dimension("logcumsumexp", dim, input.ndim)
    if input.ndim == 0:
        return copied(input)
    return _by_recurrence(input, axis)


@fused()
def _by_recurrence(input: Tensor, axis: int) -> Tensor:
    x = widened(input)
    largest, _ = ops.cummax(ops.detach(x), axis=axis)
    base = ops.where(ops.lt(ops.abs(largest), math.inf), largest, 0.0)
    before = one_before(ops, largest, axis, -math.inf)
    grown = ops.sub(one_before(ops, base, axis, 0.0), base)
    shrinks = ops.exp(ops.minimum(grown, 0.0))  # from an infinite maximum on, base is 0
    factors = ops.where(ops.eq(before, -math.inf), 0.0, shrinks)
    total = ops.recurrence(ops.exp(ops.sub(x, base)), factors, axis=axis)
    empty = ops.eq(total, 0.0)  # all are -inf so far
    result = ops.add(ops.log(ops.where(empty, 1.0, total)), base)
    return narrowed(ops.where(empty, -math.inf, result), input._type.dtype)


# differences -----------------------------------------------------------------------------


@public
@fused()
def diff(
    input: Tensor,
    n: int = 1,
    dim: int = -1,
    prepend: Tensor | None = None,
    append: Tensor | None = None,
) -> Tensor:
    """The n-th differences of neighbours; exclusive or for bool."""
    require_tensor("diff", "input", input)
    if not input.ndim:
        raise OperationError(
            f"diff(): expects input to be at least one-dimensional (at {user_location()})"
        )
    if n < 0:
        raise OperationError(f"diff(): order must be nonnegative, got {n} (at {user_location()})")
    axis = dimension("diff", dim, input.ndim)
    pieces = [t for t in (prepend, input, append) if t is not None]
    for piece in pieces:
        if require_tensor("diff", "prepend or append", piece).ndim != input.ndim:
            raise OperationError(
                f"diff(): prepend and append need {input.ndim} dimensions, got {piece.ndim} "
                f"(at {user_location()})"
            )
    if n == 0:
        return copied(input)
    x = ops.concatenate(*as_tensors("diff", *pieces), axis=axis) if len(pieces) > 1 else input
    for _ in range(n):
        earlier, later = _neighbours(x, axis)
        x = ops.bitwise_xor(later, earlier) if x._type.dtype is bool_ else ops.sub(later, earlier)
    return x


def _neighbours(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """All elements of a dimension but the last, and all but the first; none of none."""
    size = x._type.shape[axis]
    less_one = maximum(size - 1, 0)
    return window(x, axis, 0, less_one), window(x, axis, minimum(size, 1), less_one)


@public
@fused()
def trapezoid(
    y: Tensor, x: Tensor | None = None, *, dx: float | None = None, dim: int = -1
) -> Tensor:
    """The integral along ``dim`` by the trapezoidal rule, over points ``x`` or steps ``dx``."""
    terms = _trapezoids("trapezoid", y, x, dx, dim)
    return ops.sum(terms, axes=(dimension("trapezoid", dim, y.ndim),))


@public
@fused()
def cumulative_trapezoid(
    y: Tensor, x: Tensor | None = None, *, dx: float | None = None, dim: int = -1
) -> Tensor:
    """The running integral along ``dim`` by the trapezoidal rule, one element shorter."""
    terms = _trapezoids("cumulative_trapezoid", y, x, dx, dim)
    return ops.cumsum(terms, axis=dimension("trapezoid", dim, y.ndim))


def _trapezoids(name: str, y: Any, x: Any, dx: Any, dim: int) -> Tensor:
    """The area of each trapezoid."""
    require_tensor(name, "y", y)
    if y._type.dtype is bool_:
        raise OperationTypeError(f"{name}(): not defined for bool (at {user_location()})")
    if x is not None and dx is not None:
        raise OperationTypeError(f"{name}(): give x or dx, not both (at {user_location()})")
    axis = dimension(name, dim, y.ndim)
    y = ops.cast(y, float_dtype(y._type.dtype)) if x is None else y
    size = y._type.shape[axis]
    both = arithmetic.add(*reversed(_neighbours(y, axis)))
    if x is None:
        step: Any = 1.0 if dx is None else dx
        if not is_number(step):
            raise OperationTypeError(f"{name}(): dx must be a number (at {user_location()})")
    else:
        require_tensor(name, "x", x)
        points = x
        if x.ndim == 1 and y.ndim > 1:
            if not equal(x.shape[0], size):
                raise OperationError(
                    f"{name}(): there must be one x for each of the {size} samples, got "
                    f"{x.shape[0]} (at {user_location()})"
                )
            points = ops.reshape(x, shape=(size, *(1,) * (y.ndim - axis - 1)))
        step = diff(points, dim=axis - y.ndim)
    return arithmetic.true_divide(arithmetic.mul(both, step), 2.0)


trapz = trapezoid

__all__ = [
    "cummax", "cummin", "cumprod", "cumsum", "cumulative_trapezoid", "diff", "logcumsumexp",
    "trapezoid", "trapz",
]  # fmt: skip

TENSOR_METHODS: dict[str, Callable[..., Any]] = {
    name: globals()[name]
    for name in ("cummax", "cummin", "cumprod", "cumsum", "diff", "logcumsumexp")
}
IN_PLACE: tuple[str, ...] = ("cumprod", "cumsum")
