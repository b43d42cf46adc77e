"""conv1d, conv2d, conv3d and their transposes: one ``convolution`` each.

Input [N, C, *spatial] or [C, *spatial]. A transposed convolution is the convolution of the
input spread by the stride with the flipped kernel (Dumoulin and Visin 2016, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.errors import OperationError, user_location
from flamec.functional.autocasting import LOWER, autocasts
from flamec.functional.linear import require_same_dtype
from flamec.functional.primitives import ops, require
from flamec.functional.promotion import require_tensor
from flamec.functional.spatial import batched, per_dimension, require_positive, unbatched
from flamec.fusing import fused
from flamec.ir.ops.convolution import exchanged
from flamec.ir.ops.view import flip
from flamec.ir.shape import Dim, SymbolicDim, equal, format_shape, less
from flamec.tensor import Tensor

__all__ = [
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
]  # fmt: skip

Numbers = int | Sequence[int]
Borders = tuple[tuple[Dim, Dim], ...]


def _checked(
    name: str, spatial: int, input: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, bool]:
    require_tensor(name, "weight", weight)
    x, single = batched(name, input, spatial)
    require_same_dtype(name, *(t for t in (input, weight, bias) if t is not None))
    want = weight._type.shape
    require(
        len(want) == spatial + 2,
        f"{name}: expected a {spatial + 2}-dimensional weight, got {format_shape(want)}",
    )
    return x, single


def _require_bias(name: str, bias: Tensor | None, channels: Dim, weight: Tensor) -> None:
    require(
        bias is None or (len(bias._type.shape) == 1 and equal(bias._type.shape[0], channels)),
        f"{name}: given weight of size {format_shape(weight._type.shape)}, expected bias to be "
        f"1-dimensional with {channels} elements, but got bias of size "
        f"{format_shape(bias._type.shape) if bias is not None else ''} instead",
    )


def _with_bias(result: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return result
    spatial = len(result._type.shape) - 2
    return ops.add(result, ops.reshape(bias, shape=(*bias._type.shape, *(1,) * spatial)))


def same_padding(size: int, dilation: int) -> tuple[int, int]:
    """Borders that keep the length at stride 1; the odd element comes last."""
    total = dilation * (size - 1)
    return total // 2, total - total // 2


def _borders(
    name: str,
    padding: str | Numbers,
    kernel: Sequence[Dim],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Borders:
    if not isinstance(padding, str):
        amounts = per_dimension(name, "padding", padding, len(kernel))
        require(all(p >= 0 for p in amounts), f"{name}: negative padding is not supported")
        return tuple((p, p) for p in amounts)
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding != "same":
        raise OperationError(
            f"{name}: invalid padding string {padding!r}, should be one of 'valid', 'same' "
            f"(at {user_location()})"
        )
    require(
        all(s == 1 for s in stride),
        f"{name}: padding='same' is not supported for strided convolutions",
    )
    return tuple(same_padding(int(k), d) for k, d in zip(kernel, dilation, strict=True))


def _convolve(
    name: str,
    spatial: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Numbers,
    padding: str | Numbers,
    dilation: Numbers,
    groups: int,
) -> Tensor:
    x, single = _checked(name, spatial, input, weight, bias)
    strides = per_dimension(name, "stride", stride, spatial)
    dilations = per_dimension(name, "dilation", dilation, spatial)
    require_positive(name, stride=strides, dilation=dilations, groups=(groups,))
    shape, kernel = x._type.shape, weight._type.shape
    borders = _borders(name, padding, kernel[2:], strides, dilations)
    require(
        equal(kernel[1] * groups, shape[1]),
        f"Given groups={groups}, weight of size {format_shape(kernel)}, expected input"
        f"{format_shape(input._type.shape)} to have {kernel[1] * groups} channels, but got "
        f"{shape[1]} channels instead",
    )
    require(
        isinstance(kernel[0], SymbolicDim) or (kernel[0] % groups == 0 and kernel[0] >= groups),
        f"Given groups={groups}, expected weight to be at least {groups} at dimension 0 and "
        f"divisible by it, but got weight of size {format_shape(kernel)} instead",
    )
    _require_bias(name, bias, kernel[0], weight)
    _require_fitting(name, shape[2:], kernel[2:], borders, dilations)
    result = ops.convolution(
        x,
        weight,
        strides=strides,
        padding=borders,
        lhs_dilation=(1,) * spatial,
        rhs_dilation=dilations,
        groups=groups,
    )
    return unbatched(_with_bias(result, bias), single)


def _require_fitting(
    name: str,
    sizes: Sequence[Dim],
    kernel: Sequence[Dim],
    borders: Borders,
    dilations: Sequence[int],
) -> None:
    padded = [n + low + high for n, (low, high) in zip(sizes, borders, strict=True)]
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    for extent, span in zip(padded, spans, strict=True):
        require(
            not less(extent, span),
            f"{name}: calculated padded input size per channel: ({' x '.join(map(str, padded))}). "
            f"Kernel size: ({' x '.join(map(str, spans))}). Kernel size can't be greater than "
            "actual input size",
        )


@autocasts(cpu=LOWER, cuda=LOWER)
@fused(kernels=("weight",))
def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: str | Numbers = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of [N, C, L] with weight [O, C / groups, k], plus bias [O].

    ``padding`` counts zeros at both ends, or is 'valid' or 'same'. Raises RuntimeError where
    channels or groups do not fit, or the kernel is larger than the padded input.
    """
    return _convolve("conv1d", 1, input, weight, bias, stride, padding, dilation, groups)


