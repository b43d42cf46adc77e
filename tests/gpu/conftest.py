"""What tests on a GPU share: a device, a cache of kernels, and a skip where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpu_kernels import plan_in_order

from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.cuda.driver import unavailable_reason
from flamec.runtime.kernel_cache import KernelCache


@pytest.fixture(scope="session", autouse=True)
def needs_gpu() -> None:
    reason = unavailable_reason()
    if reason is not None:
        pytest.skip(f"no GPU: {reason}")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> KernelCache:
    folder: Path = tmp_path_factory.mktemp("kernels")
    return KernelCache(folder)


@pytest.fixture(scope="session")
def device(cache: KernelCache) -> CudaDevice:
    return CudaDevice(0, cache, plan_in_order)
