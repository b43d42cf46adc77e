"""Pooling layers: MaxPool, AvgPool, LPPool, MaxUnpool and the adaptive ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flamec.functional.spatial import per_dimension
from flamec.nn import functional as F
from flamec.nn.module import Module
from flamec.tensor import Tensor

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "FractionalMaxPool2d",
    "FractionalMaxPool3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
]  # fmt: skip

Numbers = int | Sequence[int]


class _MaxPool(Module):
    function: Callable[..., Any]

    def __init__(
        self,
        kernel_size: Numbers,
        stride: Numbers | None = None,
        padding: Numbers = 0,
        dilation: Numbers = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride if stride is not None else kernel_size
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Any:
        return type(self).function(
            input, self.kernel_size, self.stride, self.padding, self.dilation,
            ceil_mode=self.ceil_mode, return_indices=self.return_indices,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """``max_pool1d``: the largest element of each window of [N, C, L]."""

    function = F.max_pool1d


class MaxPool2d(_MaxPool):
    """``max_pool2d``: the largest element of each window of [N, C, H, W]."""

    function = F.max_pool2d


class MaxPool3d(_MaxPool):
    """``max_pool3d``: the largest element of each window of [N, C, D, H, W]."""

    function = F.max_pool3d


class AvgPool1d(Module):
    """``avg_pool1d``: the mean of each window of [N, C, L]."""

    def __init__(
        self,
        kernel_size: Numbers,
        stride: Numbers | None = None,
        padding: Numbers = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = per_dimension("AvgPool1d", "kernel_size", kernel_size, 1)
        steps = stride if stride is not None else kernel_size
        self.stride = per_dimension("AvgPool1d", "stride", steps, 1)
        self.padding = per_dimension("AvgPool1d", "padding", padding, 1)
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad

    def forward(self, input: Tensor) -> Tensor:
        return F.avg_pool1d(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode,
            self.count_include_pad,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _AvgPool(Module):
    function: Callable[..., Tensor]

    def __init__(
        self,
        kernel_size: Numbers,
        stride: Numbers | None = None,
        padding: Numbers = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride if stride is not None else kernel_size
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: Tensor) -> Tensor:
        return type(self).function(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode,
            self.count_include_pad, self.divisor_override,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(_AvgPool):
    """``avg_pool2d``: the mean of each window of [N, C, H, W]."""

    function = F.avg_pool2d


class AvgPool3d(_AvgPool):
    """``avg_pool3d``: the mean of each window of [N, C, D, H, W]."""

    function = F.avg_pool3d


class _LPPool(Module):
    function: Callable[..., Tensor]

    def __init__(
        self,
        norm_type: float,
        kernel_size: Numbers,
        stride: Numbers | None = None,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.norm_type = norm_type
        self.kernel_size = kernel_size
        self.stride = stride
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        return type(self).function(
            input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode
        )

    def extra_repr(self) -> str:
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )


class LPPool1d(_LPPool):
    """``lp_pool1d``: the p-norm of each window of [N, C, L]."""

    function = F.lp_pool1d


class LPPool2d(_LPPool):
    """``lp_pool2d``: the p-norm of each window of [N, C, H, W]."""

    function = F.lp_pool2d


class LPPool3d(_LPPool):
    """``lp_pool3d``: the p-norm of each window of [N, C, D, H, W]."""

    function = F.lp_pool3d


class _MaxUnpool(Module):
    function: Callable[..., Tensor]
    spatial: int

    def __init__(
        self, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.kernel_size = per_dimension(name, "kernel_size", kernel_size, self.spatial)
        steps = stride if stride is not None else kernel_size
        self.stride = per_dimension(name, "stride", steps, self.spatial)
        self.padding = per_dimension(name, "padding", padding, self.spatial)

    def forward(
        self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None
    ) -> Tensor:
        return type(self).function(
            input, indices, self.kernel_size, self.stride, self.padding, output_size
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpool):
    """``max_unpool1d``: elements back where ``MaxPool1d`` found them."""

    function = F.max_unpool1d
    spatial = 1


class MaxUnpool2d(_MaxUnpool):
    """``max_unpool2d``: elements back where ``MaxPool2d`` found them."""

    function = F.max_unpool2d
    spatial = 2


class MaxUnpool3d(_MaxUnpool):
    """``max_unpool3d``: elements back where ``MaxPool3d`` found them."""

    function = F.max_unpool3d
    spatial = 3


class _AdaptiveAvgPool(Module):
    function: Callable[..., Tensor]

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        return type(self).function(input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """``adaptive_avg_pool1d``: means to a given length."""

    function = F.adaptive_avg_pool1d


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """``adaptive_avg_pool2d``: means to a given height and width."""

    function = F.adaptive_avg_pool2d


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """``adaptive_avg_pool3d``: means to a given depth, height and width."""

    function = F.adaptive_avg_pool3d


class _AdaptiveMaxPool(Module):
    function: Callable[..., Any]

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__()
        self.output_size = output_size
        self.return_indices = return_indices

    def forward(self, input: Tensor) -> Any:
        return type(self).function(input, self.output_size, self.return_indices)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """``adaptive_max_pool1d``: the largest, to a given length."""

    function = F.adaptive_max_pool1d


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """``adaptive_max_pool2d``: the largest, to a given height and width."""

    function = F.adaptive_max_pool2d


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """``adaptive_max_pool3d``: the largest, to a given depth, height and width."""

    function = F.adaptive_max_pool3d


class _FractionalMaxPool(Module):
    function: Callable[..., Any]
    spatial: int

    def __init__(
        self,
        kernel_size: Numbers,
        output_size: Numbers | None = None,
        output_ratio: Any = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.kernel_size = per_dimension(name, "kernel_size", kernel_size, self.spatial)
        self.return_indices = return_indices
        if (output_size is None) == (output_ratio is None):
            raise ValueError(f"{name} requires either output_size or output_ratio, and not both")
        self.output_size = output_size
        self.output_ratio = output_ratio
        self.register_buffer("_random_samples", _random_samples)

    def forward(self, input: Tensor) -> Any:
        return type(self).function(
            input, self.kernel_size, self.output_size, self.output_ratio, self.return_indices,
            self._random_samples,
        )  # fmt: skip


class FractionalMaxPool2d(_FractionalMaxPool):
    """``fractional_max_pool2d``: the largest of windows at random places of [N, C, H, W]."""

    function = F.fractional_max_pool2d
    spatial = 2


class FractionalMaxPool3d(_FractionalMaxPool):
    """``fractional_max_pool3d``: the largest of windows at random places of [N, C, D, H, W]."""

    function = F.fractional_max_pool3d
    spatial = 3
