"""Numbers as they are after rounding to a few integers, for quantisation-aware training.

In: floating-point tensors. Out: the same shape and dtype; x becomes (q - zero_point) * scale with
q = round(x / scale) + zero_point, but at least quant_min and at most quant_max. The derivative is 1
where q is within these bounds, else 0 (straight through: Y. Bengio et al., arXiv:1308.3432); none
goes to scale and zero_point.
"""

from __future__ import annotations

from typing import Any

from flamec.functional.arguments import public
from flamec.functional.known_slope import with_slopes
from flamec.functional.primitives import (
    narrowed,
    require,
    require_floating,
    widened,
)
from flamec.tensor import Tensor
from flamec.values import required

__all__ = ["fake_quantize_per_channel_affine", "fake_quantize_per_tensor_affine"]


@public
def fake_quantize_per_tensor_affine(
    input: Tensor,
    scale: float | Tensor,
    zero_point: int | Tensor,
    quant_min: int,
    quant_max: int,
) -> Tensor:
    """Round to multiples of one ``scale``; ``zero_point`` is the integer that stands for 0.

    Both are numbers or tensors of one element. OperationError (a RuntimeError and a ValueError) if
    ``zero_point`` is not between the bounds, or these are in the other order.
    """
    name = "fake_quantize_per_tensor_affine"
    scale, zero_point = (v.reshape(()) if isinstance(v, Tensor) else v for v in (scale, zero_point))
    return _fake_quantized(name, input, scale, zero_point, quant_min, quant_max)


@public
def fake_quantize_per_channel_affine(
    input: Tensor, scale: Tensor, zero_point: Tensor, axis: int, quant_min: int, quant_max: int
) -> Tensor:
    """As ``fake_quantize_per_tensor_affine``, with a scale and a zero point ([input.shape[axis]])
    for each place along ``axis``. OperationError if they are of other lengths."""
    name = "fake_quantize_per_channel_affine"
    require(
        0 <= axis < input.ndim, f"{name}: axis {axis} is none of input's, of {list(input.shape)}"
    )
    length = input.shape[axis]
    for argument, values in (("scale", scale), ("zero_point", zero_point)):
        require(
            values.ndim == 1 and values.shape[0] == length,
            f"{name}: {argument} of shape {list(values.shape)} needs {length} elements, as input "
            f"of shape {list(input.shape)} has along dimension {axis}",
        )
    along = [-1 if i == axis else 1 for i in range(input.ndim)]
    scale, zero_point = scale.reshape(along), zero_point.reshape(along)
    return _fake_quantized(name, input, scale, zero_point, quant_min, quant_max)


def _fake_quantized(
    name: str, input: Tensor, scale: Any, zero_point: Any, lowest: int, highest: int
) -> Tensor:
    require_floating(name, input)
    require(lowest <= highest, f"{name}: quant_min {lowest} is above quant_max {highest}")
    outside = f"{name}: zero_point must be between quant_min {lowest} and quant_max {highest}"
    x = widened(input)
    between = isinstance(zero_point, Tensor) and zero_point.is_floating_point()
    if isinstance(zero_point, Tensor):
        zero_point = required(
            zero_point, lambda z: (z >= lowest) & (z <= highest), outside, error="RuntimeError"
        )
        zero_point = zero_point.detach().to(x.dtype)
    else:
        require(lowest <= zero_point <= highest, f"{outside}, not {zero_point}")
    if isinstance(scale, Tensor):
        scale = scale.detach().to(x.dtype)

    def quantized(x: Tensor) -> Tensor:
        scaled = x * (1 / scale)  # a zero point between integers is added before rounding
        return (scaled + zero_point).round() if between else scaled.round() + zero_point

    def value(x: Tensor) -> Tensor:
        return (quantized(x).clamp(lowest, highest) - zero_point) * scale

    def slope(x: Tensor, _: Tensor) -> Tensor:
        q = quantized(x)
        return ((q >= lowest) & (q <= highest)).to(x.dtype)

    return narrowed(with_slopes(value, (slope,), x), input.dtype)
