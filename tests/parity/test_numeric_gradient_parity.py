"""``gradient`` beside PyTorch's, values and derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")
SAMPLES = np.random.default_rng(0).standard_normal((5, 4, 6))
UNEVEN = [np.sort(np.random.default_rng(n).uniform(0, 3, n)) for n in (5, 4, 6)]


@pytest.mark.parametrize("edge_order", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"spacing": 0.5},
        {"dim": 1},
        {"dim": (-1, 0), "spacing": [2.0, 0.25]},
        {"spacing": UNEVEN},
        {"dim": 2, "spacing": UNEVEN[2:]},
    ],
    ids=str,
)
def test_gradient(options: dict[str, Any], edge_order: int) -> None:
    results = []
    for framework in (flamec, torch):
        given = dict(options)
        if isinstance(given.get("spacing"), list) and isinstance(given["spacing"][0], np.ndarray):
            given["spacing"] = tuple(framework.tensor(c) for c in given["spacing"])
        x = framework.tensor(SAMPLES, requires_grad=True)
        parts = framework.gradient(x, edge_order=edge_order, **given)
        sum((part * (i + 1)).cos().sum() for i, part in enumerate(parts)).backward()
        results.append([*(p.detach().numpy() for p in parts), x.grad.numpy()])
    for found, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


def test_whole_numbers_and_refusals() -> None:
    for framework in (flamec, torch):
        (steps,) = framework.gradient(framework.tensor([1.0, 4.0, 9.0]))
        assert steps.tolist() == [3, 4, 5]
        with pytest.raises(RuntimeError, match="edge_order"):
            framework.gradient(framework.ones(1))
        with pytest.raises(RuntimeError, match="spacing"):
            framework.gradient(framework.ones(3, 3), spacing=[1.0, 1.0, 1.0])
        with pytest.raises(TypeError, match="list"):
            framework.gradient(framework.ones(3), spacing=[[0.0, 1.0, 2.0]])
        with pytest.raises(RuntimeError, match="dim"):
            framework.gradient(framework.ones(3, 3), dim=(0, 0))
