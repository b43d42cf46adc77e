"""BatchNorm1d to 3d, InstanceNorm1d to 3d and LocalResponseNorm."""

from __future__ import annotations

from typing import Any

from flamec.dispatch import write
from flamec.errors import user_location
from flamec.functional.primitives import ops
from flamec.ir.shape import format_shape
from flamec.ir.types import Device, DType, int64
from flamec.nn import functional as F
from flamec.nn import init
from flamec.nn.module import Module
from flamec.nn.parameter import Parameter, filled
from flamec.state import no_grad
from flamec.tensor import Tensor

__all__ = [
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm1d", "InstanceNorm2d",
    "InstanceNorm3d", "LocalResponseNorm",
]  # fmt: skip

DeviceLike = Device | str | None


class _Norm(Module):
    """Parameters and running statistics of one entry a channel."""

    ranks: tuple[int, ...]
    _version = 2  # with num_batches_tracked

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        device: DeviceLike,
        dtype: DType | None,
        bias: bool,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        shape = (num_features,)
        if affine:
            self.weight: Parameter | None = Parameter(filled(shape, 1.0, device, dtype))
        else:
            self.register_parameter("weight", None)
        if affine and bias:
            self.bias: Parameter | None = Parameter(filled(shape, 0.0, device, dtype))
        else:
            self.register_parameter("bias", None)
        if track_running_stats:
            self.register_buffer("running_mean", filled(shape, 0.0, device, dtype))
            self.register_buffer("running_var", filled(shape, 1.0, device, dtype))
            self.register_buffer("num_batches_tracked", filled((), 0, device, int64))
        else:
            self.register_buffer("running_mean", None)
            self.register_buffer("running_var", None)
            self.register_buffer("num_batches_tracked", None)

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batches seen."""
        if not self.track_running_stats:
            return
        with no_grad():
            for buffer, value in (
                (self.running_mean, 0.0),
                (self.running_var, 1.0),
                (self.num_batches_tracked, 0),
            ):
                write(buffer, ops.add(ops.mul(buffer, 0), value), "reset_running_stats")

    def _complete_old_state(self, state: dict[str, Any], prefix: str, version: int | None) -> None:
        key = prefix + "num_batches_tracked"  # not there before PyTorch 0.4.1
        if self.num_batches_tracked is not None and (version is None or version < self._version):
            state.setdefault(key, self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Running statistics as at the start, weight 1 and bias 0."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim not in self.ranks:
            text = " or ".join(f"{rank}D" for rank in self.ranks)
            raise ValueError(
                f"expected {text} input (got {input.ndim}D input, {format_shape(input.shape)}) "
                f"(at {user_location()})"
            )

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_Norm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-05,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: DeviceLike = None,
        dtype: DType | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        )

    def _share(self) -> Any:
        """The weight of this batch in the running statistics; None means an even average."""
        if self.num_batches_tracked is None:
            return 0.0 if self.momentum is None else self.momentum
        with no_grad():
            write(self.num_batches_tracked, ops.add(self.num_batches_tracked, 1), "batch_norm")
        if self.momentum is not None:
            return self.momentum
        return ops.div(1.0, ops.cast(self.num_batches_tracked, self.running_mean._type.dtype))

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        updates = self.training and self.track_running_stats
        share = self._share() if updates else (self.momentum or 0.0)
        by_batch = self.training or (self.running_mean is None and self.running_var is None)
        uses_running = not self.training or self.track_running_stats
        return F.batch_norm(
            input,
            self.running_mean if uses_running else None,
            self.running_var if uses_running else None,
            self.weight,
            self.bias,
            by_batch,
            share,
            self.eps,
        )


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of [N, C] or [N, C, L]."""

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of [N, C, H, W]."""

    ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """Batch normalisation of [N, C, D, H, W]."""

    ranks = (5,)


class _InstanceNorm(_Norm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-05,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: DeviceLike = None,
        dtype: DType | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        )

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        single = input.ndim == self.ranks[0]
        channels = input.shape[0 if single else 1]
        if self.affine and channels != self.num_features:
            raise ValueError(
                f"expected input's size at dim={0 if single else 1} to match num_features "
                f"({self.num_features}), but got: {channels} of {format_shape(input.shape)} "
                f"(at {user_location()})."
            )
        result = F.instance_norm(
            ops.reshape(input, shape=(1, *input._type.shape)) if single else input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            self.momentum if self.momentum is not None else 0.0,
            self.eps,
        )
        return ops.reshape(result, shape=input._type.shape) if single else result


class InstanceNorm1d(_InstanceNorm):
    """Instance normalisation of [N, C, L] or [C, L]."""

    ranks = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Instance normalisation of [N, C, H, W] or [C, H, W]."""

    ranks = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """Instance normalisation of [N, C, D, H, W] or [C, D, H, W]."""

    ranks = (4, 5)


class LocalResponseNorm(Module):
    """``local_response_norm`` over ``size`` neighbouring channels."""

    def __init__(
        self, size: int, alpha: float = 0.0001, beta: float = 0.75, k: float = 1.0
    ) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input: Tensor) -> Tensor:
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
