"""Training follows PyTorch step by step: optimizers, schedules, an MLP and a transformer.

From the same weights and data, the losses of 100 steps agree within float32
noise, eager and compiled. In float64 single steps agree to rounding.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from torch_comparison import torch

import flamec
from flamec import nn, optim

RNG = np.random.default_rng(2)

OPTIMIZERS = {
    "SGD": {"lr": 0.1},
    "SGD momentum": {"lr": 0.05, "momentum": 0.9},
    "SGD nesterov": {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    "SGD dampening": {"lr": 0.05, "momentum": 0.9, "dampening": 0.3},
    "SGD maximize": {"lr": 1e-4, "maximize": True, "weight_decay": 0.1},
    "Adam": {"lr": 0.01},
    "Adam decay": {"lr": 0.01, "weight_decay": 0.05, "betas": (0.8, 0.95), "eps": 1e-6},
    "Adam amsgrad": {"lr": 0.01, "amsgrad": True},
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
    "AdamW amsgrad": {"lr": 0.005, "amsgrad": True, "maximize": False},
    "AdamW maximize": {"lr": 1e-4, "maximize": True},
}


def _optimizer(package: Any, name: str, parameters: Any) -> Any:
    return getattr(package, name.split()[0])(parameters, **OPTIMIZERS[name])


# one parameter at a time -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_of_an_optimizer(name: str, dtype: str) -> None:
    arrays = [RNG.standard_normal(s).astype(dtype) for s in ((3, 4), (5,), ())]
    ours = [nn.Parameter(flamec.from_numpy(np.array(a))) for a in arrays]
    theirs = [torch.nn.Parameter(torch.tensor(a)) for a in arrays]
    mine, wanted = _optimizer(optim, name, ours), _optimizer(torch.optim, name, theirs)
    limit = 1e-13 if dtype == "float64" else 2e-6
    for step in range(12):
        for p, q, a in zip(ours, theirs, arrays, strict=True):
            if step == 3 and a.ndim == 1:  # a parameter without a gradient is left alone
                p.grad = q.grad = None
                continue
            gradient = RNG.standard_normal(a.shape).astype(dtype)
            p.grad, q.grad = flamec.from_numpy(np.array(gradient)), torch.tensor(gradient)
        mine.step()
        wanted.step()
        if step == 6:  # what changes between steps is read anew
            for package in (mine, wanted):
                package.param_groups[0]["lr"] *= 0.5
        for p, q in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(
                p.detach().numpy(), q.detach().numpy(), rtol=limit, atol=limit
            )
    _same_state(mine.state_dict(), wanted.state_dict(), limit)


def _same_state(ours: dict[str, Any], theirs: dict[str, Any], limit: float) -> None:
    assert ours["param_groups"] == theirs["param_groups"]
    assert list(ours["state"]) == list(theirs["state"])
    for number, entry in theirs["state"].items():
        assert list(ours["state"][number]) == list(entry)
        for key, value in entry.items():
            mine = ours["state"][number][key]
            assert mine.dtype.name == str(value.dtype).removeprefix("torch.")
            np.testing.assert_allclose(mine.numpy(), value.numpy(), rtol=limit, atol=limit)


@pytest.mark.parametrize("name", ["SGD nesterov", "SGD dampening", "Adam amsgrad"])
def test_state_moves_between_flamec_and_pytorch(name: str) -> None:
    """A PyTorch optimizer's state_dict, loaded here, continues as there."""
    start = RNG.standard_normal((3, 2))
    theirs = torch.nn.Parameter(torch.tensor(start))
    wanted = _optimizer(torch.optim, name, [theirs])
    gradients = RNG.standard_normal((6, 3, 2))
    for gradient in gradients[:3]:
        theirs.grad = torch.tensor(gradient)
        wanted.step()
    ours = nn.Parameter(flamec.from_numpy(theirs.detach().numpy().copy()))
    mine = _optimizer(optim, name, [ours])
    mine.load_state_dict(_translated(wanted.state_dict()))
    for gradient in gradients[3:]:
        ours.grad, theirs.grad = flamec.from_numpy(gradient.copy()), torch.tensor(gradient)
        mine.step()
        wanted.step()
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-13)


