"""Statistics of order: median, mode, quantile, and their forms that leave NaN out.

In: numbers (quantiles: float32 or float64). Out: elements of the input, or interpolated between
two of them; NaN where a row has one, unless it is left out. Everything follows from one sort, so
derivatives go to the elements that were chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flamec import return_types
from flamec.errors import OperationError, user_location
from flamec.functional.arguments import public
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.dimensions import dimension
from flamec.functional.elementwise import lerp
from flamec.functional.primitives import (
    is_found_empty,
    kept,
    narrowed,
    ops,
    reduce_kept,
    require,
)
from flamec.functional.promotion import constant, is_number, require_tensor
from flamec.functional.shape import window
from flamec.functional.sorting import (
    picked,
    positions_along,
    refuse_bool,
    sorted_along,
    without_axis,
    zero_index,
)
from flamec.functional.unary import copied
from flamec.fusing import fused
from flamec.ir.shape import product
from flamec.ir.types import float32, float64, int64
from flamec.state import thread
from flamec.tensor import Tensor
from flamec.values import required, within

_INTERPOLATIONS = ("linear", "lower", "higher", "midpoint", "nearest")


def _flat(x: Tensor) -> Tensor:
    result: Tensor = ops.reshape(x, shape=(product(x._type.shape),))
    return result


def _require_elements(name: str, x: Tensor, axis: int) -> None:
    if x.ndim and is_found_empty(x._type.shape[axis]):
        raise IndexError(
            f"{name}(): Expected reduction dim {axis} to have non-zero size (at {user_location()})"
        )


def _nan_count(x: Tensor, axis: int) -> Tensor:
    """How many elements are NaN, the dimension kept."""
    return reduce_kept("sum", ops.cast(ops.ne(x, x), int64), (axis,))


# median ----------------------------------------------------------------------------------


def _median_of(x: Tensor, axis: int, ignore_nan: bool) -> tuple[Tensor, Tensor]:
    """The lower of the two middle elements and its position; the dimension is kept."""
    values, indices = sorted_along(x, axis)
    count = x._type.shape[axis]
    if not x._type.dtype.is_floating_point:
        middle = (
            window(values, axis, (count - 1) // 2, 1),
            window(indices, axis, (count - 1) // 2, 1),
        )
        return copied(middle[0]), copied(middle[1])
    missing = _nan_count(x, axis)
    total = ops.expand_to(ops.constant(count, missing._type), missing._type.shape)
    present = ops.sub(total, missing)
    if ignore_nan:
        place = ops.floor_divide(ops.maximum(ops.sub(present, 1), 0), 2)
    else:  # the first NaN, if there is one
        place = ops.where(ops.gt(missing, 0), present, ops.floor_divide(ops.sub(total, 1), 2))
    return picked(values, place, axis), picked(indices, place, axis)


def _even_share(x: Tensor, value: Tensor) -> Tensor:
    """The derivative of ``value``, an element of ``x``, which all elements equal to it share."""
    found = ops.expand_to(value, x._type.shape)
    same = ops.bitwise_or(ops.eq(x, found), ops.bitwise_and(ops.ne(x, x), ops.ne(found, found)))
    marks = ops.cast(same, x._type.dtype.compute)
    count = ops.sum(marks, axes=tuple(range(len(x._type.shape))))
    return narrowed(ops.div(marks, count), x._type.dtype)


def _median(name: str, input: Any, dim: Any, keepdim: bool, ignore_nan: bool) -> Any:
    require_tensor(name, "input", input)
    refuse_bool(name, input)
    if dim is None:
        if is_found_empty(product(input._type.shape)):
            require(input._type.dtype.is_floating_point, f"{name}(): there are no elements")
            return ops.full(value=float("nan"), shape=(), dtype=input._type.dtype,
                            device=input._type.device)  # fmt: skip

        def of_all(x: Tensor) -> Tensor:
            return without_axis(_median_of(_flat(x), 0, ignore_nan)[0], 0)

        if not (thread.grad_enabled and input.requires_grad):
            return of_all(input)
        from flamec.functional.known_slope import with_slopes  # with the first gradient

        return with_slopes(of_all, (_even_share,), input)
    axis = dimension(name, dim, input.ndim)
    result = getattr(return_types, name)
    if not input.ndim:
        return result(copied(input), zero_index(input))
    _require_elements(name, input, axis)
    both = _median_of(input, axis, ignore_nan)
    return result(*(both if keepdim else [without_axis(t, axis) for t in both]))


@public
@fused()
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The lower median of all elements, or over ``dim`` as (values, indices).

    NaN where there is one, at the first's position.
    """
    return _median("median", input, dim, keepdim, False)


