"""Normalisation layers: layer_norm, rms_norm, group_norm.

Mean and variance are computed in two passes, in float32 for 16-bit floats.
Variances divide by the number of elements (biased), as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flamec.errors import OperationError, user_location
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.primitives import (
    mean_over,
    narrowed,
    ops,
    require,
    require_floating,
    widened,
)
from flamec.functional.promotion import require_tensor
from flamec.fusing import fused
from flamec.ir.shape import Dim, SymbolicDim, equal, format_shape, product
from flamec.tensor import Tensor

__all__ = ["group_norm", "layer_norm", "rms_norm"]


def _trailing_axes(
    name: str, input: Tensor, normalized_shape: Sequence[Dim], *parameters: Tensor | None
) -> tuple[int, ...]:
    """The axes that ``normalized_shape`` names: the last ones of ``input``."""
    require_tensor(name, "input", input)
    require_floating(name, input)
    want = tuple(normalized_shape)
    require(len(want) > 0, f"{name}: normalized_shape must have at least one dimension")
    shape = input._type.shape
    if len(shape) < len(want) or not all(map(equal, shape[len(shape) - len(want) :], want)):
        stars = ", ".join(["*", *map(str, want)])
        raise OperationError(
            f"{name}: given normalized_shape={format_shape(want)}, expected input with shape "
            f"[{stars}], but got input of size {format_shape(shape)} (at {user_location()})"
        )
    for parameter in parameters:
        if parameter is not None and parameter._type.shape != want:
            raise OperationError(
                f"{name}: expected weight and bias of shape {format_shape(want)}, got "
                f"{format_shape(parameter._type.shape)} (at {user_location()})"
            )
    return tuple(range(len(shape) - len(want), len(shape)))


def standardized(x: Tensor, axes: Sequence[int], eps: float) -> Tensor:
    """``x`` minus its mean over ``axes``, divided by the standard deviation."""
    centered = ops.sub(x, mean_over(x, axes))
    variance = mean_over(ops.mul(centered, centered), axes)
    return ops.mul(centered, ops.rsqrt(ops.add(variance, eps)))


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    dtype = x._type.dtype
    if weight is not None:
        x = ops.mul(x, ops.cast(weight, dtype))
    if bias is not None:
        x = ops.add(x, ops.cast(bias, dtype))
    return x


@autocasts(cuda=FLOAT32)
@fused("normalized_shape")
def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[Dim],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-05,
) -> Tensor:
    """Mean 0 and variance 1 over the last dimensions, then ``* weight + bias``.

    Ba, Kiros, Hinton 2016. weight and bias have the shape ``normalized_shape``.
    """
    axes = _trailing_axes("layer_norm", input, normalized_shape, weight, bias)
    x = standardized(widened(input), axes, eps)
    return narrowed(_scaled(x, weight, bias), input._type.dtype)


@autocasts(cuda=FLOAT32)
@fused("normalized_shape")
def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[Dim],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """``input`` divided by the root of its mean square over the last dimensions, times weight.

    Zhang and Sennrich 2019. ``eps=None``: the machine epsilon of the compute dtype.
    """
    axes = _trailing_axes("rms_norm", input, normalized_shape, weight)
    x = widened(input)
    if eps is None:
        eps = float(np.finfo(x._type.dtype.numpy).eps)
    squares = mean_over(ops.mul(x, x), axes)
    x = ops.mul(x, ops.rsqrt(ops.add(squares, eps)))
    return narrowed(_scaled(x, weight, None), input._type.dtype)


@autocasts(cuda=FLOAT32)
@fused()
def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-05,
) -> Tensor:
    """Mean 0 and variance 1 over each of ``num_groups`` groups of channels (dimension 1).

    Wu and He 2018. input: [N, C, *]; weight and bias: [C].
    """
    require_tensor("group_norm", "input", input)
    require_floating("group_norm", input)
    shape = input._type.shape
    require(len(shape) >= 2, "group_norm: expected at least 2 dimensions [N, C, *]")
    channels = shape[1]
    require(num_groups > 0, f"group_norm: num_groups must be positive, got {num_groups}")
    if isinstance(channels, SymbolicDim) or channels % num_groups:
        require(
            channels % num_groups == 0,
            f"group_norm: the number of channels {channels} must be divisible by num_groups "
            f"{num_groups}",
        )
    for parameter in (weight, bias):
        require(
            parameter is None or parameter._type.shape == (channels,),
            f"group_norm: expected weight and bias of shape [{channels}]",
        )
    per_group = channels // num_groups * product(shape[2:])
    require(
        not equal(shape[0] * per_group, 1),
        f"group_norm: expected more than 1 value per channel when training, got input size "
        f"{format_shape(shape)} in {num_groups} groups",
    )
    grouped = ops.reshape(widened(input), shape=(shape[0], num_groups, per_group))
    x = ops.reshape(standardized(grouped, (2,), eps), shape=shape)

    def per_channel(parameter: Tensor | None) -> Tensor | None:
        if parameter is None:
            return None
        return ops.reshape(parameter, shape=(channels, *(1,) * (len(shape) - 2)))

    return narrowed(_scaled(x, per_channel(weight), per_channel(bias)), input._type.dtype)
