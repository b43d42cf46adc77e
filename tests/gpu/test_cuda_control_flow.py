"""Branches and loops that a value decides, on a GPU: values, gradients, one warning, profiles."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import func, nn, optim
from flamec.profiler import profile
from flamec.runtime.cuda.program import CaptureWarning

pytestmark = pytest.mark.gpu

W = np.random.default_rng(5).normal(size=(33, 33)) / 6


def mixed(x: Any, w: Any) -> Any:
    """A loop whose steps branch, then a branch with a loop over a sequence in it."""

    def step(n: Any, x: Any) -> Any:
        x = flamec.cond(x[0] > 0.5, lambda x: 1.4 * x, lambda x: x + 0.1 * (w @ x).sin(), (x,))
        return n + 1, x + 0.01

    n, x = flamec.while_loop(lambda n, x: (x * x).sum() < 60, step, (0, x), max_steps=25)

    def recurrent(x: Any) -> Any:
        h, ys = flamec.scan(lambda h, row: ((h + row).tanh(), h.sum()), x, w[:5])
        return h + ys.sum()

    return n, flamec.cond(x.sum() > 0, recurrent, lambda x: x * x, (x,))


def gradients(call: Any, x: np.ndarray, device: str) -> list[np.ndarray]:
    a, b = (flamec.tensor(v, device=device, requires_grad=True) for v in (x, W))
    n, y = call(a, b)
    found = flamec.autograd.grad((y * y).sum(), [a, b], materialize_grads=True, allow_unused=True)
    return [t.detach().cpu().numpy() for t in (n, y, *found)]


@pytest.mark.parametrize("compiled", [False, True])
def test_values_and_gradients_are_those_of_the_cpu(compiled: bool) -> None:
    there = flamec.compile(mixed, fullgraph=True) if compiled else mixed
    rng, steps = np.random.default_rng(6), set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)
        for scale in (1.0, -1.0, 0.1, 9.0, 1.0):
            x = scale * np.abs(rng.normal(size=33))
            found, wanted = gradients(there, x, "cuda"), gradients(mixed, x, "cpu")
            steps.add(int(wanted[0]))
            for f, w in zip(found, wanted, strict=True):  # sums over steps, whose terms cancel
                np.testing.assert_allclose(f, w, rtol=1e-9, atol=1e-13 * np.abs(w).max())
    assert len(steps) > 2
    if compiled:
        assert there.stats.traces == 1


def test_the_reason_why_there_is_no_graph_is_said_once() -> None:
    step = flamec.compile(
        lambda x: flamec.cond(x.sum() > 0, lambda x: x * 2, lambda x: x - 1, (x,))
    )
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for sign in (1.0, -1.0, 1.0, 1.0):
            x = flamec.full((7,), sign, device="cuda")
            assert step(x).tolist() == [2.0 if sign > 0 else -2.0] * 7
    texts = [str(w.message) for w in seen if issubclass(w.category, CaptureWarning)]
    assert len(texts) == 1 and "a value decides which branch is taken (at " in texts[0]


@pytest.mark.filterwarnings("ignore::flamec.runtime.cuda.program.CaptureWarning")
def test_batches_forward_mode_and_long_loops() -> None:
    rng = np.random.default_rng(7)
    xs = np.abs(rng.normal(size=(6, 33))) * np.array([[1.0], [0.1], [8.0], [2.0], [0.5], [1.0]])
    a, w = flamec.tensor(xs, device="cuda"), flamec.tensor(W, device="cuda")
    b, v = flamec.tensor(xs), flamec.tensor(W)
    batched = func.vmap(mixed, in_dims=(0, None))
    for found, wanted in zip(flamec.compile(batched)(a, w), batched(b, v), strict=True):
        np.testing.assert_allclose(found.cpu().numpy(), wanted.numpy(), rtol=1e-9, atol=1e-11)

    def grown(x: Any) -> Any:
        return flamec.while_loop(lambda x: x.sum() < 1e4, lambda x: (x * 1.01 + 0.1,), (x,))[0]

    def along(x: Any) -> Any:
        return func.jvp(grown, (x,), (x * 0.5,))

    for found, wanted in zip(flamec.compile(along)(a[0]), along(b[0]), strict=True):
        np.testing.assert_allclose(found.cpu().numpy(), wanted.numpy(), rtol=1e-9)


@pytest.mark.filterwarnings("ignore::flamec.runtime.cuda.program.CaptureWarning")
def test_training_and_profiling_a_step_with_a_branch() -> None:
    flamec.manual_seed(0)
    models = [nn.Linear(12, 1).to("cuda"), nn.Linear(12, 1).to("cuda")]
    optimizer = optim.Adam([p for m in models for p in m.parameters()], lr=0.05)

    @flamec.compile
    def step(x: Any) -> Any:
        optimizer.zero_grad()
        out = flamec.cond(x.mean() > 0, models[0], models[1], (x,))
        loss = ((out[:, 0] - x[:, 0] * x.mean().sign()) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    rng, losses = np.random.default_rng(8), []
    for turn in range(80):
        x = np.abs(rng.normal(size=(32, 12))) * (1 if turn % 2 else -1)
        losses.append(step(flamec.tensor(x.astype(np.float32), device="cuda")).item())
    assert np.mean(losses[-6:]) < 0.3 * np.mean(losses[:6])
    with profile() as seen:  # its gate must be open where the host waits for a value
        step(flamec.ones(32, 12, device="cuda")).item()
        step(-flamec.ones(32, 12, device="cuda")).item()
    assert any("cond" in row.key or "kernel" in row.key for row in seen.key_averages())


def test_an_error_in_a_condition_is_raised() -> None:
    x, i = flamec.ones(4, device="cuda"), flamec.tensor([9], device="cuda")
    call = flamec.compile(lambda x, i: flamec.cond((x[i] > 0).all(), lambda: x, lambda: -x))
    with (
        warnings.catch_warnings(),
        pytest.raises(IndexError, match="index 9 is out of bounds for dimension 0 of size 4"),
    ):
        warnings.simplefilter("ignore", CaptureWarning)
        call(x, i).cpu()
