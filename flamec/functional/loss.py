"""Elementwise losses: regression, probabilities, divergences.

Input and target are promoted to one dtype; 16-bit floats are computed in
float32. ``reduction`` is "mean", "sum" or "none". Classification by index is in
``classification_loss.py``, losses with a margin in ``margin_loss.py``.
"""

from __future__ import annotations

import math

from flamec.errors import OperationError, user_location, warn_user
from flamec.functional.activation import log_sigmoid
from flamec.functional.autocasting import FLOAT32, REFUSED, autocasts
from flamec.functional.distance import at_least
from flamec.functional.known_slope import with_slopes
from flamec.functional.loss_reduction import (
    broadcast_pair,
    chosen_reduction,
    loss_operands,
    reduced,
    same_shape,
)
from flamec.functional.primitives import narrowed, ops, require, sum_all
from flamec.fusing import fused
from flamec.ir.shape import equal, format_shape
from flamec.ir.types import DType, int64
from flamec.tensor import Tensor
from flamec.values import required, within

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "gaussian_nll_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
]


def _weighted(
    name: str, loss: Tensor, input: Tensor, weight: Tensor | None, reduction: str, dtype: DType
) -> Tensor:
    """The loss times ``weight`` of the input's shape; its mean is divided by the weights' sum."""
    if weight is None:
        return reduced(loss, reduction, dtype)
    require(same_shape(weight, input), f"{name}: weights and input must have the same size")
    wide = ops.cast(weight, loss._type.dtype)
    loss = ops.mul(loss, wide)
    if reduction == "mean":
        return narrowed(ops.div(sum_all(loss), sum_all(wide)), dtype)
    return reduced(loss, reduction, dtype)


@autocasts(cpu=FLOAT32, cuda=FLOAT32)
@fused()
def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """(input - target)²."""
    reduction = chosen_reduction("mse_loss", size_average, reduce, reduction)
    (x, y), dtype = loss_operands("mse_loss", input, target)
    x, y = broadcast_pair("mse_loss", x, y)
    difference = ops.sub(x, y)
    loss = ops.mul(difference, difference)
    return _weighted("mse_loss", loss, input, weight, reduction, dtype)


@autocasts(cpu=FLOAT32, cuda=FLOAT32)
@fused()
def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """|input - target|; of integers their own dtype, or int64 for the sum, and no mean."""
    reduction = chosen_reduction("l1_loss", size_average, reduce, reduction)
    whole = reduction != "mean" and weight is None
    (x, y), dtype = loss_operands("l1_loss", input, target, floating=not whole)
    if reduction == "sum" and not dtype.is_floating_point:
        x, y, dtype = ops.cast(x, int64), ops.cast(y, int64), int64
    x, y = broadcast_pair("l1_loss", x, y)
    return _weighted("l1_loss", ops.abs(ops.sub(x, y)), input, weight, reduction, dtype)


def _absolute(x: Tensor) -> Tensor:
    """|x| whose derivative at NaN is NaN."""
    size: Tensor = ops.mul(x, ops.sign(x))
    return size


@autocasts(cpu=FLOAT32, cuda=FLOAT32)
@fused()
def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """0.5 d² / beta where |d| < beta, else |d| - beta / 2, with d = input - target."""
    reduction = chosen_reduction("smooth_l1_loss", size_average, reduce, reduction)
    require(beta >= 0, f"smooth_l1_loss: beta must not be negative, got {beta}")
    (x, y), dtype = loss_operands("smooth_l1_loss", input, target)
    x, y = broadcast_pair("smooth_l1_loss", x, y)
    difference = ops.sub(x, y)
    if beta == 0:
        return reduced(ops.abs(difference), reduction, dtype)
    size = _absolute(difference)
    near = ops.lt(size, beta)
    inner = ops.where(near, difference, 0.0)  # the square of an infinity has no gradient
    square = ops.mul(ops.mul(inner, inner), 0.5 / beta)
    loss = ops.where(near, square, ops.sub(size, 0.5 * beta))
    return reduced(loss, reduction, dtype)


