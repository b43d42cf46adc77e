"""Lazy layers: modules that learn a size from their first input.

Before it the layer's parameters are uninitialized; the first call (or ``load_state_dict``) gives
them their shapes and initialises them, and makes the layer an ordinary one of the class that
``cls_to_become`` names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from flamec.errors import OperationError, user_location
from flamec.nn.batch_normalization import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
)
from flamec.nn.convolution import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from flamec.nn.layers import Linear
from flamec.nn.module import Module
from flamec.nn.parameter import (
    UninitializedBuffer,
    UninitializedParameter,
    is_lazy,
    leave_trace,
)
from flamec.state import no_grad
from flamec.tensor import Tensor

Numbers = int | Sequence[int]

__all__ = [
    "LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d", "LazyConv1d", "LazyConv2d",
    "LazyConv3d", "LazyConvTranspose1d", "LazyConvTranspose2d", "LazyConvTranspose3d",
    "LazyInstanceNorm1d", "LazyInstanceNorm2d", "LazyInstanceNorm3d", "LazyLinear",
    "UninitializedBuffer", "UninitializedParameter",
]  # fmt: skip


class _LazyLayer(Module):
    """What every lazy layer does at its first call."""

    cls_to_become: ClassVar[type[Module]]
    size_name: ClassVar[str]  # the attribute that the input decides

    def _infer(self, input: Tensor) -> int:
        """The size that the input decides."""
        return int(input.shape[1])

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of parameters and buffers, once the size is known."""
        raise NotImplementedError

    def initialize_parameters(self, input: Tensor) -> None:
        """Give parameters and buffers the shapes that belong to ``input``."""
        self._materialize(self._infer(input))
        self.reset_parameters()

    def _size_in(self, name: str, source: Tensor) -> int:
        """The size, given a parameter of this name."""
        raise NotImplementedError

    def _materialize(self, size: int) -> None:
        setattr(self, self.size_name, size)
        with no_grad():
            for name, shape in self._shapes().items():
                tensor: Any = getattr(self, name)
                if is_lazy(tensor):
                    tensor.materialize(shape)

    def has_uninitialized_params(self) -> bool:
        """Whether the first call is still to come."""
        return any(map(is_lazy, (*self._parameters.values(), *self._buffers.values())))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.has_uninitialized_params():
            leave_trace(f"{self._path or type(self).__name__}, a lazy layer, learns its size")
            self.initialize_parameters(*args, **kwargs)
        self._become()
        return self(*args, **kwargs)

    def _become(self) -> None:
        for key, hook in list(self._load_state_dict_pre_hooks.items()):
            if hook is _take_shapes:
                del self._load_state_dict_pre_hooks[key]
        self.__class__ = self.cls_to_become  # type: ignore[assignment]  # not one of its own

    def reset_parameters(self) -> None:
        """As the layer that this becomes, once the shapes are known."""
        if getattr(self, self.size_name) != 0:
            super().reset_parameters()  # type: ignore[misc]  # of what it is mixed into

    def _make_lazy(self, names: Sequence[str], device: Any, dtype: Any) -> None:
        """Let the parameters and buffers of these names, where they exist, have no shape."""
        for name in names:
            if self._parameters.get(name) is not None:
                self._parameters[name] = UninitializedParameter(device=device, dtype=dtype)
            elif self._buffers.get(name) is not None:
                self._buffers[name] = UninitializedBuffer(device=device, dtype=dtype)
        self.register_load_state_dict_pre_hook(_take_shapes)