@autocasts(cpu=LOWER, cuda=LOWER)
@fused(kernels=("weight",))
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: str | Numbers = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of [N, C, H, W] with weight [O, C / groups, kh, kw], plus bias [O]."""
    return _convolve("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)


@autocasts(cpu=LOWER, cuda=LOWER)
@fused(kernels=("weight",))
def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: str | Numbers = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of [N, C, D, H, W] with weight [O, C / groups, kd, kh, kw], plus bias."""
    return _convolve("conv3d", 3, input, weight, bias, stride, padding, dilation, groups)


def _transpose(
    name: str,
    spatial: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Numbers,
    padding: Numbers,
    output_padding: Numbers,
    groups: int,
    dilation: Numbers,
) -> Tensor:
    x, single = _checked(name, spatial, input, weight, bias)
    strides = per_dimension(name, "stride", stride, spatial)
    dilations = per_dimension(name, "dilation", dilation, spatial)
    paddings = per_dimension(name, "padding", padding, spatial)
    extra = per_dimension(name, "output_padding", output_padding, spatial)
    require_positive(name, stride=strides, dilation=dilations, groups=(groups,))
    require(all(p >= 0 for p in (*paddings, *extra)), f"{name}: negative padding is not supported")
    for e, s, d in zip(extra, strides, dilations, strict=True):
        require(
            e < max(s, d),
            f"{name}: output padding must be smaller than either stride or dilation, but got "
            f"output_padding {extra}, stride {strides}, dilation {dilations}",
        )
    shape, kernel = x._type.shape, weight._type.shape
    require(
        equal(kernel[0], shape[1])
        and (isinstance(kernel[0], SymbolicDim) or kernel[0] % groups == 0),
        f"Given transposed=1, weight of size {format_shape(kernel)} and groups={groups}, expected "
        f"input{format_shape(input._type.shape)} to have {kernel[0]} channels, but got {shape[1]} "
        "channels instead",
    )
    _require_bias(name, bias, kernel[1] * groups, weight)
    borders: list[tuple[Dim, Dim]] = []
    entries = zip(shape[2:], kernel[2:], strides, dilations, paddings, extra, strict=True)
    for n, k, s, d, p, e in entries:
        border = d * (k - 1) - p
        borders.append((border, border + e))
        size = (n - 1) * s + border + border + e - d * (k - 1) + 1
        require(
            less(0, size),
            f"{name}: the result would have size {size} along a dimension of "
            f"{format_shape(shape)}; the output size is too small",
        )
    flipped = exchanged(ops, weight, groups)
    for axis in range(2, spatial + 2):
        flipped = flip(ops, flipped, axis)
    result = ops.convolution(
        x,
        flipped,
        strides=(1,) * spatial,
        padding=tuple(borders),
        lhs_dilation=strides,
        rhs_dilation=dilations,
        groups=groups,
    )
    return unbatched(_with_bias(result, bias), single)


@autocasts(cpu=LOWER, cuda=LOWER)
@fused(kernels=("weight",))
def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
) -> Tensor:
    """The transpose of ``conv1d`` as a linear map; weight: [C, O / groups, k].

    The result has length ``(L - 1) * stride - 2 * padding + dilation * (k - 1) +
    output_padding + 1``.
    """
    args: Any = (stride, padding, output_padding, groups, dilation)
    return _transpose("conv_transpose1d", 1, input, weight, bias, *args)


@autocasts(cpu=LOWER, cuda=LOWER)
@fused(kernels=("weight",))
def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
) -> Tensor:
    """The transpose of ``conv2d`` as a linear map; weight: [C, O / groups, kh, kw]."""
    args: Any = (stride, padding, output_padding, groups, dilation)
    return _transpose("conv_transpose2d", 2, input, weight, bias, *args)


@autocasts(cpu=LOWER, cuda=LOWER)
@fused(kernels=("weight",))
def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
) -> Tensor:
    """The transpose of ``conv3d`` as a linear map; weight: [C, O / groups, kd, kh, kw]."""
    args: Any = (stride, padding, output_padding, groups, dilation)
    return _transpose("conv_transpose3d", 3, input, weight, bias, *args)
