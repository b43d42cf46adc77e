"""Multi-head attention as one function, with PyTorch's many arguments.

Sequences come first: query [L, N, E] or [L, E], key and value [S, N, …]. In masks of
this function True means "takes no part".
"""

from __future__ import annotations

import math

from flamec.errors import OperationAssertionError, user_location
from flamec.functional.attention import scaled_dot_product_attention
from flamec.functional.dropout import dropout
from flamec.functional.linear import linear
from flamec.functional.padding import pad
from flamec.functional.primitives import mean_over, ops, require
from flamec.functional.promotion import require_tensor
from flamec.functional.softmax import softmax
from flamec.ir.shape import Dim, equal, format_shape
from flamec.ir.types import bool_
from flamec.tensor import Tensor

__all__ = ["multi_head_attention_forward"]


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Project, attend with each head, project back (Vaswani et al. 2017, section 3.2.2).

    Returns the output [L, N, E] and, if ``need_weights``, the weights [N, L, S] (the mean
    over heads) or [N, heads, L, S]. ``attn_mask``: [L, S] or [N * heads, L, S], bool or
    added. ``key_padding_mask``: [N, S]. ``bias_k``, ``bias_v`` [1, 1, E] add one place to the
    sequence, ``add_zero_attn`` one of zeros. ``static_k``, ``static_v``: [N * heads, S, E / heads].
    """
    name = "multi_head_attention_forward"
    for label, operand in (("query", query), ("key", key), ("value", value)):
        require_tensor(name, label, operand)
    require(
        not (is_causal and attn_mask is None),
        f"{name}: need attn_mask if specifying the is_causal hint",
    )
    batched = _check_ranks(name, query, key, value)
    if not batched:
        query, key, value = (_with_axis(t, 1) for t in (query, key, value))
        if key_padding_mask is not None:
            key_padding_mask = _with_axis(key_padding_mask, 0)
    embedding = query._type.shape[-1]
    sources, targets = key._type.shape, value._type.shape
    _assert(
        all(map(equal, sources[:2], targets[:2])) and equal(sources[1], query._type.shape[1]),
        f"{name}: key {format_shape(sources)} and value {format_shape(targets)} must have one "
        f"length [S, N, E], and the batch size of the query {format_shape(query._type.shape)}",
    )
    _assert(
        embedding == embed_dim_to_check,
        f"{name}: was expecting embedding dimension of {embed_dim_to_check}, but got {embedding}",
    )
    _assert(
        embed_dim_to_check % num_heads == 0,
        f"{name}: embed_dim {embed_dim_to_check} not divisible by num_heads {num_heads}",
    )
    if use_separate_proj_weight:
        weights = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        weights = _thirds(in_proj_weight)
    q, k, v = (
        linear(x, _given(name, w), b)
        for x, w, b in zip((query, key, value), weights, _thirds(in_proj_bias), strict=True)
    )
    extra = 0
    if bias_k is not None and bias_v is not None:
        k, v = _appended(k, bias_k), _appended(v, bias_v)
        extra += 1
    batch = query._type.shape[1]
    heads = _split(q, num_heads)
    keys = _split(k, num_heads) if static_k is None else _static(static_k, batch, num_heads)
    values = _split(v, num_heads) if static_v is None else _static(static_v, batch, num_heads)
    if add_zero_attn:
        keys, values = pad(keys, (0, 0, 0, 1)), pad(values, (0, 0, 0, 1))
        extra += 1
    mask = _merged_mask(name, heads, attn_mask, key_padding_mask, extra)
    drop = dropout_p if training else 0.0
    attention_weights = None
    if need_weights:
        scale = math.sqrt(1.0 / (embed_dim_to_check // num_heads))
        attended, attention_weights = _attended(heads, keys, values, mask, scale, drop)
    else:
        attended = scaled_dot_product_attention(heads, keys, values, mask, drop)
    length = query._type.shape[0]
    joined = ops.permute(attended, axes=(2, 0, 1, 3))
    joined = ops.reshape(joined, shape=(length, batch, embed_dim_to_check))
    output = linear(joined, out_proj_weight, out_proj_bias)
    if attention_weights is not None and average_attn_weights:
        attention_weights = mean_over(attention_weights, (1,), keepdim=False)
    if not batched:
        output = _without_axis(output, 1)
        if attention_weights is not None:
            attention_weights = _without_axis(attention_weights, 0)
    return output, attention_weights


def _assert(condition: bool, message: str) -> None:
    if not condition:
        raise OperationAssertionError(f"{message} (at {user_location()})")


def _check_ranks(name: str, query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether there is a batch dimension; error unless all agree."""
    ranks = {len(t._type.shape) for t in (query, key, value)}
    if ranks not in ({2}, {3}):
        shapes = ", ".join(format_shape(t._type.shape) for t in (query, key, value))
        raise OperationAssertionError(
            f"{name}: query, key and value should all have 3 dimensions, or 2 without batch; got "
            f"{shapes} (at {user_location()})"
        )
    return ranks == {3}


