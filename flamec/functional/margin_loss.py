"""Losses with a margin: hinge, ranking, cosine, triplet, multi-class and multi-label."""

from __future__ import annotations

from collections.abc import Callable

from flamec.errors import OperationError, user_location
from flamec.functional.activation import log_one_plus_exp, log_sigmoid
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.distance import at_least, pairwise_distance
from flamec.functional.linear import table_index
from flamec.functional.loss_reduction import chosen_reduction, loss_operands, reduced, same_shape
from flamec.functional.primitives import mean_over, ops, require, require_floating, widened
from flamec.fusing import fused
from flamec.ir.shape import equal, format_shape, product
from flamec.ir.types import DType, int64
from flamec.tensor import Tensor

__all__ = [
    "cosine_embedding_loss",
    "hinge_embedding_loss",
    "margin_ranking_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]


def _above_zero(x: Tensor) -> Tensor:
    """x where it is positive or NaN, else 0: unlike ``at_least``, without a gradient at 0."""
    return ops.where(ops.le(x, 0.0), 0.0, x)


@autocasts(cpu=FLOAT32, cuda=FLOAT32)
@fused()
def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """x where target is 1, max(0, margin - x) where it is -1."""
    reduction = chosen_reduction("hinge_embedding_loss", size_average, reduce, reduction)
    (x, y), dtype = loss_operands("hinge_embedding_loss", input, target)
    below = ops.where(ops.ne(y, 1.0), at_least(ops.sub(margin, x), 0.0), 0.0)
    loss = ops.add(below, ops.where(ops.ne(y, -1.0), x, 0.0))
    return reduced(loss, reduction, dtype)


@autocasts(cpu=FLOAT32, cuda=FLOAT32)
@fused()
def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """max(0, margin - target * (input1 - input2))."""
    reduction = chosen_reduction("margin_ranking_loss", size_average, reduce, reduction)
    ranks = {len(t._type.shape) for t in (input1, input2, target)}
    if len(ranks) != 1:
        shapes = ", ".join(format_shape(t._type.shape) for t in (input1, input2, target))
        raise OperationError(
            f"margin_ranking_loss: all inputs should have the same number of dimensions, got "
            f"{shapes} (at {user_location()})"
        )
    (a, b, y), dtype = loss_operands("margin_ranking_loss", input1, input2, target, integers=True)
    loss = at_least(ops.add(ops.mul(ops.neg(y), ops.sub(a, b)), margin), 0.0)
    return reduced(loss, reduction, dtype)


@autocasts(cpu=FLOAT32, cuda=FLOAT32)
@fused()
def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """1 - cos where target is 1, max(0, cos - margin) where it is -1.

    inputs: [N, D] with target [N], or [D] with target [].
    """
    name = "cosine_embedding_loss"
    reduction = chosen_reduction(name, size_average, reduce, reduction)
    rank = len(target._type.shape)
    for operand in (input1, input2):
        require(
            rank in (0, 1) and len(operand._type.shape) == rank + 1,
            f"{name}: a target of {rank} dimensions expects inputs of {rank + 1} dimensions, got "
            f"{format_shape(operand._type.shape)}",
        )
    (a, b), dtype = loss_operands(name, input1, input2, integers=True, bools=True)
    y = ops.cast(target, a._type.dtype)
    tiny = 1e-12
    squares = ops.mul(
        ops.add(ops.sum(ops.mul(a, a), axes=(rank,)), tiny),
        ops.add(ops.sum(ops.mul(b, b), axes=(rank,)), tiny),
    )
    cosine = ops.div(ops.sum(ops.mul(a, b), axes=(rank,)), ops.sqrt(squares))
    near = ops.where(ops.eq(y, 1.0), ops.sub(1.0, cosine), 0.0)
    far = ops.where(ops.eq(y, -1.0), at_least(ops.sub(cosine, margin), 0.0), 0.0)
    return reduced(ops.add(near, far), reduction, dtype)


@autocasts(cpu=FLOAT32, cuda=FLOAT32)
@fused()
def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """log(1 + exp(-target * x))."""
    reduction = chosen_reduction("soft_margin_loss", size_average, reduce, reduction)
    (x, y), dtype = loss_operands("soft_margin_loss", input, target)
    return reduced(log_one_plus_exp(ops.mul(ops.neg(y), x)), reduction, dtype)


@autocasts(cuda=FLOAT32)
@fused()
def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The sum over classes (last dimension) of the binary cross-entropy with logits, divided by
    their number in ``input``."""
    name = "multilabel_soft_margin_loss"
    reduction = chosen_reduction(name, size_average, reduce, reduction)
    (x, y), dtype = loss_operands(name, input, target)
    positive = ops.mul(y, log_sigmoid(x))
    negative = ops.mul(ops.sub(1.0, y), log_sigmoid(ops.neg(x)))
    loss = ops.neg(ops.add(positive, negative))
    if weight is not None:
        loss = ops.mul(loss, ops.cast(weight, loss._type.dtype))
    total = ops.sum(loss, axes=(len(loss._type.shape) - 1,))
    return reduced(ops.div(total, x._type.shape[-1]), reduction, dtype)


def _as_rows(name: str, input: Tensor) -> tuple[Tensor, bool]:
    """[N, C] from [N, C] or [C], a single class from [], and whether there was no batch."""
    shape = input._type.shape
    require(
        len(shape) <= 2,
        f"{name}: expected an input of 1 or 2 dimensions, got {format_shape(shape)}",
    )
    if len(shape) == 2:
        return input, False
    return ops.reshape(input, shape=(1, *(shape or (1,)))), True


def _finished_rows(loss: Tensor, single: bool, reduction: str, dtype: DType) -> Tensor:
    if single:
        loss = ops.reshape(loss, shape=())
    return reduced(loss, reduction, dtype)


@autocasts(cpu=FLOAT32, cuda=FLOAT32)
@fused()
def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The mean over classes i != y of max(0, margin - x[y] + x[i])^p, times weight[y].

    input: [N, C] or [C]; target: int64 [N], or [] of a single row; p: 1 or 2.
    """
    name = "multi_margin_loss"
    reduction = chosen_reduction(name, size_average, reduce, reduction)
    require(p in (1, 2), f"{name}: only p == 1 and p == 2 supported, got {p}")
    require_floating(name, input)
    x, _ = _as_rows(name, widened(input))
    count, classes = x._type.shape
    single = not target._type.shape
    require(
        len(target._type.shape) < 2 and equal(product(target._type.shape), count),
        f"{name}: inconsistent target size {format_shape(target._type.shape)} for an input of "
        f"{format_shape(input._type.shape)}",
    )
    places = table_index(name, ops.reshape(target, shape=(count,)), classes)
    device = x._type.device
    row = ops.iota(shape=(count,), axis=0, dtype=int64, device=device)
    column = ops.iota(shape=(1, classes), axis=1, dtype=int64, device=device)
    right = ops.reshape(ops.index(x, row, places), shape=(count, 1))
    hinge = _above_zero(ops.add(ops.sub(x, right), margin))
    if p == 2:
        hinge = ops.mul(hinge, hinge)
    if weight is not None:
        factor = ops.index(ops.cast(weight, x._type.dtype), places)
        hinge = ops.mul(hinge, ops.reshape(factor, shape=(count, 1)))
    others = ops.ne(column, ops.reshape(places, shape=(count, 1)))
    loss = mean_over(ops.where(others, hinge, 0.0), (1,), keepdim=False)
    return _finished_rows(loss, single, reduction, input._type.dtype)


@autocasts(cpu=FLOAT32, cuda=FLOAT32)
@fused()
def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The sum over labels j and other classes i of max(0, 1 - x[j] + x[i]), divided by C.

    input: [N, C] or [C]; target: int64 of that shape: labels, ended by -1.
    """
    name = "multilabel_margin_loss"
    reduction = chosen_reduction(name, size_average, reduce, reduction)
    require_floating(name, input)
    require(
        same_shape(input, target),
        f"{name}: inconsistent target size {format_shape(target._type.shape)} for an input of "
        f"{format_shape(input._type.shape)}",
    )
    x, single = _as_rows(name, widened(input))
    labels, _ = _as_rows(name, target)
    count, classes = x._type.shape
    device = x._type.device
    given = ops.cumprod(ops.cast(ops.ne(labels, -1), int64), axis=1)
    present = ops.ne(given, 0)
    places = table_index(name, ops.where(present, labels, 0), classes)
    row = ops.iota(shape=(count, classes), axis=0, dtype=int64, device=device)
    chosen = ops.reshape(ops.index(x, row, places), shape=(count, classes, 1))
    others = ops.reshape(x, shape=(count, 1, classes))
    hinge = _above_zero(ops.add(ops.sub(others, chosen), 1.0))
    column = ops.iota(shape=(1, 1, classes), axis=2, dtype=int64, device=device)
    is_label = ops.eq(ops.reshape(places, shape=(count, classes, 1)), column)
    spread = ops.reshape(present, shape=(count, classes, 1))
    named = ops.amax(ops.bitwise_and(is_label, spread), axes=(1,))
    counted = ops.bitwise_and(
        spread, ops.bitwise_not(ops.reshape(named, shape=(count, 1, classes)))
    )
    total = ops.sum(ops.where(counted, hinge, 0.0), axes=(1, 2))
    return _finished_rows(ops.div(total, classes), single, reduction, input._type.dtype)


@autocasts(cpu=FLOAT32, cuda=FLOAT32)
@fused()
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin), with d the p-distance.

    ``swap``: the negative's distance is the smaller of those to anchor and positive
    (Balntas et al. 2016).
    """
    reduction = chosen_reduction("triplet_margin_loss", size_average, reduce, reduction)
    require(margin > 0, f"triplet_margin_loss: margin must be greater than 0, got {margin}")
    return triplet_margin_with_distance_loss(
        anchor,
        positive,
        negative,
        distance_function=lambda a, b: pairwise_distance(a, b, p, eps),
        margin=margin,
        swap=swap,
        reduction=reduction,
    )


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """``triplet_margin_loss`` with any distance (default: ``pairwise_distance``)."""
    name = "triplet_margin_with_distance_loss"
    reduction = chosen_reduction(name, None, None, reduction)
    require(margin > 0, f"{name}: margin must be greater than 0, got {margin}")
    ranks = [len(t._type.shape) for t in (anchor, positive, negative)]
    require(
        len(set(ranks)) == 1,
        f"{name}: the anchor, positive, and negative tensors are expected to have the same number "
        f"of dimensions, but got: anchor {ranks[0]}D, positive {ranks[1]}D, and negative "
        f"{ranks[2]}D inputs",
    )
    distance = pairwise_distance if distance_function is None else distance_function
    to_positive = distance(anchor, positive)
    to_negative = distance(anchor, negative)
    if swap:
        to_negative = ops.minimum(to_negative, distance(positive, negative))
    dtype = to_positive._type.dtype
    difference = ops.sub(widened(to_positive), widened(to_negative))
    return reduced(at_least(ops.add(difference, margin), 0.0), reduction, dtype)
