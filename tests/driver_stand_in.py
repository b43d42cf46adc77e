"""NVIDIA's driver, played by a stand-in: the whole way of a call through Python, on any machine.

In: nothing but a monkeypatch. Out: one GPU whose driver notes what it is asked for and does none
of it; memory is addresses, kernels are their parameters, and no compiler runs. What is counted
above it (functions called, work submitted) is what happens on a GPU; what arrays hold is not.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from forgotten_gpus import forget_gpus

from flamec import cuda_backend
from flamec.ir.types import Device
from flamec.runtime.cuda import device, error_words, host_memory, memory, module
from flamec.runtime.cuda import driver as driver_module
from flamec.runtime.cuda import stream as streams
from flamec.runtime.cuda.compile_worker import CompiledKernel
from flamec.runtime.cuda.kernel_binary import KernelBinary
from flamec.runtime.cuda.triton_compiler import _flat_parameters

GPU = Device("cuda", 0)
_FACTS = {
    "COMPUTE_CAPABILITY_MAJOR": 9,
    "MULTIPROCESSOR_COUNT": 132,
    "MAX_REGISTERS_PER_MULTIPROCESSOR": 65536,
    "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": 232448,
    "MAX_SHARED_MEMORY_PER_MULTIPROCESSOR": 233472,
    "MAX_THREADS_PER_MULTIPROCESSOR": 2048,
    "L2_CACHE_SIZE": 50 << 20,
    "WARP_SIZE": 32,
    "MEMORY_POOLS_SUPPORTED": 1,
}
_SUCCESS = (0,)


class _Conditional:
    """The part of a conditional node's parameters in which the driver gives graphs for bodies."""

    size = 0

    @property
    def phGraph_out(self) -> list[str]:
        return [f"body {i}" for i in range(self.size)]


class DriverStandIn:
    """What ``cuda.bindings.driver`` offers; ``calls`` counts the calls that were made."""

    def __init__(self) -> None:
        from cuda.bindings import driver as real

        self._real = real
        self.calls: Counter[str] = Counter()
        self._next = 1 << 40
        self._pinned: list[Any] = []
        self.results = {
            "cuDriverGetVersion": (0, 13000),
            "cuDeviceGet": (0, 0),
            "cuDeviceGetAttribute": None,
            "cuDeviceGetName": (0, b"stand-in"),
            "cuDeviceGetPCIBusId": (0, b"0000"),
            "cuDeviceTotalMem": (0, 80 << 30),
            "cuDevicePrimaryCtxRetain": (0, "context"),
            "cuMemPoolCreate": (0, "pool"),
            "cuModuleLoadData": (0, "module"),
            "cuModuleGetFunction": (0, real.CUfunction(4096)),
            "cuFuncGetAttribute": (0, 0),
            "cuMemPoolGetAttribute": (0, 0),
            "cuStreamCreateWithPriority": (0, real.CUstream(4096)),
            "cuStreamEndCapture": (0, "graph"),
            "cuGraphInstantiate": (0, "executable"),
        }

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu") or name[2:3].islower():
            return getattr(self._real, name)
        calls, result = self.calls, self.results.get(name, _SUCCESS)

        def call(*_: Any) -> Any:
            calls[name] += 1
            return result

        call.__name__ = call.__qualname__ = name
        setattr(self, name, call)
        return call

    def cuDeviceGetAttribute(self, key: Any, _: Any) -> tuple[int, int]:
        return 0, _FACTS.get(key.name.removeprefix("CU_DEVICE_ATTRIBUTE_"), 0)

    def cuStreamGetCaptureInfo(self, _: Any) -> tuple[Any, ...]:
        """The newest node of the capture: every call is one."""
        active = self._real.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE
        return 0, active, 0, None, [self.calls.total()]

    def CUgraphNodeParams(self) -> Any:
        return SimpleNamespace(conditional=_Conditional())

    def cuGraphConditionalHandleCreate(self, *_: Any) -> tuple[int, int]:
        self.calls["cuGraphConditionalHandleCreate"] += 1
        return 0, self.calls["cuGraphConditionalHandleCreate"]

    def cuDeviceGetUuid(self, _: Any) -> tuple[int, Any]:
        return 0, self._real.CUuuid()

    def cuMemAllocFromPoolAsync(self, size: int, *_: Any) -> tuple[int, int]:
        self.calls["cuMemAllocFromPoolAsync"] += 1
        address, self._next = self._next, self._next + size
        return 0, address

    def cuMemHostAlloc(self, size: int, _: int) -> tuple[int, int]:
        self._pinned.append(ctypes.create_string_buffer(size))
        return 0, ctypes.addressof(self._pinned[-1])


def _not_compiled(sources: Any, target: str, *_: Any) -> list[CompiledKernel]:
    """Kernels without machine code."""
    found = []
    for source in sources:
        name, parameters = source.function, tuple(_flat_parameters(source, has_maps=False))
        binary = KernelBinary(name, target, repr(source).encode(), 128, 0, 32, 0, parameters)
        found.append(CompiledKernel(source, binary))
    return found


def install(monkeypatch: pytest.MonkeyPatch) -> DriverStandIn:
    """Let the process have the stand-in's GPU and no others."""
    stand_in = DriverStandIn()
    monkeypatch.setattr(driver_module, "_driver", stand_in)
    monkeypatch.setattr(driver_module, "_devices", 1)
    monkeypatch.setattr(driver_module, "_reason", None)
    monkeypatch.setattr(driver_module.thread_state, "active", None)
    monkeypatch.setattr(driver_module, "_contexts", {})
    monkeypatch.setattr(streams, "_default", {})
    monkeypatch.setattr(streams.current_streams, "of_device", streams._StreamsOfThread())
    monkeypatch.setattr(memory, "_pools", {})
    monkeypatch.setattr(module, "_loaded", {})
    monkeypatch.setattr(host_memory, "_pool", None)
    monkeypatch.setattr(error_words, "_words", error_words.ErrorWords())
    monkeypatch.setattr(device, "compile_kernels", _not_compiled)
    for name, value in (("_devices", {}), ("_tunings", {})):
        monkeypatch.setattr(cuda_backend, name, value)
    forget_gpus(monkeypatch, {})
    return stand_in
