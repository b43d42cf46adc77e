"""``torch.accelerator``: the GPUs, for programs that name no kind of device.

In and out: as of the functions of ``flamec.cuda`` that do the work, which are the only kind here.
"""

from __future__ import annotations

from typing import Any

from flamec import cuda
from flamec.ir.types import Device

__all__ = [
    "current_accelerator", "current_device_index", "device_count", "device_index", "empty_cache",
    "is_available", "max_memory_allocated", "max_memory_reserved", "memory_allocated",
    "memory_reserved", "memory_stats", "reset_peak_memory_stats", "set_device_index", "synchronize",
]  # fmt: skip


def is_available() -> bool:
    """Whether there is a GPU that this process can use; never raises."""
    return cuda.is_available()


def current_accelerator(check_available: bool = False) -> Device | None:
    """``device("cuda")``, or None where there is no GPU."""
    return Device("cuda") if cuda.is_available() else None


def device_count() -> int:
    """The number of GPUs that this process can use."""
    return cuda.device_count()


def _require() -> None:
    if not cuda.is_available():
        raise RuntimeError("Cannot access accelerator device when none is available.")


def current_device_index() -> int:
    """The number of the GPU that ``"cuda"`` names in this thread."""
    _require()
    return cuda.current_device()


def set_device_index(device: Any, /) -> None:
    """Let ``"cuda"`` name another GPU in this thread."""
    _require()
    cuda.set_device(device)


class device_index(cuda.device):
    """In the block ``"cuda"`` names the GPU of this number; None changes nothing."""


def synchronize(device: Any = None, /) -> None:
    """Wait for all work on a GPU."""
    _require()
    cuda.synchronize(device)


def empty_cache() -> None:
    """Give memory that is kept for later back to the driver."""
    _require()
    cuda.empty_cache()


def memory_allocated(device: Any = None, /) -> int:
    """As ``cuda.memory_allocated``."""
    _require()
    return cuda.memory_allocated(device)


def max_memory_allocated(device: Any = None, /) -> int:
    """As ``cuda.max_memory_allocated``."""
    _require()
    return cuda.max_memory_allocated(device)


def memory_reserved(device: Any = None, /) -> int:
    """As ``cuda.memory_reserved``."""
    _require()
    return cuda.memory_reserved(device)


def max_memory_reserved(device: Any = None, /) -> int:
    """As ``cuda.max_memory_reserved``."""
    _require()
    return cuda.max_memory_reserved(device)


def memory_stats(device: Any = None, /) -> dict[str, int]:
    """As ``cuda.memory_stats``."""
    _require()
    return cuda.memory_stats(device)


def reset_peak_memory_stats(device: Any = None, /) -> None:
    """As ``cuda.reset_peak_memory_stats``."""
    _require()
    cuda.reset_peak_memory_stats(device)
