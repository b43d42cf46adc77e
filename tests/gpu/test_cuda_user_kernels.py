"""Kernels that users write, on a GPU: eager, compiled, differentiated, captured, cached."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from user_kernels import scaled_rows, squared_relu

import flamec
from flamec.debugging.bisection import bisect
from flamec.debugging.call_recording import record_call

pytestmark = pytest.mark.gpu
TESTS = Path(__file__).parent.parent
SHAPES = [(7,), (), (0,), (3, 0, 2), (1,), (33, 65), (100003,)]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def on_gpu(array: np.ndarray) -> flamec.Tensor:
    return flamec.tensor(array, device="cuda")


def close(found: flamec.Tensor, wanted: Any, rtol: float = 1e-5) -> None:
    wanted = wanted.detach().cpu().numpy() if isinstance(wanted, flamec.Tensor) else wanted
    np.testing.assert_allclose(found.detach().cpu().numpy(), wanted, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [flamec.float32, flamec.bfloat16, flamec.float64])
def test_values(shape: tuple[int, ...], dtype: Any) -> None:
    x = flamec.tensor(random(*shape)).to(dtype)
    wanted = squared_relu(x, scale=0.5).float()
    for f in (squared_relu, flamec.compile(squared_relu)):
        found = f(x.cuda(), scale=0.5)
        assert found.dtype is dtype
        close(found.float(), wanted, rtol=1e-2 if dtype is flamec.bfloat16 else 1e-5)


def test_views_and_several_results() -> None:
    x, w = random(6, 70), random(6, seed=1)
    for f in (scaled_rows, flamec.compile(scaled_rows), flamec.compile(scaled_rows, dynamic=True)):
        y, s = f(on_gpu(x), on_gpu(w))
        close(y, x * w[:, None])
        close(s, (x * w[:, None]).sum(1), 1e-4)
    close(squared_relu(on_gpu(x).T), np.maximum(x.T, 0) ** 2)
    close(squared_relu(on_gpu(x)[1:, 3:9]), np.maximum(x[1:, 3:9], 0) ** 2)


def test_fused_neighbours_in_a_captured_graph() -> None:
    f = flamec.compile(lambda x: (squared_relu(x * 2 + 1) - 3).tanh().sum(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a program that cannot be captured warns
        for seed in range(6):
            x = random(64, 100, seed=seed)
            wanted = np.tanh(np.maximum(2 * x + 1, 0) ** 2 - 3).sum(1)
            close(f(on_gpu(x)), wanted, 1e-4)
    plan: Any = f.programs[0].prepared.plan
    assert [s.kind for s in plan.steps] == ["pointwise", "user", "reduction"]
    assert f.stats.traces == 1


def test_dynamic_sizes() -> None:
    f = flamec.compile(lambda x: squared_relu(x + 1), dynamic=True)
    for n in (5, 64, 1000, 4097):
        close(f(on_gpu(random(n))), np.maximum(random(n) + 1, 0) ** 2)
    assert f.stats.traces == 1


def test_derivatives() -> None:
    def loss(x: flamec.Tensor) -> flamec.Tensor:
        return (squared_relu(x * 2, scale=0.5) * x).sum()

    here = flamec.tensor(random(300), requires_grad=True)
    loss(here).backward()
    for f in (loss, flamec.compile(loss)):
        x = on_gpu(random(300)).requires_grad_()
        f(x).backward()
        close(x.grad, here.grad)
        (first,) = flamec.autograd.grad(f(x), x, create_graph=True)
        (second,) = flamec.autograd.grad(first.sum(), x)
        (wanted,) = flamec.autograd.grad(loss(here), here, create_graph=True)
        (wanted,) = flamec.autograd.grad(wanted.sum(), here)
        close(second, wanted)


def test_batches() -> None:
    x, w = random(4, 6, 70), random(6, seed=1)
    y, s = flamec.vmap(scaled_rows, in_dims=(0, None))(on_gpu(x), on_gpu(w))
    close(y, x * w[:, None])
    close(s, (x * w[:, None]).sum(2), 1e-4)


def test_a_training_step() -> None:
    losses = []
    for device in ("cpu", "cuda"):
        flamec.manual_seed(0)
        layer = flamec.nn.Linear(4, 3).to(device)
        optimizer = flamec.optim.SGD(layer.parameters(), lr=0.1)

        @flamec.compile(fullgraph=True)
        def step(x: flamec.Tensor, layer: Any = layer, optimizer: Any = optimizer) -> flamec.Tensor:
            optimizer.zero_grad()
            loss = squared_relu(layer(x)).mean()
            loss.backward()
            optimizer.step()
            return loss

        x = flamec.tensor(random(8, 4), device=device)
        losses.append([step(x).item() for _ in range(5)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_bisect_runs_the_program_on_the_gpu() -> None:
    f = flamec.compile(lambda x: squared_relu(x + 1).sum(0))
    ((_, found),) = record_call(f, (on_gpu(random(5, 6)),), {})
    assert bisect(found) is None


SECOND = """
import json, sys
sys.path.insert(0, {tests!r})
import user_kernels
import flamec
f = flamec.compile(lambda x: user_kernels.squared_relu(x + 1).exp())
value = f(flamec.zeros(3, device="cuda")).tolist()
print(json.dumps([f.stats.kernels_compiled, "triton" in sys.modules, value]))
"""


def test_a_second_process(tmp_path: Path) -> None:
    def run() -> Any:
        done = subprocess.run(
            [sys.executable, "-c", SECOND.format(tests=str(TESTS))],
            env={**os.environ, "FLAMEC_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert run()[0] == 3
    compiled, imported, value = run()
    assert (compiled, imported) == (0, False)
    np.testing.assert_allclose(value, [np.e] * 3, rtol=1e-6)
