"""A kernel whose machine code finds no room is loaded once more, after idle memory was released."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flamec.runtime.cuda import module
from flamec.runtime.cuda.driver import CudaError
from flamec.runtime.cuda.memory import OUT_OF_MEMORY, OutOfMemoryError


class Pool:
    """Like ``DevicePool``, of a device that is full. ``rooms``: how often room was made."""

    allocated_bytes, reserved_bytes = 3 << 30, 4 << 30

    def __init__(self) -> None:
        self.rooms = 0
        properties = SimpleNamespace(name="a GPU")
        self.context = SimpleNamespace(
            index=0, properties=properties, memory_info=lambda: (0, 8 << 30)
        )

    def release_idle(self) -> None:
        self.rooms += 1


def loading(monkeypatch: pytest.MonkeyPatch, failures: list[int]) -> tuple[Pool, Any, Any]:
    """A pool, a context and a binary; loading fails with each of these codes first."""
    pool = Pool()

    def load(context: Any, binary: Any) -> str:
        if failures:
            raise CudaError("an error", failures.pop(0), "a description", "cuModuleLoadData")
        return "loaded"

    monkeypatch.setattr(module, "LoadedKernel", load)
    monkeypatch.setattr(module, "device_pool", lambda index: pool)
    monkeypatch.setattr(module, "_loaded", {})
    return pool, pool.context, SimpleNamespace(machine_code=b"code" * 256, name="kernel")


@pytest.mark.parametrize("failures", [0, 1])
def test_loaded_after_room_was_made(monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    pool, context, binary = loading(monkeypatch, [OUT_OF_MEMORY] * failures)
    assert module.load_kernel(context, binary) == "loaded"
    assert module.load_kernel(context, binary) == "loaded"
    assert pool.rooms == failures


def test_no_room_says_what_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    _, context, binary = loading(monkeypatch, [OUT_OF_MEMORY] * 2)
    with pytest.raises(OutOfMemoryError, match=r"1.00 KiB were requested, 3.00 GiB are allocated"):
        module.load_kernel(context, binary)
    assert module.load_kernel(context, binary) == "loaded"


def test_other_errors_are_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, context, binary = loading(monkeypatch, [209])
    with pytest.raises(CudaError, match="an error"):
        module.load_kernel(context, binary)
    assert pool.rooms == 0