def _translated(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return flamec.from_numpy(value.numpy().copy())
    if isinstance(value, dict):
        return {k: _translated(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_translated(v) for v in value]
    return value


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_optimizer_arguments_and_text(name: str) -> None:
    ours = inspect.signature(getattr(optim, name).__init__).parameters
    theirs = inspect.signature(getattr(torch.optim, name).__init__).parameters
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]
    mine = getattr(optim, name)([nn.Parameter(flamec.from_numpy(np.ones(2)))])
    wanted = getattr(torch.optim, name)([torch.ones(2, requires_grad=True)])
    assert repr(mine) == repr(wanted)


BAD_ARGUMENTS = [
    ("SGD", {"lr": -1.0}),
    ("SGD", {"momentum": -0.1}),
    ("SGD", {"weight_decay": -1.0}),
    ("SGD", {"nesterov": True}),
    ("Adam", {"betas": (1.0, 0.9)}),
    ("Adam", {"betas": (0.9, -0.1)}),
    ("Adam", {"eps": -1e-3}),
    ("AdamW", {"weight_decay": -1.0}),
]


@pytest.mark.parametrize(("name", "arguments"), BAD_ARGUMENTS)
def test_bad_arguments(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".") as theirs:
        getattr(torch.optim, name)([torch.ones(2, requires_grad=True)], **arguments)
    with pytest.raises(ValueError, match=r".") as ours:
        getattr(optim, name)([nn.Parameter(flamec.from_numpy(np.ones(2)))], **arguments)
    assert str(ours.value) == str(theirs.value)


# schedules -------------------------------------------------------------------------------

SCHEDULES: dict[str, Callable[[Any, Any], Any]] = {
    "StepLR": lambda m, o: m.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda m, o: m.MultiStepLR(o, [2, 5, 5, 9], 0.3),
    "ConstantLR": lambda m, o: m.ConstantLR(o, 0.25, 4),
    "LinearLR": lambda m, o: m.LinearLR(o, 0.2, 0.8, 6),
    "ExponentialLR": lambda m, o: m.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda m, o: m.PolynomialLR(o, 7, 2.0),
    "CosineAnnealingLR": lambda m, o: m.CosineAnnealingLR(o, 5, 0.001),
    "LambdaLR": lambda m, o: m.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "MultiplicativeLR": lambda m, o: m.MultiplicativeLR(o, lambda epoch: 0.9 + 0.01 * epoch),
    "OneCycleLR": lambda m, o: m.OneCycleLR(o, 0.5, total_steps=20),
    "OneCycleLR linear": lambda m, o: m.OneCycleLR(
        o, 0.5, epochs=4, steps_per_epoch=5, anneal_strategy="linear", three_phase=True
    ),
    "SequentialLR": lambda m, o: m.SequentialLR(
        o, [m.ConstantLR(o, 0.1, 3), m.ExponentialLR(o, 0.9)], [4]
    ),
    "two": lambda m, o: (m.ConstantLR(o, 0.1, 3), m.ExponentialLR(o, 0.9))[1],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule(name: str) -> None:
    ours, theirs = (
        _two_groups(optim, nn.Parameter(flamec.from_numpy(np.ones(1)))),
        _two_groups(torch.optim, torch.nn.Parameter(torch.ones(1))),
    )
    mine = SCHEDULES[name](optim.lr_scheduler, ours)
    wanted = SCHEDULES[name](torch.optim.lr_scheduler, theirs)
    for _ in range(15):
        for group, other in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert math.isclose(group["lr"], other["lr"], rel_tol=1e-12)
            assert math.isclose(group["betas"][0], other["betas"][0], rel_tol=1e-12)
        assert mine.get_last_lr() == [g["lr"] for g in ours.param_groups]
        mine.step()
        wanted.step()
    again = SCHEDULES[name](optim.lr_scheduler, ours)
    again.load_state_dict(mine.state_dict())
    assert again.last_epoch == mine.last_epoch


def _two_groups(package: Any, parameter: Any) -> Any:
    other = type(parameter)(parameter.detach())
    return package.Adam([{"params": [parameter]}, {"params": [other], "lr": 0.3}], lr=0.1)


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
TRAINED = ["SGD momentum", "SGD nesterov", "Adam", "AdamW"]


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
@pytest.mark.parametrize("optimizer", TRAINED)
@pytest.mark.parametrize("task", TASKS)
def test_losses_of_100_steps(task: str, optimizer: str, mode: str) -> None:
    make, data = TASKS[task]
    torch.manual_seed(0)
    theirs = make(torch.nn)
    ours = _copied(make(nn), theirs)
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
        losses.append(step(flamec.from_numpy(x), flamec.from_numpy(y)).item())
        expected.append(expected_step(torch.from_numpy(x), torch.from_numpy(y)).item())
        for schedule in schedules:
            schedule.step()
    np.testing.assert_allclose(losses[:10], expected[:10], rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(losses, expected, rtol=2e-3, atol=2e-3)
    assert losses[-1] < 0.8 * losses[0]
    if mode == "compiled":
        assert step.stats.traces == 1, step.stats
