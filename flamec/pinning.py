"""Pinned memory: tensors on the CPU whose memory a GPU reads and writes by itself.

``pin_memory`` copies into the runtime's pool of pinned blocks (``runtime/cuda/host_memory.py``).
``to(device, non_blocking=True)`` from there does not wait; a block is used again only when the
transfers from it are done.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flamec import gpu as gpus
from flamec.device_array import DeviceArray
from flamec.errors import OperationError, unrepeatable, user_location
from flamec.ir.types import Device
from flamec.state import thread
from flamec.structures import map_leaves
from flamec.tensor import Tensor

__all__ = ["is_pinned", "pin_memory", "pinned", "pinned_copy"]


def _any_gpu() -> Any:
    """A GPU for whose transfers memory is pinned; the memory is pinned for all of them."""
    return gpus.gpu(Device("cuda", thread.cuda_device))


def pin_memory(self: Tensor, device: Any = None) -> Tensor:
    """A copy in pinned memory; the tensor itself if it is there. ``device`` is accepted.

    RuntimeError for a tensor on a GPU, and where there is no GPU.
    """
    if thread.trace is not None:
        raise unrepeatable("pin_memory")
    if self._type.device.type != "cpu":
        raise OperationError(
            f"cannot pin a tensor on {self._type.device}: only dense CPU tensors can be pinned "
            f"(at {user_location()})"
        )
    if not gpus.device_count():
        raise OperationError(
            "pin_memory: Cannot access accelerator device when none is available. "
            f"(at {user_location()})"
        )
    return self if is_pinned(self) else pinned_copy(self.detach())


def pinned_copy(tensor: Tensor) -> Tensor:
    """A copy of a concrete tensor, on the CPU or on a GPU, in pinned memory."""
    array: Any = tensor._array
    target: np.ndarray = _any_gpu().empty_pinned(array.shape, tensor._type.dtype)
    if isinstance(array, DeviceArray):
        gpus.gpu_of(array).read(target, array)
    else:
        np.copyto(target, array)
    return Tensor._from_array(target)


def is_pinned(self: Tensor, device: Any = None) -> bool:
    """Whether the tensor is on the CPU in pinned memory; False where there is no GPU."""
    array = self._array
    if not isinstance(array, np.ndarray) or not array.size or not gpus.device_count():
        return False
    found: bool = _any_gpu().is_pinned(array)
    return found


def pinned(batch: Any) -> Any:
    """A nested structure with its tensors pinned, and its objects that have ``pin_memory``."""
    return map_leaves(lambda x: x.pin_memory() if hasattr(x, "pin_memory") else x, batch)


TENSOR_METHODS = {"pin_memory": pin_memory, "is_pinned": is_pinned}