def _take_shapes(layer: Any, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Before loading: the shapes of what is to be loaded."""
    for name, tensor in {**layer._parameters, **layer._buffers}.items():
        source = state.get(prefix + name)
        if is_lazy(tensor) and isinstance(source, Tensor) and not is_lazy(source):
            tensor.materialize(tuple(source.shape))
            if name in ("weight", "running_mean"):
                setattr(layer, layer.size_name, layer._size_in(name, source))


class LazyLinear(_LazyLayer, Linear):
    """``Linear`` whose ``in_features`` is the last size of the first input."""

    cls_to_become = Linear
    size_name = "in_features"

    def __init__(
        self, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(0, 0, bias, device, dtype)
        self.out_features = out_features
        self._make_lazy(("weight", "bias"), device, dtype)

    def _infer(self, input: Tensor) -> int:
        return int(input.shape[-1])

    def _size_in(self, name: str, source: Tensor) -> int:
        return int(source.shape[1])

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.out_features, self.in_features), "bias": (self.out_features,)}


class _LazyConvolution(_LazyLayer):
    size_name = "in_channels"
    spatial: int
    transposed: bool
    kernel_size: tuple[int, ...]
    in_channels: int
    out_channels: int
    groups: int

    def _infer(self, input: Tensor) -> int:
        rank = input.ndim
        if rank not in (self.spatial + 1, self.spatial + 2):
            raise OperationError(
                f"Expected {self.spatial + 1}D (unbatched) or {self.spatial + 2}D (batched) input "
                f"to {type(self).__name__}, but got input of size: {list(input.shape)} "
                f"(at {user_location()})"
            )
        channels = int(input.shape[rank - self.spatial - 1])
        if channels % self.groups:
            raise ValueError("in_channels must be divisible by groups")
        return channels

    def _size_in(self, name: str, source: Tensor) -> int:
        return int(source.shape[0] if self.transposed else source.shape[1] * self.groups)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        first, second = self.out_channels, self.in_channels // self.groups
        if self.transposed:
            first, second = self.in_channels, self.out_channels // self.groups
        return {"weight": (first, second, *self.kernel_size), "bias": (self.out_channels,)}


class _LazyConv(_LazyConvolution):
    def __init__(
        self,
        out_channels: int,
        kernel_size: Numbers,
        stride: Numbers = 1,
        padding: Numbers = 0,
        dilation: Numbers = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            0, 0, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self.out_channels = out_channels
        self._make_lazy(("weight", "bias"), device, dtype)


class _LazyConvTranspose(_LazyConvolution):
    def __init__(
        self,
        out_channels: int,
        kernel_size: Numbers,
        stride: Numbers = 1,
        padding: Numbers = 0,
        output_padding: Numbers = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            0, 0, kernel_size, stride, padding, output_padding, groups, bias, dilation,
            padding_mode, device, dtype,
        )  # fmt: skip
        self.out_channels = out_channels
        self._make_lazy(("weight", "bias"), device, dtype)


class _LazyNorm(_LazyLayer):
    size_name = "num_features"
    num_features: int

    def __init__(
        self,
        eps: float = 1e-05,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(0, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self._make_lazy(("weight", "bias", "running_mean", "running_var"), device, dtype)

    def _size_in(self, name: str, source: Tensor) -> int:
        return int(source.shape[0])

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(
            ("weight", "bias", "running_mean", "running_var"), (self.num_features,)
        )


class _LazyInstanceNorm(_LazyNorm):
    def _infer(self, input: Tensor) -> int:
        ranks: tuple[int, ...] = self.ranks
        return int(input.shape[1 if input.ndim == max(ranks) else 0])


class LazyConv1d(_LazyConv, Conv1d):
    """``Conv1d`` whose ``in_channels`` are those of the first input."""

    cls_to_become = Conv1d


class LazyConv2d(_LazyConv, Conv2d):
    """``Conv2d`` whose ``in_channels`` are those of the first input."""

    cls_to_become = Conv2d


class LazyConv3d(_LazyConv, Conv3d):
    """``Conv3d`` whose ``in_channels`` are those of the first input."""

    cls_to_become = Conv3d


class LazyConvTranspose1d(_LazyConvTranspose, ConvTranspose1d):
    """``ConvTranspose1d`` whose ``in_channels`` are those of the first input."""

    cls_to_become = ConvTranspose1d


class LazyConvTranspose2d(_LazyConvTranspose, ConvTranspose2d):
    """``ConvTranspose2d`` whose ``in_channels`` are those of the first input."""

    cls_to_become = ConvTranspose2d


class LazyConvTranspose3d(_LazyConvTranspose, ConvTranspose3d):
    """``ConvTranspose3d`` whose ``in_channels`` are those of the first input."""

    cls_to_become = ConvTranspose3d


class LazyBatchNorm1d(_LazyNorm, BatchNorm1d):
    """``BatchNorm1d`` whose ``num_features`` are the channels of the first input."""

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(_LazyNorm, BatchNorm2d):
    """``BatchNorm2d`` whose ``num_features`` are the channels of the first input."""

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(_LazyNorm, BatchNorm3d):
    """``BatchNorm3d`` whose ``num_features`` are the channels of the first input."""

    cls_to_become = BatchNorm3d


class LazyInstanceNorm1d(_LazyInstanceNorm, InstanceNorm1d):
    """``InstanceNorm1d`` whose ``num_features`` are the channels of the first input."""

    cls_to_become = InstanceNorm1d


class LazyInstanceNorm2d(_LazyInstanceNorm, InstanceNorm2d):
    """``InstanceNorm2d`` whose ``num_features`` are the channels of the first input."""

    cls_to_become = InstanceNorm2d


class LazyInstanceNorm3d(_LazyInstanceNorm, InstanceNorm3d):
    """``InstanceNorm3d`` whose ``num_features`` are the channels of the first input."""

    cls_to_become = InstanceNorm3d
