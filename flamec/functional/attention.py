"""Scaled dot-product attention, written out: the compiler recognises it."""

from __future__ import annotations

import math

from flamec.errors import OperationError, user_location
from flamec.functional.autocasting import LOWER, autocasts
from flamec.functional.dropout import dropout
from flamec.functional.primitives import (
    narrowed,
    ops,
    require,
    require_floating,
    widened,
)
from flamec.functional.promotion import require_tensor
from flamec.functional.softmax import softmax_over
from flamec.fusing import fused
from flamec.ir.broadcasting import broadcast_shapes
from flamec.ir.shape import Dim, SymbolicDim, equal, format_shape
from flamec.ir.types import DType, bool_, int64
from flamec.tensor import Tensor

__all__ = ["scaled_dot_product_attention"]


@autocasts(cpu=LOWER, cuda=LOWER)
@fused()
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(query @ key^T * scale + mask) @ value (Vaswani et al. 2017, section 3.2.1).

    query: [*, L, E]; key: [*, S, E]; value: [*, S, V]; result: [*, L, V]. ``attn_mask``
    broadcasts to [*, L, S]: bool (True takes part) or added to the scores. ``is_causal``:
    position i sees positions up to i. ``scale`` is 1/sqrt(E) unless given. ``enable_gqa``:
    the heads (dimension -3) of key and value are repeated to match query. A row in which
    nothing takes part gives 0.
    """
    name = "scaled_dot_product_attention"
    for label, operand in (("query", query), ("key", key), ("value", value)):
        require_tensor(name, label, operand)
        require_floating(name, operand)
        require(len(operand._type.shape) >= 2, f"{name}: {label} must have at least 2 dimensions")
    dtype = query._type.dtype
    require(
        key._type.dtype is dtype and value._type.dtype is dtype,
        f"{name}: query, key and value must have one dtype, got {dtype.name}, "
        f"{key._type.dtype.name} and {value._type.dtype.name}",
    )
    require(
        not (is_causal and attn_mask is not None),
        f"{name}: attn_mask must not be given when is_causal=True",
    )
    if enable_gqa:
        key, value = _repeat_heads(name, query, key), _repeat_heads(name, query, value)
    query, key, value = _same_batch(name, query, key, value)
    size = query._type.shape[-1]
    if scale is None:
        scores = _times(_product(query, key, -1, -1), _inverse_root(size, query))
    else:
        scores = _times(_product(query, key, -1, -1), scale)
    scores = widened(scores)
    weights = _weights(name, scores, attn_mask, is_causal, dtype)
    if dropout_p > 0.0:
        weights = dropout(weights, dropout_p)
    return _product(weights, value, -1, -2)


def _inverse_root(size: Dim, like: Tensor) -> float | Tensor:
    if not isinstance(size, SymbolicDim):
        return 1.0 / math.sqrt(size) if size else math.inf
    wide = like._type.with_dtype(like._type.dtype.compute)
    return ops.rsqrt(ops.constant(size, wide))


def _times(x: Tensor, factor: float | Tensor) -> Tensor:
    if isinstance(factor, Tensor):
        factor = ops.cast(factor, x._type.dtype)
    return ops.mul(x, factor)


def _product(x: Tensor, y: Tensor, x_axis: int, y_axis: int) -> Tensor:
    """The batched product of matrices, contracting ``x_axis`` with ``y_axis``."""
    rank = len(x._type.shape)
    batch = tuple(range(rank - 2))
    return ops.dot_general(
        x, y, contract=((rank + x_axis,), (rank + y_axis,)), batch=(batch, batch)
    )


def _same_batch(name: str, *operands: Tensor) -> list[Tensor]:
    """The operands with their leading dimensions broadcast against each other."""
    try:
        batch = broadcast_shapes(*(t._type.shape[:-2] for t in operands))
    except ValueError as error:
        raise OperationError(f"{name}: {error} (at {user_location()})") from None
    query, key, value = operands
    if not equal(query._type.shape[-1], key._type.shape[-1]) or not equal(
        key._type.shape[-2], value._type.shape[-2]
    ):
        shapes = ", ".join(format_shape(t._type.shape) for t in operands)
        raise OperationError(
            f"{name}: query [*, L, E], key [*, S, E] and value [*, S, V] do not match: {shapes} "
            f"(at {user_location()})"
        )
    return [ops.expand_to(t, (*batch, *t._type.shape[-2:])) for t in operands]


def _repeat_heads(name: str, query: Tensor, x: Tensor) -> Tensor:
    shape = x._type.shape
    require(
        len(query._type.shape) >= 3 and len(shape) >= 3,
        f"{name}: enable_gqa needs a dimension of heads",
    )
    wanted, have = query._type.shape[-3], shape[-3]
    require(
        wanted % have == 0,
        f"{name}: the {wanted} heads of query are not a multiple of the {have} of key and value",
    )
    times = wanted // have
    if not isinstance(times, SymbolicDim) and times == 1:
        return x
    spread = ops.reshape(x, shape=(*shape[:-2], 1, *shape[-2:]))
    spread = ops.expand(spread, shape=(*shape[:-2], times, *shape[-2:]))
    return ops.reshape(spread, shape=(*shape[:-3], wanted, *shape[-2:]))


def _weights(
    name: str, scores: Tensor, attn_mask: Tensor | None, is_causal: bool, dtype: DType
) -> Tensor:
    """The softmax of the masked scores over their last dimension, in ``dtype``."""
    last = len(scores._type.shape) - 1
    rows, columns = scores._type.shape[-2:]
    if is_causal:
        device = scores._type.device
        row = ops.iota(shape=(rows, 1), axis=0, dtype=int64, device=device)
        column = ops.iota(shape=(1, columns), axis=1, dtype=int64, device=device)
        scores = ops.where(ops.le(column, row), scores, -math.inf)
        return narrowed(softmax_over(scores, last), dtype)
    if attn_mask is None:
        return narrowed(softmax_over(scores, last), dtype)
    require_tensor(name, "attn_mask", attn_mask)
    if attn_mask._type.dtype is bool_:
        scores = ops.where(attn_mask, scores, -math.inf)
    else:
        require_floating(name, attn_mask)
        scores = ops.add(scores, ops.cast(attn_mask, scores._type.dtype))
    return narrowed(softmax_over(scores, last, empty_rows=True), dtype)