@public
@fused()
def nanmedian(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """``median`` of the elements that are not NaN."""
    return _median("nanmedian", input, dim, keepdim, True)


# mode ------------------------------------------------------------------------------------


@public
@fused()
def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> Any:
    """The element that occurs most often along ``dim``, the least of several, and the position
    of its last occurrence, as (values, indices)."""
    require_tensor("mode", "input", input)
    axis = dimension("mode", dim, input.ndim)
    if not input.ndim:
        return return_types.mode(copied(input), zero_index(input))
    _require_elements("mode", input, axis)
    values, indices = sorted_along(input, axis)
    shape = values._type.shape
    positions = positions_along(shape, axis, values)
    before = picked(values, ops.maximum(ops.sub(positions, 1), 0), axis)
    first = ops.where(ops.ne(values, before), positions, 0)
    start, _ = ops.cummax(first, axis=axis)
    longest = kept(ops.argmax(ops.sub(positions, start), axes=(axis,)), shape, (axis,))
    both = [picked(t, longest, axis) for t in (values, indices)]
    return return_types.mode(*(both if keepdim else [without_axis(t, axis) for t in both]))


# quantiles -------------------------------------------------------------------------------


def _quantile(
    name: str, input: Any, q: Any, dim: Any, keepdim: bool, interpolation: str, ignore_nan: bool
) -> Tensor:
    require_tensor(name, "input", input)
    dtype = input._type.dtype
    require(
        dtype in (float32, float64),
        f"{name}(): input tensor must be either float or double dtype, not {dtype.name}",
    )
    require(
        interpolation in _INTERPOLATIONS,
        f"{name}(): interpolation must be one of linear, lower, higher, midpoint or nearest, "
        f"but got {interpolation}",
    )
    level = _levels(name, q, input)
    axis = None if dim is None else dimension(name, dim, input.ndim)
    shape = input._type.shape
    require(not is_found_empty(product(shape)), f"{name}(): input tensor must be non-empty")
    single = not level.ndim or is_number(q) or not q.ndim
    return _quantiles(input, level, axis, keepdim, interpolation, ignore_nan, single)


@fused()
def _quantiles(
    input: Tensor,
    level: Tensor,
    dim: int | None,
    keepdim: bool,
    interpolation: str,
    ignore_nan: bool,
    single: bool,
) -> Tensor:
    """The quantiles at each ``level``, the first dimension; ``single``: without that."""
    if dim is None:
        x, axis = _flat(input), 0
    else:
        x, axis = input if input.ndim else ops.reshape(input, shape=(1,)), dim
    last = x.ndim - 1
    rest = tuple(i for i in range(x.ndim) if i != axis)
    rows = ops.permute(x, axes=(*rest, axis))
    values = _interpolated(rows, level, interpolation, ignore_nan)
    result = ops.permute(values, axes=(last, *range(last)))
    shape = list(result._type.shape)
    if keepdim:
        full = [1] * input.ndim if dim is None else list(input._type.shape)
        if dim is not None and input.ndim:
            full[axis] = 1
        shape = [shape[0], *full]
    if single:
        shape = shape[1:]
    return copied(ops.reshape(result, shape=tuple(shape)))


def _levels(name: str, q: Any, like: Tensor) -> Tensor:
    """The quantiles that are wanted, in one dimension."""
    if is_number(q):
        if not 0 <= q <= 1:
            raise OperationError(
                f"{name}(): q values must be in the range [0, 1], got {q} (at {user_location()})"
            )
        return ops.reshape(constant(q, like._type.dtype, like._type.device), shape=(1,))
    require_tensor(name, "q", q)
    require(q.ndim <= 1, f"{name}(): q must be a scalar or 1D tensor")
    require(
        q._type.dtype is like._type.dtype, f"{name}(): q tensor must be same dtype as the input"
    )
    return _flat(required(q, within(0, 1), f"{name}(): q values must be in the range [0, 1]"))


def _interpolated(rows: Tensor, level: Tensor, interpolation: str, ignore_nan: bool) -> Tensor:
    """The quantiles of the last dimension, which they take the place of.

    The method of Hyndman and Fan, "Sample quantiles in statistical packages", The American
    Statistician 50(4), 1996, definition 7, for "linear".
    """
    axis = rows.ndim - 1
    ordered, _ = sorted_along(rows, axis)
    dtype, shape = rows._type.dtype, rows._type.shape
    missing = _nan_count(rows, axis)
    total = ops.constant(shape[axis], missing._type)
    wanted = (*shape[:axis], level._type.shape[0])
    level = ops.expand_to(level, wanted)
    if ignore_nan:
        end = ops.cast(
            ops.sub(ops.sub(ops.expand_to(total, missing._type.shape), missing), 1), dtype
        )
        ranks = ops.mul(level, ops.expand_to(end, wanted))
        ranks = ops.where(ops.lt(ranks, 0.0), 0.0, ranks)
    else:  # a NaN stands at the end
        end = ops.expand_to(ops.cast(ops.sub(total, 1), dtype), wanted)
        has_nan = ops.expand_to(ops.gt(missing, 0), wanted)
        ranks = ops.where(has_nan, end, ops.mul(level, end))
    if interpolation in ("lower", "higher", "nearest"):
        rounding = {"lower": ops.floor, "higher": ops.ceil, "nearest": ops.round}[interpolation]
        return picked(ordered, ops.cast(rounding(ranks), int64), axis)
    floor = ops.floor(ranks)
    below = picked(ordered, ops.cast(floor, int64), axis)
    above = picked(ordered, ops.cast(ops.ceil(ranks), int64), axis)
    if interpolation == "midpoint":
        return lerp(below, above, 0.5)
    return lerp(below, above, ops.sub(ranks, floor))


@autocasts(cpu=FLOAT32)
@public
def quantile(
    input: Tensor,
    q: float | Tensor,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
) -> Tensor:
    """The q-th quantiles (0 <= q <= 1) over ``dim``, or of all elements; NaN where there is one.

    For a one-dimensional ``q`` the first dimension of the result counts the quantiles.
    """
    return _quantile("quantile", input, q, dim, keepdim, interpolation, False)


@autocasts(cpu=FLOAT32)
@public
def nanquantile(
    input: Tensor,
    q: float | Tensor,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
) -> Tensor:
    """``quantile`` of the elements that are not NaN."""
    return _quantile("nanquantile", input, q, dim, keepdim, interpolation, True)


__all__ = ["median", "mode", "nanmedian", "nanquantile", "quantile"]

TENSOR_METHODS: dict[str, Callable[..., Any]] = {name: globals()[name] for name in __all__}
