"""``attention`` and ``attention_backward``: softmax(scale * q @ k^T + mask) @ v in one operation.

The meaning is that of the products, the mask and the softmax written out; what is in one
operation is that scores and weights need no memory (Dao, Fu, Ermon, Rudra, Re 2022,
"FlashAttention", section 3). ``decomposed_attention`` and ``decomposed_backward`` are the same
written with other operations, for back ends and types without such kernels.

Attributes: ``scale``; ``lower`` and ``upper`` (sizes or None): column j of a row i takes part if
lower <= j - i <= upper; ``zero_rows``: a row in which nothing takes part gives 0, else NaN;
``orders``: for each large result the permutation in which it is given; ``stacked`` (which need
not be there; made after all derivatives): the three gradients are one array with a new dimension
in this place. A fourth operand of shape [*batch, rows, columns] is the mask: bool (True takes
part) or added to the scores. Backward, what does not take part by bounds or a bool mask has the
weight 0, whatever the logarithm of its row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.ir.batching import Operand, whole
from flamec.ir.op import Attributes, DerivativeContext, Op, OpKind, Types, register
from flamec.ir.ops.checks import check_alike, check_same_device
from flamec.ir.ops.view import inverse_permutation
from flamec.ir.shape import Dim, equal, format_shape
from flamec.ir.types import TensorType, int64

if TYPE_CHECKING:
    from flamec.ir.builder import Builder

Axes = tuple[int, ...]
Arrays = Sequence[np.ndarray]


def _check_operands(op: str, types: Types, masked: bool) -> None:
    q, k, v = types[:3]
    check_alike(op, types[:3])
    check_same_device(op, types)
    if not q.dtype.is_floating_point:
        raise TypeError(f"{op} is defined for floating-point numbers, not for {q}")
    *batch, rows, depth = q.shape if len(q.shape) >= 2 else (0, 0)
    matches = len(q.shape) >= 2 and len(q.shape) == len(k.shape) == len(v.shape)
    if matches:
        columns = k.shape[-2]
        pairs = [*zip((*batch, depth), (*k.shape[:-2], k.shape[-1]), strict=True)]
        pairs += zip((*batch, columns), v.shape[:-1], strict=True)
        if masked:
            matches = len(types[3].shape) == len(q.shape)
            pairs += zip((*batch, rows, columns), types[3].shape, strict=False)
        matches = matches and all(equal(a, b) for a, b in pairs)
    if not matches:
        shapes = " and ".join(format_shape(t.shape) for t in types[: 3 + masked])
        raise ValueError(
            f"{op}: query [*, L, E], key [*, S, E], value [*, S, V] and mask [*, L, S] do not "
            f"match: {shapes}"
        )
    if masked and not (types[3].dtype.is_floating_point or types[3].dtype.kind == "bool"):
        raise TypeError(f"{op}: a mask is bool or floating point, not {types[3]}")


def _check_attributes(op: str, attributes: Attributes, ranks: Sequence[int]) -> None:
    scale, orders = attributes["scale"], attributes["orders"]
    if not isinstance(scale, float):
        raise TypeError(f"{op}: scale must be a float, not {scale!r}")
    if len(orders) != len(ranks) or any(
        tuple(sorted(order)) != tuple(range(rank))
        for order, rank in zip(orders, ranks, strict=True)
    ):
        raise ValueError(f"{op}: orders must be permutations of {list(ranks)} axes, got {orders}")


def _permuted(type: TensorType, order: Axes) -> TensorType:
    return type.with_shape(tuple(type.shape[axis] for axis in order))


def _infer_attention(types: Types, attributes: Attributes) -> Types:
    if len(types) not in (3, 4):
        raise TypeError(f"attention takes 3 or 4 operands, {len(types)} were given")
    _check_operands("attention", types, len(types) == 4)
    q, _, v = types[:3]
    _check_attributes("attention", attributes, [len(q.shape)])
    result = q.with_shape((*q.shape[:-1], v.shape[-1]))
    total = q.with_shape(q.shape[:-1]).with_dtype(q.dtype.compute)
    return _permuted(result, attributes["orders"][0]), total


def _infer_backward(types: Types, attributes: Attributes) -> Types:
    op = "attention_backward"
    if len(types) not in (6, 7):
        raise TypeError(f"{op} takes 6 or 7 operands, {len(types)} were given")
    _check_operands(op, types, len(types) == 7)
    q, k, v = types[:3]
    g, total, delta = types[-3:]
    wide = q.with_shape(q.shape[:-1]).with_dtype(q.dtype.compute)
    for name, have, want in (
        ("the gradient", g, q.with_shape((*q.shape[:-1], v.shape[-1]))),
        ("the logarithms", total, wide),
        ("the row sums", delta, wide),
    ):
        same = len(have.shape) == len(want.shape) and all(map(equal, have.shape, want.shape))
        if have.dtype is not want.dtype or not same:
            raise ValueError(f"{op}: {name} must be {want}, not {have}")
    _check_attributes(op, attributes, [len(q.shape)] * 3)
    given = zip((q, k, v), attributes["orders"], strict=True)
    found = tuple(_permuted(type, order) for type, order in given)
    stacked = attributes.get("stacked")
    if stacked is None:
        return found
    shape = found[0].shape
    if not 0 <= stacked <= len(shape) or any(other != found[0] for other in found[1:]):
        raise ValueError(f"{op}: gradients {', '.join(map(str, found))} cannot be stacked")
    return (found[0].with_shape((*shape[:stacked], len(found), *shape[stacked:])),)


# the meaning in NumPy --------------------------------------------------------------------
def _kept_places(attributes: Attributes, rows: int, columns: int, mask: Arrays) -> list[np.ndarray]:
    """Which columns take part in which rows, by each bound and by a mask."""
    away = np.arange(columns) - np.arange(rows)[:, None]
    lower, upper = attributes["lower"], attributes["upper"]
    kept = [] if lower is None else [away >= lower]
    kept += [] if upper is None else [away <= upper]
    return kept + [m for m in mask if m.dtype == np.bool_]


def _score_array(attributes: Attributes, q: np.ndarray, k: np.ndarray, mask: Arrays) -> np.ndarray:
    scores = np.matmul(q, np.swapaxes(k, -1, -2)) * q.dtype.type(attributes["scale"])
    for m in mask:
        if m.dtype != np.bool_:
            scores = scores + m
    return np.asarray(scores, q.dtype)


def _evaluate_attention(
    attributes: Attributes, q: np.ndarray, k: np.ndarray, v: np.ndarray, *mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    scores = _score_array(attributes, q, k, mask)
    for kept in _kept_places(attributes, q.shape[-2], k.shape[-2], mask):
        scores = np.where(kept, scores, -np.inf)
    largest = scores.max(-1, keepdims=True, initial=-np.inf)
    if attributes["zero_rows"]:
        largest = np.where(np.isneginf(largest), 0, largest)
    weights = np.exp(scores - largest)
    total = weights.sum(-1, keepdims=True)
    logarithm = (largest + np.log(total))[..., 0]
    if attributes["zero_rows"]:
        total = np.where(total == 0, 1, total)
    result = np.matmul(weights / total, v)
    return result.transpose(attributes["orders"][0]), logarithm


def _evaluate_backward(
    attributes: Attributes, q: np.ndarray, k: np.ndarray, v: np.ndarray, *rest: np.ndarray
) -> tuple[np.ndarray, ...]:
    *mask, g, total, delta = rest
    scale = q.dtype.type(attributes["scale"])
    if attributes["zero_rows"]:
        total = np.where(np.isneginf(total), 0, total)
    weights = np.exp(_score_array(attributes, q, k, mask) - total[..., None])
    for kept in _kept_places(attributes, q.shape[-2], k.shape[-2], mask):
        weights = np.where(kept, weights, 0)
    inner = weights * (np.matmul(g, np.swapaxes(v, -1, -2)) - delta[..., None])
    results = (
        scale * np.matmul(inner, k),
        scale * np.matmul(np.swapaxes(inner, -1, -2), q),
        np.matmul(np.swapaxes(weights, -1, -2), g),
    )
    orders, stacked = attributes["orders"], attributes.get("stacked")
    found = tuple(x.transpose(order) for x, order in zip(results, orders, strict=True))
    return found if stacked is None else (np.stack(found, stacked),)


# written with other operations -----------------------------------------------------------
def _product(b: Builder, x: Any, y: Any, x_axis: int, y_axis: int) -> Any:
    """The matrices of a batch multiplied, contracting these of their two dimensions."""
    rank = len(b.type_of(x).shape)
    batch = tuple(range(rank - 2))
    contract = ((rank - 2 + x_axis,), (rank - 2 + y_axis,))
    return b.dot_general(x, y, contract=contract, batch=(batch, batch))


def _row(b: Builder, value: Any) -> Any:
    """One number for each row, to stand beside a matrix."""
    return b.reshape(value, shape=(*b.type_of(value).shape, 1))


def _times(b: Builder, value: Any, factor: float) -> Any:
    return b.mul(value, b.constant(factor, b.type_of(value)))


def _kept(b: Builder, attributes: Attributes, scores: TensorType, mask: Sequence[Any]) -> list[Any]:
    """Which columns take part in which rows: a condition for each bound and for a mask."""
    size: dict[str, Any] = {"dtype": int64, "device": scores.device}
    kept = []
    for name, compare in (("lower", "ge"), ("upper", "le")):
        bound: Dim | None = attributes[name]
        if bound is not None:
            row = b.iota(shape=(scores.shape[-2], 1), axis=0, **size)
            column = b.iota(shape=(1, scores.shape[-1]), axis=1, **size)
            away = b.sub(column, row)
            kept.append(getattr(b, compare)(away, b.constant(bound, b.type_of(away))))
    return kept + [m for m in mask if b.type_of(m).dtype.kind == "bool"]


def _scores(b: Builder, attributes: Attributes, q: Any, k: Any, mask: Sequence[Any]) -> Any:
    """The scores in the compute dtype, never rounded to 16 bits, with what is added to them."""
    wide = b.type_of(q).dtype.compute
    product = _product(b, b.cast(q, wide), b.cast(k, wide), 1, 1)
    scores = _times(b, product, attributes["scale"])
    for m in mask:
        if b.type_of(m).dtype.kind != "bool":
            scores = b.add(scores, b.cast(m, wide))
    return scores


def decomposed_attention(
    b: Builder, attributes: Attributes, q: Any, k: Any, v: Any, *mask: Any
) -> tuple[Any, Any]:
    """``attention`` as products, a mask and a softmax."""
    scores = _scores(b, attributes, q, k, mask)
    least = b.constant(-math.inf, b.type_of(scores))
    for kept in _kept(b, attributes, b.type_of(scores), mask):
        scores = b.where(kept, scores, least)
    axis = len(b.type_of(scores).shape) - 1
    largest = b.amax(scores, axes=(axis,))
    zero_rows = attributes["zero_rows"]
    if zero_rows:
        infinite = b.eq(largest, b.constant(-math.inf, b.type_of(largest)))
        largest = b.where(infinite, b.constant(0.0, b.type_of(largest)), largest)
    weights = b.exp(b.sub(scores, _row(b, largest)))
    total = b.sum(weights, axes=(axis,))
    logarithm = b.add(largest, b.log(total))
    if zero_rows:
        zero = b.eq(total, b.constant(0.0, b.type_of(total)))
        total = b.where(zero, b.constant(1.0, b.type_of(total)), total)
    weights = b.cast(b.div(weights, _row(b, total)), b.type_of(q).dtype)
    return _arranged(b, _product(b, weights, v, 1, 0), attributes["orders"][0]), logarithm


def _weights(
    b: Builder, attributes: Attributes, q: Any, k: Any, mask: Sequence[Any], total: Any
) -> Any:
    """What the softmax gave, from the logarithms of its sums; 0 where bounds or mask say so."""
    type = b.type_of(total)
    zero = b.constant(0.0, type)
    if attributes["zero_rows"]:
        total = b.where(b.eq(total, b.constant(-math.inf, type)), zero, total)
    weights = b.exp(b.sub(_scores(b, attributes, q, k, mask), _row(b, total)))
    for kept in _kept(b, attributes, b.type_of(weights), mask):
        weights = b.where(kept, weights, zero)
    return weights


def _backward(
    b: Builder, attributes: Attributes, q: Any, k: Any, v: Any, rest: Sequence[Any]
) -> tuple[Any, Any, Any]:
    """The weights, their gradient less its mean in each row, and the gradient of the scores."""
    *mask, g, total, delta = rest
    weights = _weights(b, attributes, q, k, mask, total)
    wide = b.type_of(weights).dtype
    seen = _product(b, b.cast(g, wide), b.cast(v, wide), 1, 1)
    apart = b.sub(seen, _row(b, delta))
    return weights, apart, b.mul(weights, apart)


def decomposed_backward(
    b: Builder, attributes: Attributes, q: Any, k: Any, v: Any, *rest: Any
) -> tuple[Any, ...]:
    """``attention_backward`` as products and elementwise operations."""
    dtype, scale = b.type_of(q).dtype, attributes["scale"]
    weights, _, inner = _backward(b, attributes, q, k, v, rest)
    inner = b.cast(_times(b, inner, scale), dtype)
    results = (
        _product(b, inner, k, 1, 0),
        _product(b, inner, q, 0, 0),
        _product(b, b.cast(weights, dtype), rest[-3], 0, 0),
    )
    return tuple(
        _arranged(b, x, order) for x, order in zip(results, attributes["orders"], strict=True)
    )


def _arranged(b: Builder, value: Any, order: Axes) -> Any:
    return value if order == tuple(range(len(order))) else b.permute(value, axes=order)


# derivatives -----------------------------------------------------------------------------
def _attention_gradient(
    b: Builder, ctx: DerivativeContext, g: Any, g_total: Any
) -> tuple[Any, ...]:
    q, k, v, *mask = ctx.inputs
    order = inverse_permutation(ctx.attributes["orders"][0])
    result, total = ctx.outputs
    if g is None:
        g = b.full_like(0.0, ctx.output_types[0])
    wide = ctx.output_types[1].dtype
    g, result = _arranged(b, g, order), _arranged(b, result, order)
    delta = b.sum(b.mul(b.cast(g, wide), b.cast(result, wide)), axes=(len(order) - 1,))
    if g_total is not None:
        delta = b.sub(delta, g_total)
    plain = tuple(range(len(order)))
    attributes = {**ctx.attributes, "orders": (plain,) * 3}
    found = b.attention_backward(q, k, v, *mask, g, total, delta, **attributes)
    if len(ctx.needs) < 4:
        return tuple(found)
    if not ctx.needs[3]:
        return (*found, None)
    _, _, inner = _backward(b, attributes, q, k, v, (*mask, g, total, delta))
    return (*found, b.cast(inner, ctx.input_types[3].dtype))


def _backward_gradient(b: Builder, ctx: DerivativeContext, *seeds: Any) -> tuple[Any, ...]:
    """From the formulas of ``decomposed_backward``; logarithms and row sums are variables."""
    q, k, v, *rest = ctx.inputs
    mask, g = rest[:-3], rest[-3]
    dtype, scale = ctx.input_types[0].dtype, ctx.attributes["scale"]
    weights, apart, inner = _backward(b, ctx.attributes, q, k, v, rest)
    wide, axis = b.type_of(weights).dtype, len(ctx.input_types[0].shape) - 1

    def product(x: Any, y: Any, x_axis: int, y_axis: int) -> Any:
        """Of matrices of which one is in the compute dtype, given in that."""
        return b.cast(_product(b, b.cast(x, dtype), b.cast(y, dtype), x_axis, y_axis), wide)

    found = [
        b.full_like(0.0, ctx.input_types[i])
        if s is None
        else _arranged(b, s, inverse_permutation(ctx.attributes["orders"][i]))
        for i, s in enumerate(seeds)
    ]
    s_q, s_k, s_v = found
    of_inner = _times(b, b.add(product(s_q, k, 1, 1), product(q, s_k, 1, 1)), scale)
    of_seen = b.mul(of_inner, weights)
    of_weights = b.add(product(g, s_v, 1, 1), b.mul(of_inner, apart))
    of_scores = b.mul(of_weights, weights)
    results = [
        _times(b, b.add(product(of_scores, k, 1, 0), product(inner, s_k, 1, 0)), scale),
        _times(b, b.add(product(of_scores, q, 0, 0), product(inner, s_q, 0, 0)), scale),
        product(of_seen, g, 0, 0),
        *[of_scores for _ in mask],
        b.add(product(of_seen, v, 1, 0), product(weights, s_v, 1, 0)),
        b.neg(b.sum(of_scores, axes=(axis,))),
        b.neg(b.sum(of_seen, axes=(axis,))),
    ]
    return tuple(
        b.cast(value, type.dtype) if need else None
        for value, type, need in zip(results, ctx.input_types, ctx.needs, strict=True)
    )


def _batch(
    b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes
) -> Any:
    orders = tuple((0, *(axis + 1 for axis in order)) for order in attributes["orders"])
    values = [whole(b, size, x) for x in operands]
    return b.apply(op, values, {**attributes, "orders": orders})


attention = register(
    Op(
        name="attention",
        kind=OpKind.ATTENTION,
        infer=_infer_attention,
        evaluate=_evaluate_attention,
        derivative=_attention_gradient,
        saves_inputs="all",
        saves_outputs="all",
        expensive=True,
        dimensions=("lower", "upper"),
        batch=_batch,
        doc="softmax(scale * q @ k^T + mask) @ v, and the logarithms of the softmax's sums.",
    )
)

attention_backward = register(
    Op(
        name="attention_backward",
        kind=OpKind.ATTENTION,
        infer=_infer_backward,
        evaluate=_evaluate_backward,
        derivative=_backward_gradient,
        saves_inputs="all",
        expensive=True,
        dimensions=("lower", "upper"),
        batch=_batch,
        doc="The gradients of q, k and v, from the gradient of attention's result, the "
        "logarithms, and the sum over each row of the gradient times the result.",
    )
)
