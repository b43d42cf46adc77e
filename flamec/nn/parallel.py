"""``DataParallel`` and ``SyncBatchNorm`` on the one device that there is, and the class of what
needs several, which programs import and ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.distributed import refusal
from flamec.errors import user_location
from flamec.nn.batch_normalization import _BatchNorm
from flamec.nn.module import Module
from flamec.tensor import Tensor

__all__ = ["DataParallel", "DistributedDataParallel", "SyncBatchNorm"]


class DataParallel(Module):
    """Calls ``module``, its submodule of that name, as PyTorch's does with one device or none.

    ``device_ids``: at most one; RuntimeError for more, because batches are not divided.
    """

    def __init__(
        self,
        module: Module,
        device_ids: Sequence[Any] | None = None,
        output_device: Any = None,
        dim: int = 0,
    ) -> None:
        super().__init__()
        if device_ids is not None and len(device_ids) > 1:
            raise RuntimeError(
                f"DataParallel: flamec runs a module on one device, not on {list(device_ids)}; "
                "leave device_ids out, or give one"
            )
        self.module = module
        self.dim = dim

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.module(*inputs, **kwargs)


class DistributedDataParallel(Module):
    """What no module is, for programs that ask: RuntimeError, as there is one process."""

    def __init__(self, module: Module, *_: Any, **__: Any) -> None:
        raise refusal(type(self).__name__)


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation of [N, C, ...] by the statistics of all processes: the one that there is.

    ``process_group`` must be None. RuntimeError otherwise.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-05,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any | None = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        if process_group is not None:
            raise RuntimeError(
                "SyncBatchNorm: there is one process, and so no process_group "
                f"(at {user_location()})"
            )
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias
        )
        self.process_group = process_group

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected at least 2D input (got {input.ndim}D input)")
        if input.shape[1] == 0:
            raise ValueError("SyncBatchNorm number of input channels should be non-zero")

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Any | None = None) -> Module:
        """``module`` with each BatchNorm layer in it replaced by one of this class, which has the
        same parameters and statistics; a BatchNorm layer itself gives the new one."""
        if isinstance(module, _BatchNorm) and not isinstance(module, cls):
            made = cls(
                module.num_features,
                module.eps,
                module.momentum,
                False,
                False,
                process_group,
            )
            made.affine, made.track_running_stats = module.affine, module.track_running_stats
            made.weight, made.bias = module.weight, module.bias
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                made.register_buffer(name, getattr(module, name))
            made.training = module.training
            return made
        for name, child in module.named_children():
            module.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return module