@autocasts(cpu=FLOAT32, cuda=FLOAT32)
@fused()
def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """0.5 d² where |d| < delta, else delta * (|d| - delta / 2), with d = input - target."""
    reduction = chosen_reduction("huber_loss", None, None, reduction)
    require(delta > 0, f"huber_loss: delta must be positive, got {delta}")
    (x, y), dtype = loss_operands("huber_loss", input, target)
    x, y = broadcast_pair("huber_loss", x, y)
    difference = ops.sub(x, y)
    size = _absolute(difference)
    near = ops.lt(size, delta)
    inner = ops.where(near, difference, 0.0)  # the square of an infinity has no gradient
    far = ops.mul(ops.sub(size, 0.5 * delta), delta)
    loss = ops.where(near, ops.mul(ops.mul(inner, inner), 0.5), far)
    if weight is not None:
        require(same_shape(weight, input), "huber_loss: weights and input must have the same size")
        loss = ops.mul(loss, ops.cast(weight, loss._type.dtype))
    return reduced(loss, reduction, dtype)


def _clipped_log(x: Tensor) -> Tensor:
    """max(log(x), -100), with gradient 0 at x = 0."""
    zero = ops.eq(x, 0.0)
    return ops.where(zero, -100.0, at_least(ops.log(ops.where(zero, 1.0, x)), -100.0))


@autocasts(cpu=FLOAT32, cuda=REFUSED)
def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """-(target log(input) + (1 - target) log(1 - input)); logarithms are at least -100."""
    reduction = chosen_reduction("binary_cross_entropy", size_average, reduce, reduction)
    (x, y), dtype = loss_operands("binary_cross_entropy", input, target)
    if not same_shape(x, y):
        raise OperationError(
            f"binary_cross_entropy: a target of size {format_shape(y._type.shape)} with an input "
            f"of size {format_shape(x._type.shape)}; they must have the same size "
            f"(at {user_location()})"
        )
    message = "binary_cross_entropy: all elements of input should be between 0 and 1"
    x = required(x, within(0, 1), message, waits=True)
    return _binary_cross_entropy(x, y, weight, reduction, dtype)


@fused()
def _binary_cross_entropy(
    x: Tensor, y: Tensor, weight: Tensor | None, reduction: str, dtype: DType
) -> Tensor:
    loss = with_slopes(_entropy, (_entropy_by_probability, _entropy_by_target), x, y)
    if weight is not None:
        loss = ops.mul(loss, ops.cast(weight, loss._type.dtype))
    return reduced(loss, reduction, dtype)


def _entropy(x: Tensor, y: Tensor) -> Tensor:
    missed = ops.mul(ops.sub(1.0, y), _clipped_log(ops.sub(1.0, x)))
    entropy: Tensor = ops.neg(ops.add(ops.mul(y, _clipped_log(x)), missed))
    return entropy


def _entropy_by_probability(x: Tensor, y: Tensor, _: Tensor) -> Tensor:
    """(x - y) / (x (1 - x)), with a divisor of at least 1e-12: 0 where x = y, also at 0 and 1."""
    slope: Tensor = ops.div(ops.sub(x, y), at_least(ops.mul(x, ops.sub(1.0, x)), 1e-12))
    return slope


def _entropy_by_target(x: Tensor, y: Tensor, _: Tensor) -> Tensor:
    slope: Tensor = ops.sub(_clipped_log(ops.sub(1.0, x)), _clipped_log(x))
    return slope


@autocasts(cpu=FLOAT32, cuda=FLOAT32)
@fused()
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """binary_cross_entropy(sigmoid(input), target) without rounding the sigmoid.

    ``pos_weight`` multiplies the part of the positive examples.
    """
    name = "binary_cross_entropy_with_logits"
    reduction = chosen_reduction(name, size_average, reduce, reduction)
    (x, y), dtype = loss_operands(name, input, target)
    if not same_shape(x, y):
        raise OperationError(
            f"{name}: target size ({format_shape(y._type.shape)}) must be the same as input size "
            f"({format_shape(x._type.shape)}) (at {user_location()})"
        )
    logarithm = log_sigmoid(x)
    if pos_weight is not None:
        wide = ops.cast(pos_weight, x._type.dtype)
        logarithm = ops.mul(logarithm, ops.add(ops.mul(ops.sub(wide, 1.0), y), 1.0))
    loss = ops.sub(ops.mul(ops.sub(1.0, y), x), logarithm)
    if weight is not None:
        loss = ops.mul(loss, ops.cast(weight, loss._type.dtype))
    return reduced(loss, reduction, dtype)


