"""A split function whose results are differentiated outside of it goes on from what its parts have
computed; values, gradients and effects are those of eager mode."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn
from flamec.utils.checkpoint import checkpoint

T = flamec.Tensor


class Gated(nn.Module):
    """Two layers with a branch behind each, random numbers and running statistics before them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 8)
        self.norm, self.dropout = nn.BatchNorm1d(8), nn.Dropout(0.5)

    def forward(self, x: T) -> T:
        h = self.dropout(self.norm(self.first(x)).relu())
        if x.sum() > 0:
            h = h * 2
        h = self.second(h).tanh()
        return h if x.mean() > 0.5 else h - 1


class Checkpointed(Gated):
    def forward(self, x: T) -> T:
        h = checkpoint(lambda x: self.dropout(self.first(x).relu()), x, use_reentrant=False)
        return self.second(h) * 2 if h.sum() > 1 else self.second(h)


class Masked(Gated):
    def forward(self, x: T) -> T:
        h = self.first(x).relu()
        return self.second(h[x[:, 0] > 0]) ** 2


class Returned(Gated):
    """What a part has computed is a result, and one in place of another."""

    def forward(self, x: T) -> Any:
        h = self.first(x)
        h.register_hook(lambda g: g * 3)
        if h.sum() > 0:
            return h, h.detach()
        h.retain_grad()
        y = self.second(h)
        return (h + y, y) if y.sum() > 0 else (y, h)


def outcome(model: nn.Module, function: Callable[..., Any], x: T) -> list[Any]:
    flamec.manual_seed(3)
    x = x.clone().requires_grad_()
    results = function(x)
    results = results if isinstance(results, tuple) else (results,)
    wanted = [r for r in results if r.requires_grad]
    sum(r.square().sum() for r in wanted).backward()
    found = [*results, x.grad, *(p.grad for p in model.parameters()), *model.buffers()]
    model.zero_grad()
    return [None if t is None else t.detach().numpy() for t in found]


@pytest.mark.parametrize("kind", [Gated, Checkpointed, Masked, Returned])
@pytest.mark.parametrize("budget", [1.0, 0.3])
@pytest.mark.parametrize("dynamic", [None, True])
def test_results_and_gradients(kind: type[nn.Module], budget: float, dynamic: Any) -> None:
    flamec.manual_seed(0)
    model = kind()
    other = copy.deepcopy(model)
    compiled = flamec.compile(model, memory_budget=budget, dynamic=dynamic)
    for rows, scale in ((5, 1.0), (5, -1.0), (7, 2.0), (5, 1.0), (2, -3.0)):
        x = (flamec.rand(rows, 6) + 0.2) * scale
        got, expected = outcome(model, compiled, x), outcome(other, other, x)
        for a, b in zip(got, expected, strict=True):
            if b is None:
                assert a is None
            else:
                np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def operations(compiled: Any, name: str) -> int:
    (program,) = compiled.programs
    return sum(n.op.name == name for _, p in program.parts for n in p.graph.nodes)


def test_nothing_expensive_is_computed_twice() -> None:
    model = Gated().eval()
    compiled = flamec.compile(model)
    compiled(flamec.ones(4, 6)).sum().backward()
    (program,) = compiled.programs
    assert len(program.segments) == 2
    forward = 2
    backward = 3  # of weights and of what the second layer read; the input needs no gradient
    assert operations(compiled, "dot_general") == forward + backward
    whole = flamec.compile(lambda x: (model.second(model.first(x).relu())).tanh())
    whole(flamec.ones(4, 6)).sum().backward()
    assert operations(whole, "dot_general") == forward + backward
    compiled(flamec.ones(4, 6)).sum().backward()
    assert compiled.stats.traces == 1


def test_results_of_parts_live_until_backward_and_no_longer() -> None:
    """Two calls before one backward, which may not share what they have computed."""
    flamec.manual_seed(0)
    model = Gated()
    other = copy.deepcopy(model)
    compiled = flamec.compile(model)
    xs = [flamec.rand(4, 6) + i for i in range(3)]
    flamec.manual_seed(1)
    losses = [compiled(x).square().sum() for x in xs]
    sum(losses).backward()
    got = [p.grad.numpy() for p in model.parameters()]
    flamec.manual_seed(1)
    sum([other(x).square().sum() for x in xs]).backward()
    for a, p in zip(got, other.parameters(), strict=True):
        np.testing.assert_allclose(a, p.grad.numpy(), rtol=2e-5, atol=2e-5)
    with pytest.raises(RuntimeError, match="second time"):
        losses[0].backward()


def test_second_derivatives_of_what_parts_computed() -> None:
    def f(x: T, w: T) -> T:
        h = (x @ w).tanh()
        y = (h * h).sum()
        return y * h.sum() if y > 0.1 else h.sum() ** 3

    x, w = flamec.rand(3, 2, dtype=flamec.float64), flamec.rand(2, 2, dtype=flamec.float64)
    found = []
    for function in (f, flamec.compile(f)):
        for scale in (1.0, 0.01):
            u = (w * scale).requires_grad_()
            (first,) = flamec.autograd.grad(function(x, u), u, create_graph=True)
            (second,) = flamec.autograd.grad(first.square().sum(), u)
            found.append((first.detach().numpy(), second.numpy()))
    for a, b in zip(found[:2], found[2:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