def _given(name: str, weight: Tensor | None) -> Tensor:
    _assert(weight is not None, f"{name}: a projection weight is missing")
    assert weight is not None
    return weight


def _with_axis(x: Tensor, axis: int) -> Tensor:
    shape = x._type.shape
    return ops.reshape(x, shape=(*shape[:axis], 1, *shape[axis:]))


def _without_axis(x: Tensor, axis: int) -> Tensor:
    shape = x._type.shape
    return ops.reshape(x, shape=(*shape[:axis], *shape[axis + 1 :]))


def _thirds(packed: Tensor | None) -> tuple[Tensor | None, ...]:
    """Query's, key's and value's part of a packed weight or bias."""
    if packed is None:
        return (None, None, None)
    first, *rest = packed._type.shape
    size = first // 3
    return tuple(
        ops.slice(
            packed,
            starts=(i * size, *(0 for _ in rest)),
            sizes=(size, *rest),
            steps=(1,) * (1 + len(rest)),
        )
        for i in range(3)
    )


def _appended(x: Tensor, row: Tensor) -> Tensor:
    """[S, N, E] with ``row`` [1, 1, E] after the last place of each sequence."""
    _, batch, size = x._type.shape
    return ops.concatenate(x, ops.expand(row, shape=(1, batch, size)), axis=0)


def _split(x: Tensor, heads: int) -> Tensor:
    """[L, N, E] as [N, heads, L, E / heads]."""
    length, batch, size = x._type.shape
    parts = ops.reshape(x, shape=(length, batch, heads, size // heads))
    return ops.permute(parts, axes=(1, 2, 0, 3))


def _static(x: Tensor, batch: Dim, heads: int) -> Tensor:
    return ops.reshape(x, shape=(batch, heads, *x._type.shape[1:]))


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as numbers to add to the scores."""
    if mask._type.dtype is bool_:
        zero = ops.constant(0.0, like._type)
        return ops.where(mask, -math.inf, zero)
    return ops.cast(mask, like._type.dtype)


def _merged_mask(
    name: str, heads: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None, extra: int
) -> Tensor | None:
    """Both masks as one to add to [N, heads, L, S]; ``extra`` places at the end are open."""
    batch, count, _, _ = heads._type.shape
    merged: Tensor | None = None
    if attn_mask is not None:
        shape = attn_mask._type.shape
        require(
            len(shape) in (2, 3),
            f"{name}: attn_mask must have 2 or 3 dimensions, got {format_shape(shape)}",
        )
        merged = pad(_additive(attn_mask, heads), (0, extra))
        if len(shape) == 3:
            merged = ops.reshape(merged, shape=(batch, count, *merged._type.shape[1:]))
    if key_padding_mask is not None:
        hidden = pad(_additive(key_padding_mask, heads), (0, extra))
        hidden = ops.reshape(hidden, shape=(batch, 1, 1, hidden._type.shape[-1]))
        merged = hidden if merged is None else ops.add(merged, hidden)
    return merged


def _attended(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, drop: float
) -> tuple[Tensor, Tensor]:
    """The attended values and the weights, all [N, heads, …]."""
    batch = ((0, 1), (0, 1))
    scores = ops.dot_general(ops.mul(query, scale), key, contract=((3,), (3,)), batch=batch)
    if mask is not None:
        scores = ops.add(scores, mask)
    weights = softmax(scores, dim=-1)
    if drop > 0.0:
        weights = dropout(weights, drop)
    return ops.dot_general(weights, value, contract=((3,), (2,)), batch=batch), weights