@autocasts(cpu=FLOAT32, cuda=FLOAT32)
@fused()
def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """target * (log(target) - input); ``log_target``: target is given as its logarithm.

    ``reduction="batchmean"`` divides the sum by the size of dimension 0.
    """
    batch_mean = reduction == "batchmean"
    reduction = chosen_reduction("kl_div", size_average, reduce, "sum" if batch_mean else reduction)
    if reduction == "mean" and size_average is None and reduce is None:
        warn_user(
            "reduction: 'mean' divides the total loss by both the batch size and the support "
            "size. 'batchmean' divides only by the batch size, and aligns with the KL div math "
            "definition."
        )
    (x, y), dtype = loss_operands("kl_div", input, target)
    if log_target:
        loss = ops.mul(ops.exp(y), ops.sub(y, x))
    else:
        zero = ops.eq(y, 0.0)
        entropy = ops.where(zero, 0.0, ops.mul(y, ops.log(ops.where(zero, 1.0, y))))
        loss = ops.sub(entropy, ops.mul(y, x))
    if batch_mean and input._type.shape:
        return narrowed(ops.div(sum_all(loss), input._type.shape[0]), dtype)
    return reduced(loss, reduction, dtype)


@autocasts(cpu=FLOAT32, cuda=FLOAT32)
@fused()
def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """exp(input) - target * input, or input - target * log(input + eps) without ``log_input``.

    ``full`` adds Stirling's approximation of log(target!) where target > 1.
    """
    reduction = chosen_reduction("poisson_nll_loss", size_average, reduce, reduction)
    (x, y), dtype = loss_operands("poisson_nll_loss", input, target, integers=True)
    if log_input:
        loss = ops.sub(ops.exp(x), ops.mul(y, x))
    else:
        loss = ops.sub(x, ops.mul(y, ops.log(ops.add(x, eps))))
    if full:
        large = ops.gt(y, 1.0)
        safe = ops.where(large, y, 1.0)
        stirling = ops.add(
            ops.sub(ops.mul(safe, ops.log(safe)), safe),
            ops.mul(ops.log(ops.mul(safe, 2.0 * math.pi)), 0.5),
        )
        loss = ops.add(loss, ops.where(large, stirling, 0.0))
    return reduced(loss, reduction, dtype)


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """0.5 (log(var) + (input - target)² / var), with var at least eps.

    var: of the input's shape, or with its last dimension 1 or missing. ``full`` adds
    log(2 pi) / 2.
    """
    reduction = chosen_reduction("gaussian_nll_loss", None, None, reduction)
    given = (input, target, var) if isinstance(var, Tensor) else (input, target)
    (x, y, *_), dtype = loss_operands("gaussian_nll_loss", *given)
    if not isinstance(var, Tensor):
        require(var >= 0, "gaussian_nll_loss: var has negative entry/entries")
        var = ops.full_like(float(var), x._type)
    else:
        message = "gaussian_nll_loss: var has negative entry/entries"
        var = required(var, lambda v: v >= 0, message, waits=True)
    variance = ops.cast(_spread_variance(var, input), x._type.dtype)
    limited = ops.add(variance, ops.detach(ops.sub(at_least(variance, eps), variance)))
    difference = ops.sub(x, y)
    ratio = ops.div(ops.mul(difference, difference), limited)
    loss = ops.mul(ops.add(ops.log(limited), ratio), 0.5)
    if full:
        loss = ops.add(loss, 0.5 * math.log(2 * math.pi))
    return reduced(loss, reduction, dtype)


def _spread_variance(var: Tensor, input: Tensor) -> Tensor:
    have, want = var._type.shape, input._type.shape
    if same_shape(var, input):
        return var
    if len(have) == len(want) - 1 and all(map(equal, have, want)):
        return ops.reshape(var, shape=(*have, 1))
    if len(have) == len(want):
        different = [h for h, w in zip(have, want, strict=True) if not equal(h, w)]
        if len(different) == 1 and different[0] == 1:
            return var
    raise OperationError(
        f"gaussian_nll_loss: var is of incorrect size {format_shape(have)} for an input of "
        f"{format_shape(want)} (at {user_location()})"
    )
