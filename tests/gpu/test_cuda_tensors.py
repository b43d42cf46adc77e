"""Tensors on a real GPU: captured graphs, threads, forks, several devices, other libraries."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn, optim
from flamec.nn import functional as F

pytestmark = pytest.mark.gpu


class Training:
    """Steps of a small classifier with dropout, eager or compiled, from one initial state."""

    def __init__(self, compiled: bool, optimizer: str = "Adam") -> None:
        flamec.manual_seed(5)
        self.model = nn.Sequential(
            nn.Linear(12, 40), nn.GELU(), nn.Dropout(0.25), nn.LayerNorm(40), nn.Linear(40, 3)
        ).to("cuda")
        self.optimizer = getattr(optim, optimizer)(self.model.parameters(), lr=0.01)
        self.step: Any = flamec.compile(self._step) if compiled else self._step

    def _step(self, x: flamec.Tensor, y: flamec.Tensor) -> tuple[flamec.Tensor, flamec.Tensor]:
        self.optimizer.zero_grad()
        out = self.model(x)
        loss = F.cross_entropy(out, y)
        loss.backward()
        self.optimizer.step()
        return loss, out

    def run(self, turns: int) -> list[tuple[flamec.Tensor, flamec.Tensor]]:
        """Results of all steps, held; data at new addresses and another rate at every step."""
        random = np.random.default_rng(2)
        kept = []
        flamec.manual_seed(9)
        for turn in range(turns):
            self.optimizer.param_groups[0]["lr"] = 0.02 / (1 + turn % 5)
            x = flamec.tensor(random.standard_normal((16, 12)).astype(np.float32), device="cuda")
            y = flamec.tensor(random.integers(0, 3, 16), device="cuda")
            kept.append(self.step(x, y))
        return kept

    def graphs(self) -> set[Any]:
        return set(self.step.programs[0].prepared.runner.bind(()).bound.graphs)


# captured graphs ------------------------------------------------------------------------------
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_a_captured_step_follows_the_eager_one(optimizer: str) -> None:
    """100 outputs that are held, new addresses and rates, and the same random numbers."""
    compiled, eager = Training(True, optimizer), Training(False, optimizer)
    found, wanted = compiled.run(100), eager.run(100)
    assert compiled.step.stats.traces == 1 and compiled.graphs()
    for (loss, out), (other_loss, other_out) in zip(found, wanted, strict=True):
        assert loss.item() == pytest.approx(other_loss.item(), rel=2e-3, abs=2e-4)
        np.testing.assert_allclose(out.tolist(), other_out.tolist(), 5e-2, 5e-3)
    assert len({out.data_ptr() for _, out in found}) == 100


def test_nothing_is_captured_again() -> None:
    training = Training(True)
    training.run(4)
    graphs = training.graphs()
    assert len(graphs) == 2
    training.run(30)
    assert training.graphs() == graphs


def test_random_numbers_of_a_captured_graph_go_on() -> None:
    draw = flamec.compile(lambda: (flamec.rand(1000, device="cuda"), flamec.ones(3, device="cuda")))
    flamec.manual_seed(1)
    found = [draw()[0].cpu() for _ in range(6)]
    flamec.manual_seed(1)
    for numbers in found:
        assert flamec.equal(numbers, flamec.rand(1000, device="cuda").cpu())


# streams and threads --------------------------------------------------------------------------
def test_two_streams_work_side_by_side() -> None:
    streams = [flamec.cuda.Stream() for _ in range(2)]
    step = flamec.compile(lambda t: F.gelu(t @ t / 64) + 1)
    x = flamec.randn(64, 64, device="cuda")
    wanted = x
    for _ in range(20):
        wanted = step(wanted)
    values = [x, x]
    for stream in streams:
        stream.wait_stream(flamec.cuda.current_stream())
    for _ in range(20):
        for number, stream in enumerate(streams):
            with flamec.cuda.stream(stream):
                values[number] = (
                    step(values[number]) if number else F.gelu(values[0] @ values[0] / 64) + 1
                )
    for stream, value in zip(streams, values, strict=True):
        stream.synchronize()
        np.testing.assert_allclose(value.cpu().numpy(), wanted.cpu().numpy(), 1e-3, 1e-4)


def test_threads_train_apart() -> None:
    wanted: list[float] = []
    found: dict[int, list[float]] = {}
    errors: list[BaseException] = []

    def train(number: int) -> None:
        try:
            weight = flamec.full((8, 8), 0.5, device="cuda").requires_grad_()
            optimizer = optim.SGD([weight], lr=0.1)
            x = flamec.arange(64.0, device="cuda").reshape(8, 8) / 64
            step = (
                flamec.compile(lambda: F.mse_loss(F.linear(x, weight), x))
                if number % 2
                else (lambda: F.mse_loss(F.linear(x, weight), x))
            )
            losses = []
            for _ in range(10):
                optimizer.zero_grad()
                loss = step()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            found[number] = losses
        except BaseException as error:
            errors.append(error)

    train(0)
    wanted = found.pop(0)
    threads = [threading.Thread(target=train, args=(n,)) for n in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    assert sorted(found) == list(range(1, 7))
    for losses in found.values():
        np.testing.assert_allclose(losses, wanted, 1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_is_told_and_the_parent_goes_on() -> None:
    x = flamec.ones(3, device="cuda")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            (x + 1).tolist()
        except Exception as error:
            code = 0 if "fork" in str(error) else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (x + 1).tolist() == [2, 2, 2]


# memory -----------------------------------------------------------------------------------------
@pytest.mark.alone
def test_training_goes_on_after_running_out_of_memory() -> None:
    training = Training(True)
    before = training.run(3)
    total = flamec.cuda.get_device_properties().total_memory
    with pytest.raises(flamec.cuda.OutOfMemoryError, match="were requested"):
        flamec.empty(total, device="cuda")
    with pytest.raises(flamec.cuda.OutOfMemoryError):
        flamec.ones(1, device="cuda").expand(total).clone()
    gc.collect()
    after = training.run(3)
    assert all(np.isfinite(loss.item()) for loss, _ in [*before, *after])


# several devices ----------------------------------------------------------------------------------
@pytest.mark.skipif(flamec.cuda.device_count() < 2, reason="there are fewer than two GPUs")
def test_two_devices() -> None:
    x, y = flamec.arange(5.0, device="cuda:0"), flamec.ones(5, device="cuda:1")
    assert (x.to("cuda:1") + y).tolist() == [1, 2, 3, 4, 5]
    assert (x.to("cuda:1") + y).device == flamec.device("cuda:1")
    with pytest.raises(RuntimeError, match="cuda:0 and cuda:1"):
        x + y
    with flamec.cuda.device(1):
        assert flamec.zeros(1, device="cuda").device == flamec.device("cuda:1")
    step = flamec.compile(lambda t: F.softmax(t * 2, 0))
    for device in ("cuda:0", "cuda:1", "cuda:0"):
        t = flamec.arange(4.0, device=device).requires_grad_()
        result = step(t)
        assert result.device == flamec.device(device)
        np.testing.assert_allclose(result.tolist(), F.softmax(t.cpu() * 2, 0).tolist(), 1e-5)
        (grad,) = flamec.autograd.grad(F.gelu(t).sum(), t)
        assert grad.device == flamec.device(device)
    flamec.manual_seed(3)
    assert flamec.equal(
        flamec.rand(9, device="cuda:0").cpu(), flamec.rand(9, device="cuda:1").cpu()
    )


# other libraries ----------------------------------------------------------------------------------
DTYPES = ["float32", "float16", "float64", "int64", "int32", "int8", "uint8"]


def numbers(dtype: str) -> flamec.Tensor:
    return flamec.arange(12, device="cuda").reshape(3, 4).to(getattr(flamec, dtype))


@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16", "bool"])
def test_pytorch_shares_memory_both_ways(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    ours = numbers(dtype)
    theirs = torch.from_dlpack(ours)
    assert theirs.data_ptr() == ours.data_ptr() and str(theirs.dtype) == f"torch.{dtype}"
    back = flamec.from_dlpack(theirs.t())
    assert back.data_ptr() == ours.data_ptr() and back.dtype is ours.dtype
    assert flamec.equal(back.t(), ours) and theirs.tolist() == ours.tolist()
    del ours, theirs
    gc.collect()
    assert flamec.equal(back.t(), numbers(dtype))


def test_pytorch_work_in_flight_is_waited_for() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    with torch.cuda.stream(torch.cuda.Stream()):
        x = torch.randn(2048, 2048, device="cuda")
        for _ in range(20):
            x = x @ x / 50
        ours = flamec.from_dlpack(x)
    total = ours.abs().sum().item()
    torch.cuda.synchronize()
    assert total == pytest.approx(x.abs().sum().item(), rel=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_jax_shares_memory_both_ways(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax = pytest.importorskip("jax")
    try:
        jax.devices("gpu")
    except RuntimeError:
        pytest.skip("this JAX has no GPU")
    ours = numbers(dtype)
    theirs = jax.dlpack.from_dlpack(ours)
    assert theirs.unsafe_buffer_pointer() == ours.data_ptr() and theirs.dtype == dtype
    assert theirs.astype("float32").tolist() == ours.float().tolist()
    made = jax.numpy.arange(6, dtype=dtype).reshape(2, 3) * 2
    back = flamec.from_dlpack(made)
    assert back.data_ptr() == made.unsafe_buffer_pointer()
    assert back.float().tolist() == [[0, 2, 4], [6, 8, 10]]
    del made
    gc.collect()
    assert (back + back).float().tolist() == [[0, 4, 8], [12, 16, 20]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_cupy_shares_memory_both_ways(dtype: str) -> None:
    cupy = pytest.importorskip("cupy")
    ours = numbers(dtype)
    theirs = cupy.from_dlpack(ours)
    assert theirs.data.ptr == ours.data_ptr() and theirs.dtype == dtype
    theirs += 1
    cupy.cuda.runtime.deviceSynchronize()
    assert flamec.equal(ours, numbers(dtype) + 1)
    back = flamec.from_dlpack(theirs)
    assert back.data_ptr() == ours.data_ptr()
