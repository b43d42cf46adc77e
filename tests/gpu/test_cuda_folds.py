"""Folds that their last block finishes, on a GPU: values, and the same bits in every run."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_execution import run_on
from triton_folds import CASES, check_case

import flamec
from flamec.ir.passes.plan_memory import plan_memory
from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.kernel_cache import KernelCache

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def planned(cache: KernelCache) -> CudaDevice:
    return CudaDevice(0, cache, plan_memory, jobs=8)


@pytest.mark.parametrize("name", CASES)
def test_folds(name: str, planned: CudaDevice) -> None:
    wrong = check_case(name, lambda plan, arrays, sizes: run_on(planned, plan, arrays, sizes), 5)
    assert not wrong


def test_large_sums_hundreds_of_times() -> None:
    """Of one program, in a captured graph, and in two streams side by side."""
    flamec.manual_seed(0)
    x = flamec.randn(4096, 2048, device="cuda")
    step = flamec.compile(lambda t: (t.sum(0), t.sum(), (t * t).mean()))
    wanted = [r.cpu().numpy() for r in step(x)]
    exact = x.cpu().numpy().astype(np.float64)
    np.testing.assert_allclose(wanted[0], exact.sum(0), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(wanted[1], exact.sum(), rtol=1e-4, atol=1e-1)
    np.testing.assert_allclose(wanted[2], (exact**2).mean(), rtol=1e-5)
    streams = [flamec.cuda.Stream() for _ in range(2)]
    for stream in streams:
        stream.wait_stream(flamec.cuda.current_stream())
    kept = []
    for turn in range(300):
        with flamec.cuda.stream(streams[turn % 2]):
            kept.append(step(x))
        if turn % 50 == 49:
            flamec.cuda.synchronize()
            for results in kept:
                for got, expected in zip(results, wanted, strict=True):
                    assert got.cpu().numpy().tobytes() == expected.tobytes()
            kept.clear()
