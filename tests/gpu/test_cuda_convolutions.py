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


@pytest.mark.usefixtures("float32_convolutions")
def test_training_follows_the_cpu() -> None:
    assert np.allclose(losses("cuda"), losses("cpu"), 2e-3, 2e-3)


def test_training_as_it_is_unless_told_otherwise_learns_the_same() -> None:
    """In TF32."""
    assert np.allclose(losses("cuda"), losses("cpu"), 2e-2, 2e-2)


LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "three by three": (lambda x, w: F.conv2d(x, w, padding=1), (48, 64, 3, 3)),
    "one by one": (lambda x, w: F.conv2d(x, w), (48, 64, 1, 1)),
    "strides": (lambda x, w: F.conv2d(x, w, stride=2, padding=1), (48, 64, 3, 3)),
    "groups": (lambda x, w: F.conv2d(x, w, groups=2), (48, 32, 3, 3)),
    "transposed": (lambda x, w: F.conv_transpose2d(x, w, stride=2), (64, 48, 3, 3)),
    "product": (lambda x, w: x.flatten(2).mT @ w, (64, 48)),
}
LEAST, MOST = 2.0**-17, 2.0**-8  # errors over the largest; TF32 rounds operands by up to 2**-11


def _errors(name: str, compiled: bool) -> list[float]:
    """Of a layer's result and its gradients by operands, over the largest of each."""
    layer, shape = LAYERS[name]
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(s) for s in ((4, 64, 14, 15), shape)]

    def both(*operands: Any) -> Any:
        y = layer(*operands)
        seed = flamec.arange(y.numel(), dtype=y.dtype, device=y.device).cos().reshape(y.shape)
        return y, *flamec.autograd.grad(y, operands, seed)

    def results(run: Any, dtype: Any, device: str) -> list[np.ndarray]:
        tensors = [flamec.tensor(a, dtype=dtype, device=device, requires_grad=True) for a in arrays]
        return [t.detach().cpu().double().numpy() for t in run(*tensors)]

    wanted = results(both, flamec.float64, "cpu")
    found = results(flamec.compile(both) if compiled else both, flamec.float32, "cuda")
    pairs = zip(found, wanted, strict=True)
    return [float(np.abs(f - w).max() / np.abs(w).max()) for f, w in pairs]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", LAYERS)
def test_convolutions_are_tf32_unless_told_otherwise(name: str, compiled: bool) -> None:
    """Forward and both gradients; matrix products are float32, unless they are told to be TF32."""
    for kind in ("convolution", "product"):
        switch = flamec.backends.cudnn if kind == "convolution" else flamec.backends.cuda.matmul
        before = switch.allow_tf32
        try:
            for allowed in (before, not before):
                switch.allow_tf32 = allowed
                own = (name == "product") == (kind == "product")
                rounded = allowed if own else name != "product"
                least, most = (LEAST, MOST) if rounded else (0.0, LEAST)
                for error in _errors(name, compiled):
                    assert least <= error <= most, (kind, allowed, error)
        finally:
            switch.allow_tf32 = before


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
