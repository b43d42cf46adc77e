"""Hooks on what the tape saves for derivatives: ``saved_tensors_hooks``, ``save_on_cpu``, and the
region that refuses them, ``disable_saved_tensors_hooks``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flamec.errors import unrepeatable
from flamec.pinning import pinned_copy
from flamec.state import thread
from flamec.tensor import Tensor

__all__ = ["disable_saved_tensors_hooks", "save_on_cpu", "saved_tensors_hooks", "using_hooks"]


def _require_enabled() -> None:
    if thread.saved_hooks_refused is not None:
        raise RuntimeError(thread.saved_hooks_refused)


@contextmanager
def disable_saved_tensors_hooks(error_message: str) -> Iterator[None]:
    """In the block hooks on saved tensors are a RuntimeError with this message."""
    previous, thread.saved_hooks_refused = thread.saved_hooks_refused, error_message
    try:
        if thread.saved_hooks is not None:
            _require_enabled()
        yield
    finally:
        thread.saved_hooks_refused = previous


@contextmanager
def using_hooks(pack: Callable[[Tensor], Any], unpack: Callable[[Any], Tensor]) -> Iterator[None]:
    """What the operations in the block save goes through ``pack``, and back through ``unpack``."""
    _require_enabled()
    previous, thread.saved_hooks = thread.saved_hooks, (pack, unpack)
    try:
        yield
    finally:
        thread.saved_hooks = previous


class saved_tensors_hooks:
    """``pack_hook(tensor)`` is kept in place of each tensor saved in the block.

    ``unpack_hook(packed)`` gives it back in backward. In compiled functions these hooks have no
    effect: entering the block there is a CompileError.
    """

    def __init__(
        self, pack_hook: Callable[[Tensor], Any], unpack_hook: Callable[[Any], Tensor]
    ) -> None:
        self._hooks = pack_hook, unpack_hook
        self._previous: list[Any] = []

    def __enter__(self) -> None:
        if thread.trace is not None:
            raise unrepeatable("saved_tensors_hooks")
        _require_enabled()
        self._previous.append(thread.saved_hooks)
        thread.saved_hooks = self._hooks

    def __exit__(self, *_: object) -> None:
        thread.saved_hooks = self._previous.pop()


class save_on_cpu(saved_tensors_hooks):
    """What is saved in the block waits in the CPU's memory, in pinned memory if asked for."""

    def __init__(self, pin_memory: bool = False, device_type: str = "cuda") -> None:
        def pack(tensor: Tensor) -> Any:
            on_gpu = tensor.device.type != "cpu"
            kept = pinned_copy(tensor) if pin_memory and on_gpu else tensor.to("cpu")
            return tensor.device, kept

        super().__init__(pack, lambda packed: packed[1].to(packed[0], non_blocking=pin_memory))
