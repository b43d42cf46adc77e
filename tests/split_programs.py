"""Functions whose Python asks for the value of a tensor, and a comparison with the eager result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn, optim

T = flamec.Tensor


def same(got: Any, expected: Any, rtol: float = 1e-6, atol: float = 0.0, device: str = "") -> None:
    """Equal structures, tensors close, numbers of one type.

    ``device``: the type of device on which ``got`` must lie, otherwise that of ``expected``.
    """
    assert type(got) is type(expected)
    if isinstance(expected, T):
        assert got.device.type == (device or expected.device.type)
        found, wanted = got.detach().cpu().numpy(), expected.detach().cpu().numpy()
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol)
        assert got.dtype is expected.dtype and got.requires_grad == expected.requires_grad
    elif isinstance(expected, (tuple, list)):
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            same(a, b, rtol, atol, device)
    elif isinstance(expected, float):
        assert got == pytest.approx(expected, rel=rtol, nan_ok=True)
    else:
        assert got == expected


def branch(x: T) -> T:
    y = x * 2
    if y.sum() > 3:
        return y - 1
    return y + 1


def growing(limit: int) -> Callable[[T], tuple[T, int]]:
    """Doubles a tensor until its sum has reached the limit; says how often."""

    def grow(x: T) -> tuple[T, int]:
        turns = 0
        while x.sum() < limit:
            x = x * 2
            turns += 1
        return x, turns

    return grow


def numbers_of_rows(x: T) -> Any:
    total = 0.0
    for row in x:
        total += row.sum().item()
    best = max(total, 1.0)
    return total, best, best if total != total else -best


def writing(limit: float) -> Callable[[T, T], T]:
    """Writes to both arguments and to a view, before and behind a split at a sum of the state."""

    def write(x: T, state: T) -> T:
        state.add_(1)
        x[0] = state.sum()
        view = x[1:]
        if state.sum() > limit:
            view.mul_(2)
            return x.sum()
        state.mul_(3)
        return view * 1

    return write


def squares_or_products(x: T, w: T) -> T:
    y = (x * w).tanh()
    if y.sum() > 0:
        return (y * y).sum()
    return (y * w).sum()


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.other = (nn.Linear(4, 4) for _ in range(3))
        self.norm = nn.BatchNorm1d(4)

    def hidden(self, x: T) -> T:
        return self.norm(flamec.tanh(self.first(x)))

    def forward(self, x: T) -> T:
        hidden = self.hidden(x)
        if hidden[0].sum() > 0:  # of all rows the mean is 0 but for rounding
            return self.second(hidden)
        return self.other(hidden * 2)


def trainer(model: nn.Module, lr: float) -> Callable[[T, T], tuple[float, T]]:
    """A training step with splits before and behind its backward pass."""
    optimizer = optim.AdamW(model.parameters(), lr=lr)

    def step(x: T, y: T) -> tuple[float, T]:
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        if loss > 0.5:
            loss = loss * 2
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if norm < 3:
            optimizer.step()
        return loss.item(), loss

    return step
