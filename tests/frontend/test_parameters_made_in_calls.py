"""Parameters that compiled functions create: such a call runs uncompiled, the next does not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn, optim
from flamec.errors import CompileError

T = flamec.Tensor


def dense() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.LazyLinear(2)), (5, 3)


def convolutions() -> tuple[nn.Module, tuple[int, ...]]:
    layers = nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)
    return nn.Sequential(*layers), (2, 3, 6, 6)


class MadeAtFirst(nn.Module):
    weight: Any

    def __init__(self) -> None:
        super().__init__()
        self.weight = None

    def forward(self, x: T) -> T:
        if self.weight is None:
            self.weight = nn.Parameter(flamec.randn(x.shape[-1]))
        return x * self.weight


class Registered(nn.Module):
    def forward(self, x: T) -> T:
        if not hasattr(self, "weight"):
            self.register_parameter("weight", nn.Parameter(flamec.randn(x.shape[-1])))
            self.register_buffer("scale", flamec.full((1,), 2.0))
            self.inner = nn.Linear(x.shape[-1], 2)
        return self.inner(x * self.weight) * self.scale


@pytest.mark.parametrize(
    "make", [dense, convolutions, lambda: (MadeAtFirst(), (5, 3)), lambda: (Registered(), (5, 3))]
)
def test_a_first_call_that_makes_parameters(make: Callable[[], Any]) -> None:
    found = []
    for wrap in (lambda m: m, lambda m: flamec.compile(m, backend="evaluate")):
        flamec.manual_seed(3)
        model, shape = make()
        called, values = wrap(model), []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for k in range(4):
                loss = (called(flamec.randn(*shape) + k) ** 2).mean()
                model.zero_grad()
                loss.backward()
                optim.SGD(model.parameters(), lr=0.1).step()
                values.append(loss.item())
        found.append([*values, *(v.detach().numpy() for v in model.state_dict().values())])
    assert (called.stats.traces, called.stats.python_runs, len(called.programs)) == (2, 1, 1)
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_what_was_done_before_is_done_once() -> None:
    class Model(nn.Module):
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LazyLinear(2)
            self.seen: list[int] = []
            self.mean = flamec.zeros(3)

        def forward(self, x: T) -> T:
            self.calls += 1
            self.seen.append(x.shape[0])
            self.mean.add_(x.mean(0))
            return self.layer(x)

    model = Model()
    compiled = flamec.compile(model, backend="evaluate")
    for n in (4, 5, 6):
        compiled(flamec.ones(n, 3))
    assert model.calls == 3 and model.seen == [4, 5, 6] and model.mean.tolist() == [3.0] * 3


def test_a_parameter_in_each_call_is_right_and_warned_of() -> None:
    shared = flamec.ones(3)  # whose memory the parameter has

    @flamec.compile(backend="evaluate")
    def gradient(x: T) -> T:
        weight = nn.Parameter(shared)
        (weight * x).sum().backward()
        return weight.grad

    with pytest.warns(RuntimeWarning, match="a Parameter is created .* runs uncompiled"):
        for k in range(3):
            assert gradient(flamec.full((3,), float(k))).tolist() == [k] * 3
    assert not gradient.programs


def test_one_graph_refuses_it() -> None:
    model = nn.LazyLinear(2)
    with pytest.raises(CompileError, match="lazy layer, learns its size"):
        flamec.compile(model, fullgraph=True)(flamec.ones(1, 3))
    assert model.has_uninitialized_params()


def test_after_an_effect_it_is_refused() -> None:
    """Which would happen twice."""
    model = nn.LazyLinear(2)

    @flamec.compile(backend="evaluate")
    def step(x: T) -> T:
        input_of_user = next(values)
        return model(x) * input_of_user

    values = iter(range(1, 5))
    with pytest.raises(CompileError, match="iterator"):
        step(flamec.ones(1, 3))
