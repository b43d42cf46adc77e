"""``flamec.sklearn`` trains as the same loop in PyTorch does: weights, batches, losses, outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from example_programs import same_weights
from torch_comparison import torch

from flamec.nn.module import Module

pytest.importorskip("sklearn")
from sklearn.datasets import load_diabetes, load_iris

from flamec.sklearn import NetworkClassifier, NetworkRegressor, perceptron


def trained(
    x: np.ndarray, y: np.ndarray, loss_of: Callable[..., Any], outputs: int, epochs: int
) -> tuple[Any, Any, list[float]]:
    """The twin after training, its initial weights, and the mean loss of each epoch."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], 16), torch.nn.ReLU(), torch.nn.Linear(16, outputs)
    )
    state = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-4)
    random, curve = np.random.RandomState(5), []
    random.randint(2**31)
    for _ in range(epochs):
        random.randint(2**31)
        order, losses = random.permutation(len(x)), []
        for start in range(0, len(x), 64):
            rows = order[start : start + 64]
            optimizer.zero_grad()
            loss = loss_of(network(torch.from_numpy(x[rows])), torch.from_numpy(y[rows]))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curve.append(float(np.mean(losses)))
    return network, state, curve


def starting(state: dict[str, Any]) -> Callable[[int, int], Module]:
    def module(inputs: int, outputs: int) -> Module:
        network = perceptron(inputs, outputs, (16,))
        same_weights(network, SimpleState(state))
        return network

    return module


class SimpleState:
    """Something that has a state_dict."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state


def test_classifier() -> None:
    x, y = load_iris(return_X_y=True)
    x = x.astype(np.float32)
    twin, state, curve = trained(x, y, torch.nn.functional.cross_entropy, 3, 15)
    network = NetworkClassifier(starting(state), epochs=15, random_state=5).fit(x, y)
    np.testing.assert_allclose(network.loss_curve_, curve, rtol=1e-5)
    expected = twin(torch.from_numpy(x)).softmax(1).detach().numpy()
    np.testing.assert_allclose(network.predict_proba(x), expected, rtol=1e-4, atol=1e-6)


def test_regressor() -> None:
    x, y = load_diabetes(return_X_y=True)
    x = (x * 20).astype(np.float32)
    scaled = ((y - y.mean()) / y.std()).astype(np.float32)[:, None]
    twin, state, curve = trained(x, scaled, torch.nn.functional.mse_loss, 1, 15)
    network = NetworkRegressor(starting(state), epochs=15, random_state=5).fit(x, y)
    np.testing.assert_allclose(network.loss_curve_, curve, rtol=1e-4)
    expected = twin(torch.from_numpy(x)).detach().numpy()[:, 0] * y.std() + y.mean()
    np.testing.assert_allclose(network.predict(x), expected, rtol=1e-3)
    assert network.score(x, y) > 0.4
