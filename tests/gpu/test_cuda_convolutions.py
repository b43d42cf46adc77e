"""Convolutions, pools and batch norm on a GPU: every form against NumPy, and a network's step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gpu_execution import run_on
from triton_convolutions import CASES, check_case

import flamec
from flamec import nn
from flamec.ir.passes.plan_memory import plan_memory
from flamec.nn import functional as F
from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.kernel_cache import KernelCache

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def planned(cache: KernelCache) -> CudaDevice:
    return CudaDevice(0, cache, plan_memory, jobs=8)


@pytest.mark.parametrize("name", CASES)
def test_forms(name: str, planned: CudaDevice) -> None:
    wrong = check_case(name, lambda plan, arrays, sizes: run_on(planned, plan, arrays, sizes))
    assert not wrong


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 7, 2, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, 2, 1, groups=4),
        nn.ConvTranspose2d(32, 8, 3, 2, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def losses(device: str) -> list[float]:
    """Of five steps from the same weights."""
    flamec.manual_seed(0)
    model = network()
    model.to(device)
    optimizer = flamec.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    random = np.random.default_rng(0)
    x = flamec.from_numpy(random.standard_normal((6, 3, 37, 41), np.float32)).to(device)
    y = flamec.from_numpy(random.integers(0, 5, 6)).to(device)

    @flamec.compile
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return [float(step(x, y)) for _ in range(5)]


def test_training_follows_the_cpu() -> None:
    assert np.allclose(losses("cuda"), losses("cpu"), 2e-3, 2e-3)


def test_gradients_of_kernels_are_the_same_every_time(planned: CudaDevice) -> None:
    """Depths that are divided among blocks are added up in order."""
    x = flamec.randn(8, 16, 33, 35, device="cuda")
    conv = nn.Conv2d(16, 8, 3, padding=1)
    conv.to("cuda")

    @flamec.compile
    def gradient(x: Any) -> Any:
        return flamec.autograd.grad(conv(x).square().sum(), [conv.weight])[0]

    first = gradient(x).cpu().numpy()
    for _ in range(5):
        assert np.array_equal(gradient(x).cpu().numpy(), first)
