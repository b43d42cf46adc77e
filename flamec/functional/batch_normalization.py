"""batch_norm, instance_norm and local_response_norm.

While training, running statistics are updated in place; in a compiled step they are inputs
that the program writes. The variance that normalises divides by the number of elements, the
running one by one less, as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.dispatch import write
from flamec.errors import OperationError, user_location
from flamec.functional.arithmetic import div
from flamec.functional.pooling import windows_of
from flamec.functional.primitives import (
    is_found_empty,
    mean_over,
    narrowed,
    ops,
    require,
    require_floating,
    widened,
)
from flamec.functional.promotion import float_dtype, require_tensor
from flamec.functional.unary import as_floating
from flamec.fusing import fused
from flamec.ir.shape import Dim, equal, format_shape, product
from flamec.ir.types import int64
from flamec.state import no_grad
from flamec.tensor import Tensor

__all__ = ["batch_norm", "instance_norm", "local_response_norm"]


def _require_channels(name: str, channels: Dim, **parameters: Tensor | None) -> None:
    for parameter_name, parameter in parameters.items():
        if parameter is None:
            continue
        shape = parameter._type.shape
        require(
            len(shape) == 1 and equal(shape[0], channels),
            f"{name}: {parameter_name} should contain {channels} elements, not "
            f"{format_shape(shape)}",
        )


def _per_channel(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    if parameter is None:
        return None
    wide = ops.cast(parameter, x._type.dtype)
    return ops.reshape(wide, shape=(1, *parameter._type.shape, *(1,) * (len(x._type.shape) - 2)))


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    scale, shift = _per_channel(weight, x), _per_channel(bias, x)
    if scale is not None:
        x = ops.mul(x, scale)
    return x if shift is None else ops.add(x, shift)


def _statistics(x: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """``x`` minus its mean over the axes, the mean and the biased variance, both kept."""
    mean = mean_over(x, axes)
    centered = ops.sub(x, mean)
    return centered, mean, mean_over(ops.mul(centered, centered), axes)


def _one_pass(input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each channel: ``input`` minus its mean, the mean and the biased variance, all kept.

    Two sums in one pass give both, and so two sums give the derivative. They are of distances to
    an element of the channel, not to zero, so that little is cancelled (Chan, Golub, LeVeque
    1983, section 3: shifted data).
    """
    shape = input._type.shape
    axes = (0, *range(2, len(shape)))
    x = shifted = widened(input)
    start: Any = None
    if not is_found_empty(product(shape)):
        one = tuple(size if axis == 1 else 1 for axis, size in enumerate(shape))
        place = {"starts": (0,) * len(shape), "sizes": one, "steps": (1,) * len(shape)}
        start = ops.detach(widened(ops.slice(input, **place)))
        shifted = ops.sub(x, start)
    distance = mean_over(shifted, axes)
    squares = mean_over(ops.mul(shifted, shifted), axes)
    variance = ops.sub(squares, ops.mul(distance, distance))
    # rounding may leave less than zero; that is no part of the derivative
    variance = ops.sub(variance, ops.detach(ops.minimum(variance, 0.0)))
    mean = distance if start is None else ops.add(distance, start)
    return ops.sub(shifted, distance), mean, variance


def _update(running: Tensor | None, value: Tensor, momentum: Any, name: str) -> None:
    """``running = (1 - momentum) * running + momentum * value``."""
    if running is None:
        return
    with no_grad():
        value = ops.reshape(ops.detach(value), shape=running._type.shape)
        value = ops.cast(value, running._type.dtype)
        left = ops.sub(1.0, momentum) if isinstance(momentum, Tensor) else 1.0 - momentum
        kept = ops.mul(running, left)
        write(running, ops.add(kept, ops.mul(value, momentum)), name)


