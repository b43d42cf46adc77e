"""Training follows PyTorch step by step: an MLP and a transformer.

From the same weights and data, the losses of 100 steps agree within float32
noise, eager and compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from torch_comparison import torch

import flamec
from flamec import nn, optim

RNG = np.random.default_rng(2)

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD momentum": {"lr": 0.05, "momentum": 0.9},
    "SGD nesterov": {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    "Adam": {"lr": 0.01},
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
}


def _optimizer(package: Any, name: str, parameters: Any) -> Any:
    return getattr(package, name.split()[0])(parameters, **OPTIMIZERS[name])


def _translated(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return flamec.from_numpy(value.numpy().copy())
    if isinstance(value, dict):
        return {k: _translated(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_translated(v) for v in value]
    return value


# training --------------------------------------------------------------------------------


def _mlp(nn: Any) -> Any:
    return nn.Sequential(
        nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 5)
    )


class _Attention:
    """The forward of one transformer block, written out; the same code for both packages."""

    def forward(self, x: Any) -> Any:
        batch, length, width = x.shape
        size = width // self.heads
        y = self.norm1(x)
        q, k, v = (
            layer(y).reshape(batch, length, self.heads, size).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-2, -1) * size**-0.5 + self.mask
        weights = self.softmax(scores, dim=-1)
        joined = (weights @ v).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(joined)
        return x + self.down(self.gelu(self.up(self.norm2(x))))


def _transformer(nn: Any) -> Any:
    width, heads, length, words = 16, 4, 8, 11
    tensor = torch.from_numpy if nn is torch.nn else flamec.from_numpy

    class Block(_Attention, nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = heads
            self.softmax = nn.functional.softmax
            self.gelu = nn.GELU()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
            self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            mask = np.triu(np.full((length, length), -np.inf, np.float32), 1)
            self.register_buffer("mask", tensor(mask), persistent=False)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(words, width)
            self.places = nn.Parameter(tensor(np.zeros((length, width), np.float32)))
            self.blocks = nn.ModuleList([Block(), Block()])
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, words)

        def forward(self, x: Any) -> Any:
            x = self.words(x) + self.places
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    return Model()


def _mlp_data() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(3)
    teacher = generator.standard_normal((20, 5))
    while True:
        x = generator.standard_normal((16, 20)).astype(np.float32)
        yield x, (x @ teacher).argmax(1)


def _transformer_data() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(4)
    while True:
        start = generator.integers(0, 11, (6, 1))
        words = (start + np.arange(9) * generator.integers(1, 4, (6, 1))) % 11
        yield words[:, :-1].copy(), words[:, 1:].copy()


TASKS = {"mlp": (_mlp, _mlp_data), "transformer": (_transformer, _transformer_data)}


def _copied(module: Any, source: Any) -> Any:
    module.load_state_dict(_translated(dict(source.state_dict())))
    return module


def _step(package: Any, model: Any, optimizer: Any) -> Callable[[Any, Any], Any]:
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        logits = model(x)
        loss = package.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), y.reshape(-1)
        )
        loss.backward()
        package.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return step


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("task", TASKS)
def test_losses_of_100_steps(task: str, optimizer: str, mode: str) -> None:
    _follow(task, optimizer, mode, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("task", TASKS)
def test_losses_of_100_steps_on_a_gpu(task: str, optimizer: str, mode: str) -> None:
    _follow(task, optimizer, mode, "cuda")


def _follow(task: str, optimizer: str, mode: str, device: str) -> None:
    make, data = TASKS[task]
    torch.manual_seed(0)
    theirs = make(torch.nn)
    ours = _copied(make(nn), theirs).to(device)
    theirs.to(device)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    mine = _optimizer(optim, optimizer, ours.parameters())
    wanted = _optimizer(torch.optim, optimizer, theirs.parameters())
    schedules = [
        p.lr_scheduler.CosineAnnealingLR(o, 120) for p, o in ((optim, mine), (torch.optim, wanted))
    ]
    step, expected_step = _step(flamec, ours, mine), _step(torch, theirs, wanted)
    if mode == "compiled":
        step = flamec.compile(step)
    losses, expected = [], []
    for _, (x, y) in zip(range(100), data(), strict=False):
        losses.append(step(*(flamec.from_numpy(a).to(device) for a in (x, y))).item())
        expected.append(expected_step(*(torch.from_numpy(a).to(device) for a in (x, y))).item())
        for schedule in schedules:
            schedule.step()
    np.testing.assert_allclose(losses[:10], expected[:10], rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(losses, expected, rtol=2e-3, atol=2e-3)
    assert losses[-1] < 0.8 * losses[0]
    if mode == "compiled":
        assert step.stats.traces == 1, step.stats
