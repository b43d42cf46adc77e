"""Convolution layers: Conv1d to Conv3d and their transposes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from flamec.functional.convolution import same_padding
from flamec.functional.primitives import require
from flamec.functional.spatial import per_dimension
from flamec.ir.types import Device, DType
from flamec.nn import functional as F
from flamec.nn import init
from flamec.nn.module import Module
from flamec.nn.parameter import Parameter, filled
from flamec.tensor import Tensor

__all__ = [
    "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d",
]  # fmt: skip

DeviceLike = Device | str | None
Numbers = int | Sequence[int]
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Convolution(Module):
    """What all of them share: settings, parameters, their initialisation."""

    spatial: int
    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Numbers,
        stride: Numbers,
        padding: str | Numbers,
        dilation: Numbers,
        output_padding: Numbers,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: DeviceLike,
        dtype: DType | None,
    ) -> None:
        super().__init__()
        name, count = type(self).__name__, self.spatial
        if groups <= 0:
            raise ValueError("groups must be a positive integer")
        if in_channels % groups:
            raise ValueError("in_channels must be divisible by groups")
        if out_channels % groups:
            raise ValueError("out_channels must be divisible by groups")
        if padding_mode not in PADDING_MODES:
            raise ValueError(
                f"padding_mode must be one of {PADDING_MODES}, but got {padding_mode!r}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = per_dimension(name, "kernel_size", kernel_size, count)
        self.stride = per_dimension(name, "stride", stride, count)
        self.dilation = per_dimension(name, "dilation", dilation, count)
        self.output_padding = per_dimension(name, "output_padding", output_padding, count)
        self.padding = self._checked_padding(name, padding)
        self.groups = groups
        self.padding_mode = padding_mode
        first, second = in_channels, out_channels // groups
        if not self.transposed:
            first, second = out_channels, in_channels // groups
        shape = (first, second, *self.kernel_size)
        self.weight = Parameter(filled(shape, 0.0, device, dtype))
        if bias:
            self.bias: Parameter | None = Parameter(filled((out_channels,), 0.0, device, dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def _checked_padding(self, name: str, padding: str | Numbers) -> str | tuple[int, ...]:
        if not isinstance(padding, str):
            return per_dimension(name, "padding", padding, self.spatial)
        if padding not in ("same", "valid"):
            raise ValueError(
                f"Invalid padding string {padding!r}, should be one of ('same', 'valid')"
            )
        if padding == "same" and any(s != 1 for s in self.stride):
            raise ValueError("padding='same' is not supported for strided convolutions")
        return padding

    def reset_parameters(self) -> None:
        """Uniform in ±1/sqrt(fan_in), weight and bias."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in = math.prod(int(d) for d in self.weight.shape[1:])
            if fan_in:
                bound = 1 / math.sqrt(fan_in)
                init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        zeros, ones = (0,) * self.spatial, (1,) * self.spatial
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        )
        if self.padding != zeros:
            text += f", padding={self.padding}"
        if self.dilation != ones:
            text += f", dilation={self.dilation}"
        if self.output_padding != zeros:
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return text


class _Conv(_Convolution):
    function: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Numbers,
        stride: Numbers = 1,
        padding: str | Numbers = 0,
        dilation: Numbers = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: DeviceLike = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, 0, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip

    @property
    def _reversed_padding_repeated_twice(self) -> list[int]:
        return list(self._borders())

    def _borders(self) -> tuple[int, ...]:
        """Low and high amounts, the last dimension first, as ``F.pad`` takes them."""
        pairs: list[tuple[int, int]] = []
        for n, (size, dilation) in enumerate(zip(self.kernel_size, self.dilation, strict=True)):
            if isinstance(self.padding, str):
                pairs.append(same_padding(size, dilation) if self.padding == "same" else (0, 0))
            else:
                pairs.append((self.padding[n], self.padding[n]))
        return tuple(amount for pair in reversed(pairs) for amount in pair)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer with another weight and bias, as subclasses call it in PyTorch."""
        function = type(self).function
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._borders(), mode=self.padding_mode)
            padding = 0
        return function(input, weight, bias, self.stride, padding, self.dilation, self.groups)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight, self.bias)


class Conv1d(_Conv):
    """``conv1d`` with weight [out_channels, in_channels / groups, k]; [N, C, L] or [C, L]."""

    spatial = 1
    function = F.conv1d


class Conv2d(_Conv):
    """``conv2d`` with weight [out_channels, in_channels / groups, kh, kw]."""

    spatial = 2
    function = F.conv2d


class Conv3d(_Conv):
    """``conv3d`` with weight [out_channels, in_channels / groups, kd, kh, kw]."""

    spatial = 3
    function = F.conv3d


class _ConvTranspose(_Convolution):
    function: Callable[..., Tensor]
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Numbers,
        stride: Numbers = 1,
        padding: Numbers = 0,
        output_padding: Numbers = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Numbers = 1,
        padding_mode: str = "zeros",
        device: DeviceLike = None,
        dtype: DType | None = None,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {type(self).__name__}')
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding,
            groups, bias, padding_mode, device, dtype,
        )  # fmt: skip

    def _extra(self, input: Tensor, output_size: Sequence[int] | None) -> tuple[int, ...]:
        """The output padding that gives ``output_size``."""
        if output_size is None:
            return self.output_padding
        count = self.spatial
        name = type(self).__name__
        wanted = tuple(int(d) for d in output_size)
        if len(wanted) == input.ndim:
            wanted = wanted[-count:]
        require(
            len(wanted) == count,
            f"{name}: for {input.ndim}D input, output_size must have {count} or {input.ndim} "
            f"elements (got {len(wanted)})",
        )
        extra = []
        assert not isinstance(self.padding, str)
        for n, size in enumerate(input.shape[-count:]):
            span = self.dilation[n] * (self.kernel_size[n] - 1) + 1
            smallest = (size - 1) * self.stride[n] - 2 * self.padding[n] + span
            largest = smallest + self.stride[n] - 1
            if not smallest <= wanted[n] <= largest:
                raise ValueError(
                    f"requested an output size of {wanted}, but valid sizes range from "
                    f"{smallest} to {largest} along dimension {n} (for an input of "
                    f"{tuple(input.shape)[-count:]})"
                )
            extra.append(wanted[n] - smallest)
        return tuple(extra)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        function = type(self).function
        return function(
            input, self.weight, self.bias, self.stride, self.padding,
            self._extra(input, output_size), self.groups, self.dilation,
        )  # fmt: skip


class ConvTranspose1d(_ConvTranspose):
    """``conv_transpose1d`` with weight [in_channels, out_channels / groups, k]."""

    spatial = 1
    function = F.conv_transpose1d


class ConvTranspose2d(_ConvTranspose):
    """``conv_transpose2d`` with weight [in_channels, out_channels / groups, kh, kw]."""

    spatial = 2
    function = F.conv_transpose2d


class ConvTranspose3d(_ConvTranspose):
    """``conv_transpose3d`` with weight [in_channels, out_channels / groups, kd, kh, kw]."""

    spatial = 3
    function = F.conv_transpose3d
