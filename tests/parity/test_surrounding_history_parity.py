"""Gradients asked for in ``vmap`` through what was computed around it, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")

Wrap = Callable[[Any], Any]


def scaled(x: Any) -> Any:
    return x**2 * x.sum()


def pulled_back(p: ModuleType, compiled: Wrap) -> Any:
    _, pull_back = p.func.vjp(scaled, p.arange(1.0, 4.0))
    rows = compiled(p.func.vmap(pull_back))(p.eye(3))[0]
    assert not rows.requires_grad
    return rows


def pushed_forward(p: ModuleType, compiled: Wrap) -> Any:
    _, push_forward = p.func.linearize(scaled, p.arange(1.0, 4.0))
    return compiled(p.func.vmap(push_forward))(p.eye(3))


def recorded(p: ModuleType, compiled: Wrap) -> Any:
    x = p.arange(1.0, 4.0).requires_grad_()
    y = scaled(x)

    def row(v: Any) -> Any:
        return p.autograd.grad(y, x, v, retain_graph=True)[0]

    return compiled(p.func.vmap(row))(p.eye(3))


def in_one_function(p: ModuleType, compiled: Wrap) -> Any:
    def rows(x: Any) -> Any:
        _, pull_back = p.func.vjp(scaled, x)
        return p.func.vmap(lambda u: pull_back(u)[0])(p.eye(3))

    x = p.arange(1.0, 4.0)
    examples = p.arange(1.0, 7.0).reshape(2, 3)
    slope = p.func.grad(lambda x: rows(x).prod())
    return compiled(rows)(x), compiled(slope)(x), compiled(p.func.vmap(rows))(examples)


def of_a_parameter(p: ModuleType, compiled: Wrap) -> Any:
    w = p.arange(1.0, 4.0).requires_grad_()
    _, pull_back = p.func.vjp(lambda x: scaled(x) * w**2, p.arange(2.0, 5.0))
    rows = p.func.vmap(pull_back)(p.eye(3))[0]
    return rows, *p.autograd.grad(rows.sum(), w)


def tangent_kernel(p: ModuleType, compiled: Wrap) -> Any:
    """Two inputs' Jacobians by the weights times each other, without the Jacobians."""
    weight = p.arange(6.0).reshape(2, 3) / 5
    first, second = p.arange(9.0).reshape(3, 3), p.arange(6.0).reshape(2, 3) - 2

    def entry(one: Any, other: Any) -> Any:
        _, pull_back = p.func.vjp(lambda w: (w @ other).tanh(), weight)

        def row(seed: Any) -> Any:
            return p.func.jvp(lambda w: (w @ one).tanh(), (weight,), pull_back(seed))[1]

        return p.func.vmap(row)(p.eye(2))

    all_pairs = p.func.vmap(p.func.vmap(entry, (None, 0)), (0, None))
    return compiled(all_pairs)(first, second)


PROGRAMS = [pulled_back, pushed_forward, recorded, in_one_function, of_a_parameter, tangent_kernel]
WAYS: dict[str, Wrap] = {"eager": lambda f: f, "compiled": flamec.compile}


def arrays(result: Any) -> list[np.ndarray]:
    parts = result if isinstance(result, (list, tuple)) else [result]
    return [part.detach().numpy() for part in parts]


@pytest.mark.filterwarnings("ignore:.*runs uncompiled")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_agrees_with_pytorch(program: Callable[[ModuleType, Wrap], Any], way: str) -> None:
    ours, wanted = program(flamec, WAYS[way]), program(torch, lambda f: f)
    for one, other in zip(arrays(ours), arrays(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*runs uncompiled")
@pytest.mark.parametrize("way", WAYS)
def test_histories_in_and_around_the_function(way: str) -> None:
    """PyTorch refuses what follows; against the formulas."""
    x = flamec.arange(1.0, 4.0).requires_grad_()
    h = x**2

    def both(v: Any) -> Any:
        return flamec.autograd.grad((h * v * x).sum(), (x, h), retain_graph=True)

    by_x, by_h = WAYS[way](flamec.func.vmap(both))(flamec.eye(3))
    assert by_x.tolist() == np.diag([3.0, 12.0, 27.0]).tolist()
    assert by_h.tolist() == np.diag([1.0, 2.0, 3.0]).tolist()
