"""Batch normalisation, as it is in evaluation, folded into the layer before it.

(W x + b - mean) * weight / sqrt(variance + eps) + bias is a layer with other weights.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, TypeVar

from flamec.functional.creation import ones_like, zeros_like
from flamec.nn.module import Module
from flamec.nn.parameter import Parameter
from flamec.tensor import Tensor

__all__ = [
    "fuse_conv_bn_eval",
    "fuse_conv_bn_weights",
    "fuse_linear_bn_eval",
    "fuse_linear_bn_weights",
]

M = TypeVar("M", bound=Module)


def _fused_weights(
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    scale: Tensor | None,
    shift: Tensor | None,
    axis: int,
) -> tuple[Parameter, Parameter]:
    """Weights and biases of the layer whose outputs are dimension ``axis`` of its weights."""
    before: Tensor = zeros_like(mean) if bias is None else bias
    factor = (ones_like(mean) if scale is None else scale) * (variance + eps).rsqrt()
    along = [1] * weight.ndim
    along[axis] = -1
    fused = (weight * factor.reshape(along)).to(weight.dtype)
    moved = (before - mean) * factor + (0.0 if shift is None else shift)
    moved = moved.to((weight if bias is None else before).dtype)
    return (
        Parameter(fused.detach(), weight.requires_grad),
        Parameter(moved.detach(), before.requires_grad),
    )


def fuse_conv_bn_weights(
    conv_w: Tensor,
    conv_b: Tensor | None,
    bn_rm: Tensor,
    bn_rv: Tensor,
    bn_eps: float,
    bn_w: Tensor | None,
    bn_b: Tensor | None,
    transpose: bool = False,
) -> tuple[Parameter, Parameter]:
    """Kernels and biases of a convolution with what follows; ``transpose``: of a transposed one."""
    return _fused_weights(conv_w, conv_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b, int(transpose))


def fuse_linear_bn_weights(
    linear_w: Tensor,
    linear_b: Tensor | None,
    bn_rm: Tensor,
    bn_rv: Tensor,
    bn_eps: float,
    bn_w: Tensor,
    bn_b: Tensor,
) -> tuple[Parameter, Parameter]:
    """Weights and biases of a linear layer with what follows."""
    return _fused_weights(linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b, 0)


def fuse_conv_bn_eval(conv: M, bn: Module, transpose: bool = False) -> M:
    """A copy of a convolution that gives what the batch norm makes of its results.

    AssertionError unless both are in evaluation mode and the norm has running statistics.
    """
    return _fused(conv, bn, fuse_conv_bn_weights, transpose)


def fuse_linear_bn_eval(linear: M, bn: Module) -> M:
    """The same for a linear layer of as many outputs as the norm has features (or that has one)."""
    outputs, features = linear.weight.shape[0], bn.num_features
    if features not in (outputs, 1):
        raise AssertionError(
            "To fuse, linear.out_features == bn.num_features or bn.num_features == 1, got "
            f"linear.out_features={outputs} and bn.num_features={features}"
        )
    return _fused(linear, bn, fuse_linear_bn_weights)


def _fused(layer: M, bn: Module, weights: Any, *options: Any) -> M:
    if layer.training or bn.training:
        raise AssertionError("Fusion only for eval!")
    if bn.running_mean is None or bn.running_var is None:
        raise AssertionError("bn.running_mean and bn.running_var must not be None")
    made = deepcopy(layer)
    made.weight, made.bias = weights(
        layer.weight, layer.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias,
        *options,
    )  # fmt: skip
    return made
