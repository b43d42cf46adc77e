"""PyTorch's older names of mixed precision, which are for CUDA: ``torch.cuda.amp``."""

from __future__ import annotations

from flamec import amp
from flamec.ir.types import DType, float16

__all__ = ["GradScaler", "autocast"]


class autocast(amp.autocast):
    """``flamec.autocast("cuda", ...)``."""

    def __init__(
        self, enabled: bool = True, dtype: DType = float16, cache_enabled: bool = True
    ) -> None:
        super().__init__("cuda", dtype, enabled, cache_enabled)


class GradScaler(amp.GradScaler):
    """``flamec.amp.GradScaler("cuda", ...)``."""

    def __init__(
        self,
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        super().__init__(
            "cuda", init_scale, growth_factor, backoff_factor, growth_interval, enabled
        )
