"""On a GPU: functions whose sizes change, run by programs for classes of sizes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn

pytestmark = pytest.mark.gpu
SIZES = ((3, 5), (4, 7), (0, 9), (5, 0), (1, 1), (20, 33), (2, 64), (7, 100), (65, 96), (3, 1024))
T = flamec.Tensor


@pytest.fixture(autouse=True)
def graphs_are_captured() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a program that cannot be captured warns
        warnings.filterwarnings("ignore", "OpenBLAS is not installed")  # of no concern here
        yield


def pooled(x: T) -> Any:
    return x.sum(0), (x * x).sum(), x.reshape(-1), flamec.cat([x, x], 1), x[:, ::2]


def ordered(x: T) -> Any:
    return x.cumsum(1), (1 + x / 64).prod(1), x.amax(2), flamec.softmax(x, 1), x.sort(1).values


def multiplied(x: T) -> T:
    scores = flamec.softmax(x @ x.transpose(1, 2), -1)
    return (scores @ x) @ x.transpose(1, 2)


@pytest.mark.parametrize("function", [pooled, ordered, multiplied], ids=lambda f: f.__name__)
def test_results_are_those_of_the_cpu(function: Callable[[T], Any]) -> None:
    compiled = flamec.compile(function)
    rng = np.random.default_rng(0)
    for batch, length in SIZES:
        x = flamec.from_numpy(rng.standard_normal((batch, length, 8), np.float32))
        for _ in range(3):  # launched, captured, launched as a graph
            found = compiled(x.cuda())
        wanted = function(x.double())
        pairs = zip(found, wanted, strict=True) if isinstance(found, tuple) else [(found, wanted)]
        for a, b in pairs:
            assert a.shape == b.shape
            np.testing.assert_allclose(a.cpu().numpy(), b.numpy(), 2e-5, 2e-5, err_msg=f"{x.shape}")
    assert compiled.stats.traces == 2
    assert 5 <= compiled.stats.size_classes <= len(SIZES)


def test_equal_calls_have_equal_bits_whatever_was_called_before() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((b, n, 8), np.float32) for b, n in SIZES]
    results: list[dict[int, bytes]] = []
    for order in (range(len(SIZES)), reversed(range(len(SIZES)))):
        compiled = flamec.compile(multiplied, dynamic=True)
        compiled(flamec.ones(2, 3, 8, device="cuda"))
        results.append(
            {
                i: compiled(flamec.tensor(arrays[i], device="cuda")).cpu().numpy().tobytes()
                for i in order
            }
        )
    assert results[0] == results[1]


def test_a_training_step_learns_what_it_learns_on_the_cpu() -> None:
    states = []
    for device in ("cpu", "cuda"):
        flamec.manual_seed(0)
        model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0).to(device)
        optimizer = flamec.optim.SGD(model.parameters(), lr=0.01)

        def step(x: T, model: Any = model, optimizer: Any = optimizer) -> T:
            optimizer.zero_grad()
            loss = (model(x) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss

        run = flamec.compile(step)
        rng = np.random.default_rng(0)
        for batch, length in ((3, 5), (4, 7), (1, 1), (6, 64), (20, 33), (2, 100)):
            run(flamec.tensor(rng.standard_normal((batch, length, 16), np.float32), device=device))
        assert run.stats.traces == 2
        states.append([p.detach().cpu().numpy() for p in model.parameters()])
    for a, b in zip(*states, strict=True):
        np.testing.assert_allclose(a, b, 1e-4, 1e-5)


def test_folds_of_rows_of_changing_length_are_as_exact_as_those_of_fixed_length() -> None:
    """In units in the last place, against float64."""

    def folds(x: T) -> Any:
        return x.prod(-1), x.cumprod(-1), x.cumsum(-1), x.sum(-1)

    run = flamec.compile(folds, dynamic=True)
    rng = np.random.default_rng(0)
    for rows, length in ((5, 100), (64, 1000), (33, 5001)):
        host = (1 + rng.standard_normal((rows, length)) / 128).astype(np.float32)
        x = flamec.tensor(host, device="cuda")
        fixed = flamec.compile(folds, dynamic=False)(x)
        exact = [f.numpy() for f in folds(flamec.tensor(host.astype(np.float64)))]
        for a, b, wanted in zip(run(x), fixed, exact, strict=True):
            allowed = 2 + 1.5 * _units(b.cpu().numpy(), wanted)
            assert _units(a.cpu().numpy(), wanted) <= allowed


def _units(found: np.ndarray, exact: np.ndarray) -> float:
    return float((np.abs(found - exact) / np.spacing(np.abs(exact).astype(np.float32))).max())
