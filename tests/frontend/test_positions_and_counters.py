"""Programs whose ints count: caches written by position, tables read by it, schedules, counters."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn, optim
from flamec.nn import functional as F

LENGTH = 50


def _same(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-5, atol=1e-6)


class Attention(nn.Module):
    """One head over what it has seen, which it keeps."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.project = nn.Linear(width, 3 * width)
        self.keys = flamec.zeros(2, LENGTH, width)
        self.values = flamec.zeros(2, LENGTH, width)
        self.position = 0

    def forward(self, x: flamec.Tensor, position: Any) -> flamec.Tensor:
        q, k, v = self.project(x).chunk(3, -1)
        self.keys[:, position] = k
        self.values[:, position : position + 1, :] = v[:, None]
        keys, values = self.keys[:, : position + 1], self.values[:, : position + 1]
        return F.scaled_dot_product_attention(q[:, None], keys, values)[:, 0]

    def extend(self, x: flamec.Tensor) -> flamec.Tensor:
        result = self(x, self.position)
        self.position += 1
        return result


def _all_at_once(attention: Attention, x: flamec.Tensor) -> np.ndarray:
    """The attention of each of [2, length, width] to itself and those before, in float64."""
    weight, bias = (p.detach().numpy().astype(np.float64) for p in attention.project.parameters())
    q, k, v = np.split(x.numpy().astype(np.float64) @ weight.T + bias, 3, -1)
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
    scores[:, ~np.tri(x.shape[1], dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


@pytest.mark.parametrize("kept", ["argument", "attribute"])
def test_a_cache_that_is_written_by_position(kept: str) -> None:
    flamec.manual_seed(0)
    attention = Attention()
    x = flamec.randn(2, LENGTH, 8)
    with flamec.no_grad():
        if kept == "argument":
            step = flamec.compile(attention)
            found = [step(x[:, i], i) for i in range(LENGTH)]
        else:
            step = flamec.compile(attention.extend)
            found = [step(x[:, i]) for i in range(LENGTH)]
            assert attention.position == LENGTH
    stacked = flamec.stack(found, 1).numpy()
    np.testing.assert_allclose(stacked, _all_at_once(attention, x), rtol=1e-4, atol=1e-5)
    stats = step.stats if kept == "attribute" else step.compiled.stats
    assert stats.traces == 2


def test_positions_in_any_order() -> None:
    flamec.manual_seed(0)
    eager, compiled = Attention(), Attention()
    compiled.load_state_dict(eager.state_dict())
    function = compiled.forward
    step = flamec.compile(function)
    with flamec.no_grad():
        for i in random.Random(0).sample(range(LENGTH), LENGTH):
            x = flamec.randn(2, 8)
            _same(step(x, i), eager(x, i))
    _same(compiled.keys, eager.keys)
    assert step.stats.traces == 2


def test_a_table_of_rotations() -> None:
    angles = flamec.outer(flamec.arange(64) * 1.0, flamec.tensor([1.0, 0.1]))
    cos, sin = angles.cos(), angles.sin()

    def rotate(x: flamec.Tensor, position: Any) -> flamec.Tensor:
        here = slice(position, position + x.shape[0])
        a, b = x.chunk(2, -1)
        return flamec.cat([a * cos[here] - b * sin[here], a * sin[here] + b * cos[here]], -1)

    compiled = flamec.compile(rotate, backend="evaluate")
    order = random.Random(1)
    for _ in range(20):
        x, position = flamec.randn(order.randint(1, 9), 4), order.randint(0, 50)
        _same(compiled(x, position), rotate(x, position))
    assert compiled.stats.traces <= 3  # the length of the input varies, too


class Trainer:
    """A step that accumulates gradients, warms up and drops less from call to call."""

    def __init__(self) -> None:
        flamec.manual_seed(0)
        self.model = nn.Linear(4, 4)
        self.optimizer = optim.SGD(self.model.parameters(), lr=0.1)
        self.count = 0
        self.losses = flamec.zeros(40)

    def step(self, x: flamec.Tensor) -> flamec.Tensor:
        self.count += 1
        kept = x * (1 - 1 / (self.count + 1))
        loss = self.model(kept).square().mean() * min(1.0, self.count / 10)
        loss.backward()
        if self.count % 4 == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.losses[self.count] = loss.detach()
        return self.losses[: self.count].sum()


def test_counters_of_a_training_step() -> None:
    eager, compiled = Trainer(), Trainer()
    step = flamec.compile(compiled.step)
    flamec.manual_seed(1)
    for _ in range(30):
        x = flamec.randn(3, 4)
        _same(step(x), eager.step(x))
    assert compiled.count == 30
    _same(compiled.losses, eager.losses)
    for a, b in zip(compiled.model.parameters(), eager.model.parameters(), strict=True):
        _same(a.detach(), b.detach())
    assert (
        len(step.programs) <= 6
    )  # with a step of the optimizer, without; before the end of warm-up


def _noise(x: flamec.Tensor, t: Any) -> flamec.Tensor:
    rates = flamec.linspace(0.0001, 0.02, 100)
    kept = (1 - rates).cumprod(0)
    return kept[t].sqrt() * x + (1 - kept[t]).sqrt() + (rates[t - 1] if t > 0 else 0)


def _truncated(x: flamec.Tensor, t: Any) -> flamec.Tensor:
    return x[:, :t].sum(1) + x[:, -t:].sum(1) if t % 7 else x.sum(1)


@pytest.mark.parametrize("function", [_noise, _truncated])
def test_steps_of_time(function: Callable[..., Any]) -> None:
    compiled = flamec.compile(function, backend="evaluate")
    x = flamec.randn(3, 5)
    for t in random.Random(2).sample(range(100), 50):
        _same(compiled(x, t), function(x, t))
    assert compiled.stats.traces <= 3


def test_how_many_are_largest() -> None:
    compiled = flamec.compile(lambda x, k: x.topk(k, 1).values * 2)
    x = flamec.randn(3, 9)
    for k in (2, 5, 1, 9, 0, 3):
        _same(compiled(x, k), x.topk(k, 1).values * 2)
    assert compiled.stats.traces == 2
