"""Combining values into a tensor at computed places, with gradients for every way of combining.

``index_put`` differentiates ``set`` and ``add``. The other ways are computed by it
and, where a gradient is wanted, given one by a differentiable expression of the
same value: the result is ``r + (s - detach(s))``, equal to r, with the gradient of s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flamec.dispatch import apply_named
from flamec.functional.primitives import ops
from flamec.ir.types import DType
from flamec.state import no_grad, thread
from flamec.tensor import Tensor


def scatter_into(
    x: Tensor, values: Tensor, indices: Sequence[Tensor], mode: str, include_self: bool = True
) -> Tensor:
    """A copy of ``x`` with ``values`` combined into it at ``indices``.

    ``mode``: set, add, prod, mean, amax, amin. Without ``include_self`` the elements
    written to count as if they were not there.
    """
    mode = combining(mode, x)
    start = x if include_self or mode == "set" else _emptied(x, values, indices, mode)
    if mode == "mean":
        return _mean(start, values, indices, include_self)
    if mode in ("set", "add") or not _wants_gradient(start, values):
        return _put(start, values, indices, mode)
    with no_grad():
        result = _put(start, values, indices, mode)
    if mode == "prod":
        same = _product_expression(start, values, indices)
    else:
        same = _extreme_expression(start, values, indices, result)
    same = ops.where(_finite(same), same, 0.0)
    return ops.add(result, ops.sub(same, apply_named("detach", same)))


def combining(mode: str, x: Tensor) -> str:
    """``mode`` for the dtype of ``x``: sums of booleans are any, products all."""
    if x._type.dtype.kind != "bool":
        return mode
    return {"add": "amax", "prod": "amin"}.get(mode, mode)


def has_no_detour(x: Tensor, values: Tensor, mode: str) -> bool:
    """Whether ``scatter_into`` computes what it gives, with no second expression for a gradient."""
    return mode in ("set", "add") or not _wants_gradient(x, values)


def _put(x: Tensor, values: Tensor, indices: Sequence[Tensor], mode: str) -> Tensor:
    result: Tensor = apply_named("index_put", x, values, *indices, mode=mode)
    return result


def _wants_gradient(*tensors: Tensor) -> bool:
    return thread.grad_enabled and any(t.requires_grad for t in tensors)


def _emptied(x: Tensor, values: Tensor, indices: Sequence[Tensor], mode: str) -> Tensor:
    """``x`` with what leaves every combination unchanged at ``indices``."""
    return _put(x, ops.full_like(_unit(mode, x._type.dtype), values._type), indices, "set")


def _unit(mode: str, dtype: DType) -> bool | int | float:
    if mode in ("add", "mean"):
        return 0
    if mode == "prod":
        return 1
    lowest = mode == "amax"
    if dtype.is_floating_point:
        return -np.inf if lowest else np.inf
    if dtype.kind == "bool":
        return not lowest
    limits = np.iinfo(dtype.numpy)
    return int(limits.min if lowest else limits.max)


def _mean(start: Tensor, values: Tensor, indices: Sequence[Tensor], include_self: bool) -> Tensor:
    total = _put(start, values, indices, "add")
    ones = ops.full_like(1, values._type)
    count = _put(ops.full_like(1 if include_self else 0, start._type), ones, indices, "add")
    count = ops.maximum(count, 1)
    divide = ops.div if start._type.dtype.is_floating_point else ops.floor_divide
    return divide(total, count)


def _finite(x: Tensor) -> Tensor:
    return ops.lt(ops.abs(x), float("inf"))


def _extreme_expression(
    x: Tensor, values: Tensor, indices: Sequence[Tensor], result: Tensor
) -> Tensor:
    """The mean of the elements that equal the result, so that they share its gradient."""
    mine = ops.eq(x, result)
    theirs = ops.eq(values, apply_named("index", result, *indices))
    dtype = x._type.dtype
    count = _put(ops.cast(mine, dtype), ops.cast(theirs, dtype), indices, "add")
    total = _put(ops.where(mine, x, 0.0), ops.where(theirs, values, 0.0), indices, "add")
    return ops.div(total, ops.maximum(count, 1.0))


def _product_expression(x: Tensor, values: Tensor, indices: Sequence[Tensor]) -> Tensor:
    """``x`` times the product of the values of each place, by logarithms.

    Zeros are kept apart: a single one of a place stands as a factor of its own,
    with two or more the product is zero.
    """
    zero = ops.eq(values, 0.0)
    none = ops.full_like(0.0, x._type)
    size = ops.where(zero, 1.0, ops.abs(values))
    negative = ops.cast(ops.lt(values, 0.0), x._type.dtype)
    magnitude = ops.exp(_put(none, ops.log(size), indices, "add"))
    odd = ops.fmod(_put(none, negative, indices, "add"), 2.0)
    sign = ops.sub(1.0, ops.mul(odd, 2.0))
    zeros = _put(none, ops.cast(zero, x._type.dtype), indices, "add")
    single = _put(none, ops.where(zero, values, 0.0), indices, "add")
    rest = ops.where(ops.eq(zeros, 0.0), 1.0, ops.where(ops.eq(zeros, 1.0), single, 0.0))
    return ops.mul(ops.mul(x, rest), ops.mul(magnitude, sign))
