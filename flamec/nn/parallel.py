"""``DataParallel`` on the one device that there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.nn.module import Module

__all__ = ["DataParallel"]


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
