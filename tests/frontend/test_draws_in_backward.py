"""Random numbers that a custom Function draws in ``backward`` come when the gradient does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import utils

T = flamec.Tensor


class Noisy(flamec.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: T, factor: float) -> T:
        ctx.save_for_backward(x)
        ctx.factor = factor
        return x * 2 + flamec.rand(3)

    @staticmethod
    def backward(ctx: Any, g: T) -> Any:
        (x,) = ctx.saved_tensors
        return g * flamec.rand(3) * x * ctx.factor + flamec.randn(3), None


def twice(w: T, x: T) -> T:
    y = Noisy.apply(w * x, 1.0)
    return Noisy.apply(y, 2.0) + flamec.rand(3)


def inside(w: T, x: T) -> Any:
    w.grad = None
    z = twice(w, x)
    z.sum().backward()
    return z.detach() * flamec.rand(3), w.grad


def inside_by_grad(w: T, x: T) -> Any:
    z = twice(w, x)
    (gradient,) = flamec.autograd.grad(z.sum(), w, create_graph=True)
    (second,) = flamec.autograd.grad((gradient * gradient).sum(), w)
    return z.detach(), gradient.detach(), second, flamec.rand(3)


def outside(w: T, x: T) -> Any:
    return twice(w, x) * flamec.rand(3)


def checkpointed(w: T, x: T) -> Any:
    w.grad = None
    utils.checkpoint.checkpoint(twice, w, x, use_reentrant=False).sum().backward()
    return flamec.rand(3), w.grad


def without_backward(w: T, x: T) -> Any:
    return twice(w, x).detach() * flamec.rand(3)


def run(function: Callable[[T, T], Any], compiles: bool, backend: str) -> list[Any]:
    """Results, gradients and the generator's state after each of four calls."""
    flamec.manual_seed(1)
    w = flamec.tensor([1.0, 2.0, 3.0], dtype=flamec.float64, requires_grad=True)
    call = flamec.compile(function, backend=backend) if compiles else function
    found = []
    for n in range(4):
        result = call(w, flamec.full((3,), n + 1.0, dtype=flamec.float64))
        tensors = list(result) if isinstance(result, tuple) else [result]
        if function is outside:
            w.grad = None
            result.sum().backward(retain_graph=True)
            tensors += [flamec.rand(2), w.grad.clone()]
            result.sum().backward()  # draws again
            tensors.append(w.grad)
        found.append([t.detach().numpy() for t in (*tensors, flamec.get_rng_state())])
    return found


@pytest.mark.parametrize(
    ("function", "backend"),
    [
        *((f, "evaluate") for f in (inside, inside_by_grad, outside, checkpointed)),
        *((f, "auto") for f in (inside, outside)),
        (without_backward, "evaluate"),
    ],
)
def test_the_stream_is_that_of_eager_code(function: Callable[[T, T], Any], backend: str) -> None:
    expected, found = run(function, False, backend), run(function, True, backend)
    for mine, other in zip(found, expected, strict=True):
        for a, b in zip(mine, other, strict=True):
            # numbers are drawn in float32, whose logarithm is rounded otherwise in C
            np.testing.assert_allclose(a, b, rtol=1e-9 if backend == "evaluate" else 1e-6)