@fused()
def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-05,
) -> Tensor:
    """Mean 0 and variance 1 for each channel (dimension 1), then ``* weight + bias``.

    Ioffe and Szegedy 2015. ``training``: by the statistics of this batch, of which the running
    ones, if given, take the share ``momentum``; else by the running ones.
    """
    require_tensor("batch_norm", "input", input)
    require_floating("batch_norm", input)
    shape = input._type.shape
    require(len(shape) >= 2, f"batch_norm: expected at least 2D input (got {len(shape)}D input)")
    _require_channels(
        "batch_norm",
        shape[1],
        running_mean=running_mean,
        running_var=running_var,
        weight=weight,
        bias=bias,
    )
    if not training:
        x = widened(input)
        mean, variance = _per_channel(running_mean, x), _per_channel(running_var, x)
        if mean is None or variance is None:
            raise OperationError(
                "batch_norm: expected running_mean and running_var to be defined when "
                f"training=False (at {user_location()})"
            )
        centered = ops.sub(x, mean)
    else:
        axes = (0, *range(2, len(shape)))
        count = product(shape[a] for a in axes)
        require(
            not equal(count, 1),
            "Expected more than 1 value per channel when training, got input size "
            f"{format_shape(shape)}",
        )
        empty = is_found_empty(product(shape))
        centered, mean, variance = _one_pass(input)
        if empty:  # a batch of none says nothing, and its weight's gradient is 0
            variance = ops.full_like(0.0, variance._type)
        else:
            _update(running_mean, mean, momentum, "batch_norm")
            if running_var is not None:
                _update(running_var, _unbiased(variance, count), momentum, "batch_norm")
    scale, shift = ops.rsqrt(ops.add(variance, eps)), _per_channel(bias, variance)
    factor = _per_channel(weight, variance)
    y = ops.mul(centered, scale if factor is None else ops.mul(scale, factor))
    return narrowed(y if shift is None else ops.add(y, shift), input._type.dtype)


def _unbiased(variance: Tensor, count: Dim) -> Tensor:
    return ops.div(ops.mul(ops.detach(variance), count), count - 1)


@fused()
def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-05,
) -> Tensor:
    """Mean 0 and variance 1 for each channel of each instance, then ``* weight + bias``.

    Ulyanov, Vedaldi, Lempitsky 2016. Running statistics, if given, are updated by the means
    over the batch; they are used instead unless ``use_input_stats``.
    """
    require_tensor("instance_norm", "input", input)
    require_floating("instance_norm", input)
    shape = input._type.shape
    require(len(shape) >= 2, f"instance_norm: expected at least 2D input (got {len(shape)}D)")
    _require_channels(
        "instance_norm",
        shape[1],
        running_mean=running_mean,
        running_var=running_var,
        weight=weight,
        bias=bias,
    )
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    axes = tuple(range(2, len(shape)))
    count = product(shape[2:])
    require(
        not equal(count, 1),
        f"Expected more than 1 spatial element when training, got input size {format_shape(shape)}",
    )
    x = widened(input)
    centered, mean, variance = _statistics(x, axes)
    if running_mean is not None:
        _update(running_mean, mean_over(mean, (0,)), momentum, "instance_norm")
    if running_var is not None:
        spread = mean_over(_unbiased(variance, count), (0,))
        _update(running_var, spread, momentum, "instance_norm")
    normal = ops.mul(centered, ops.rsqrt(ops.add(variance, eps)))
    return narrowed(_affine(normal, weight, bias), input._type.dtype)


@fused()
def local_response_norm(
    input: Tensor, size: int, alpha: float = 0.0001, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """``input / (k + alpha * mean of squares over ``size`` neighbouring channels) ** beta``.

    Krizhevsky, Sutskever, Hinton 2012, section 3.3 (with the mean, as in PyTorch). Of int64 in the
    default dtype, with means that are rounded towards zero.
    """
    require_tensor("local_response_norm", "input", input)
    if input._type.dtype is not int64:
        require_floating("local_response_norm", input)
    shape = input._type.shape
    require(
        len(shape) >= 3,
        f"local_response_norm: expected 3D or higher dimensionality input (got {len(shape)} "
        "dimensions)",
    )
    x = widened(input)
    channels_last = ops.permute(ops.mul(x, x), axes=(0, *range(2, len(shape)), 1))
    view = windows_of(channels_last, 0.0, (size,), (1,), (size // 2,), (1,), (shape[1],))
    total = ops.sum(view, axes=(len(shape),))
    total = ops.permute(total, axes=(0, len(shape) - 1, *range(1, len(shape) - 1)))
    if not input._type.dtype.is_floating_point:
        x = as_floating("local_response_norm", input)
        mean = as_floating("local_response_norm", div(total, size, rounding_mode="trunc"))
    else:
        mean = ops.div(total, size)
    scale = ops.add(ops.mul(mean, alpha), k)
    return narrowed(ops.div(x, ops.pow(scale, beta)), float_dtype(input._type.dtype))
