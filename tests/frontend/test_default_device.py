"""Where tensors are made that are given no device: set for a thread or for a block."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn
from flamec.data import DataLoader, TensorDataset
from flamec.errors import CompileError, OperationError
from flamec.ir.types import CPU, Device


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    left = flamec.get_default_device()
    flamec.set_default_device(None)
    assert left == CPU


MADE: dict[str, Any] = {
    "zeros": lambda: flamec.zeros(2),
    "full": lambda: flamec.full((2,), 3.0),
    "empty": lambda: flamec.empty(2),
    "empty_strided": lambda: flamec.empty_strided((2, 2), (1, 2)),
    "arange": lambda: flamec.arange(3),
    "linspace": lambda: flamec.linspace(0, 1, 4),
    "eye": lambda: flamec.eye(2),
    "tril_indices": lambda: flamec.tril_indices(3, 3),
    "rand": lambda: flamec.rand(3),
    "randn": lambda: flamec.randn(3),
    "randint": lambda: flamec.randint(0, 5, (3,)),
    "randperm": lambda: flamec.randperm(5),
    "normal": lambda: flamec.normal(0.0, 1.0, (3,)),
    "tensor": lambda: flamec.tensor([1.0, 2.0]),
    "tensor of a tensor": lambda: flamec.tensor(flamec.from_numpy(np.ones(2))),
    "as_tensor of an array": lambda: flamec.as_tensor(np.ones(2)),
    "scalar_tensor": lambda: flamec.scalar_tensor(1.0),
    "parameter of a module": lambda: nn.Linear(2, 3).weight,
    "buffer of a module": lambda: nn.BatchNorm1d(3).running_mean,
}


@pytest.mark.parametrize("name", MADE)
def test_factories(name: str, gpu: Device) -> None:
    flamec.manual_seed(0)
    here = MADE[name]()
    with flamec.device("cuda") as device:
        assert device == gpu == flamec.get_default_device()
        flamec.manual_seed(0)
        there = MADE[name]()
    assert (here.device, there.device) == (CPU, gpu)
    assert there.dtype is here.dtype
    if name != "empty":
        np.testing.assert_array_equal(here.detach().numpy(), there.detach().cpu().numpy())


def test_what_is_not_affected(gpu: Device) -> None:
    x, array = flamec.ones(3), np.ones(3, np.float32)
    with flamec.device(gpu):
        assert flamec.zeros(2, device="cpu").device == CPU
        assert flamec.ones_like(x).device == x.new_zeros(2).device == CPU
        assert flamec.from_numpy(array).device == flamec.as_tensor(x).device == CPU
        assert (x * array + 1).device == x[[0, 2]].device == x[np.array([1])].device == CPU
        batches = list(DataLoader(TensorDataset(x), batch_size=2, shuffle=True))
    assert [len(b[0]) for b in batches] == [2, 1] and batches[0][0].device == CPU


def test_blocks_nest_and_threads_have_their_own(gpu: Device) -> None:
    flamec.set_default_device(gpu)
    with flamec.device("cpu"):
        assert flamec.ones(1).device == CPU
        with pytest.raises(ZeroDivisionError), flamec.device(gpu):
            assert flamec.ones(1).device == gpu
            raise ZeroDivisionError
        assert flamec.ones(1).device == CPU
        found = []
        thread = threading.Thread(target=lambda: found.append(flamec.get_default_device()))
        thread.start()
        thread.join()
        assert found == [CPU]
    assert flamec.ones(1).device == gpu
    assert flamec.device(gpu) == flamec.device(0) == gpu
    flamec.set_default_device("cpu")
    assert flamec.ones(1).device == CPU


def test_devices_that_are_not_there() -> None:
    with pytest.raises(OperationError, match=r"set_default_device\(\): device cuda:7 is not"):
        flamec.set_default_device("cuda:7")
    with pytest.raises(OperationError, match=r"device cuda:7 is not"), flamec.device("cuda:7"):
        pass
    assert flamec.zeros(1).device == CPU


def test_a_compiled_function_is_traced_for_each_default(gpu: Device) -> None:
    made = flamec.compile(lambda n: flamec.full((2,), n) + flamec.arange(2.0))
    assert made(1.0).device == CPU
    with flamec.device(gpu):
        there = made(1.0)
    assert there.device == gpu and there.tolist() == [1.0, 2.0]
    assert made(1.0).device == CPU and made.stats.traces == 2
    assert {str(f).split(" (")[0] for f in made.stats.guard_failures} == {"default device"}
    like = flamec.compile(lambda x: x + 1)
    like(flamec.ones(2))
    with flamec.device(gpu):
        like(flamec.ones(2, device="cpu"))
    assert like.stats.traces == 1

    @flamec.compile
    def inside() -> flamec.Tensor:
        with flamec.device(gpu):
            return flamec.ones(3)

    assert inside().device == inside().device == gpu and inside.stats.traces == 1


@pytest.mark.parametrize(
    ("change", "mode"),
    [
        (lambda: flamec.set_default_device("cuda"), "default device"),
        (lambda: flamec.set_grad_enabled(False), "grad mode"),
        (lambda: flamec.set_default_dtype(flamec.float64), "default dtype"),
    ],
)
def test_a_compiled_function_leaves_no_mode_changed(change: Any, mode: str, gpu: Device) -> None:
    @flamec.compile
    def leaves(x: flamec.Tensor) -> flamec.Tensor:
        change()
        return x + 1

    with pytest.raises(CompileError, match=f"leaving {mode} in another state"):
        leaves(flamec.ones(2))
    assert flamec.is_grad_enabled()


def test_a_model_made_on_a_gpu_trains(gpu: Device) -> None:
    losses = []
    for device in (CPU, gpu):
        flamec.manual_seed(3)
        with flamec.device(device):
            model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
            optimizer = flamec.optim.Adam(model.parameters(), lr=0.05)
            x, y = flamec.randn(6, 4), flamec.rand(6, 1)
        for _ in range(3):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(*losses, rtol=1e-5)
