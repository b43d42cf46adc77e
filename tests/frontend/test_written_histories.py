"""Tensors with a history that compiled functions change in place: it goes on as in eager mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn

T = flamec.Tensor


def halved(x: T, w: T) -> None:
    x.mul_(0.5)


def first_row_changed(x: T, w: T) -> T:
    x[0].mul_(w)
    return x


def rectified(x: T, w: T) -> T:
    return nn.functional.relu(x, inplace=True) * w


def replaced(x: T, w: T) -> T:
    x.copy_(w.expand(x.shape))
    return x * 2


def not_recorded(x: T, w: T) -> T:
    with flamec.no_grad():
        x.mul_(3.0)
    x.detach()[0] = 1.0
    return x * w


def several_times(x: T, w: T) -> T:
    x.add_(w)
    y = x - w
    x.mul_(w)
    return y


FUNCTIONS = (halved, first_row_changed, rectified, replaced, not_recorded, several_times)


def whole(w: T) -> tuple[T, T]:
    base = flamec.arange(-3.0, 3.0).view(2, 3) * w
    return base, base


def rows(w: T) -> tuple[T, T]:
    base = flamec.arange(-6.0, 6.0).view(4, 3) * w
    return base, base[1:3]


def columns(w: T) -> tuple[T, T]:
    base = (flamec.arange(-3.0, 3.0).view(3, 2) + w[0]) * w[1]
    return base, base.T


def plain(w: T) -> tuple[T, T]:
    base = flamec.arange(-3.0, 3.0).view(2, 3)
    return base, base


def outcome(f: Callable[..., Any], make: Callable[[T], tuple[T, T]], result_too: bool) -> list[Any]:
    w = flamec.linspace(0.5, 1.5, 3).requires_grad_()
    base, x = make(w)
    result = f(x, w)
    found: list[Any] = [base.requires_grad, x.requires_grad, base.detach().numpy().copy()]
    loss = x.square().sum() + base.sum()
    if result_too and result is not None:
        loss = loss + result.square().sum()
    if loss.requires_grad:
        loss.backward()
    return [*found, None if w.grad is None else w.grad.numpy()]


@pytest.mark.parametrize("make", [whole, rows, columns, plain])
@pytest.mark.parametrize("f", FUNCTIONS)
def test_gradients_through_what_a_call_has_changed(f: Any, make: Any) -> None:
    compiled = flamec.compile(f)
    for result_too in (False, True, False):
        got, expected = outcome(compiled, make, result_too), outcome(f, make, result_too)
        assert got[:2] == expected[:2]
        np.testing.assert_array_equal(got[2], expected[2])
        assert (got[3] is None) == (expected[3] is None)
        if expected[3] is not None:
            np.testing.assert_allclose(got[3], expected[3], rtol=1e-5, atol=1e-6)
    assert compiled.stats.traces == 1


def test_views_of_one_memory_among_the_arguments() -> None:
    def f(x: T, y: T, w: T) -> tuple[T, T]:
        x.mul_(w)
        return (y * w).sum(), y

    found = []
    for wrap in (lambda f: f, flamec.compile):
        w = flamec.linspace(0.5, 1.5, 3).requires_grad_()
        base = flamec.arange(12.0).view(4, 3) * w
        loss, y = wrap(f)(base[:2], base[1], w)
        (loss + y.sum() + base.square().sum()).backward()
        assert w.grad is not None
        found.append(w.grad.numpy())
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_state_that_is_changed_keeps_its_history() -> None:
    found = []
    for wrap in (lambda f: f, flamec.compile):
        w = flamec.linspace(0.5, 1.5, 3).requires_grad_()
        held = {"total": flamec.zeros(3)}

        def add(x: T, w: T = w, held: dict[str, T] = held) -> None:
            held["total"].add_(x * w)

        function = wrap(add)
        for i in range(3):
            function(flamec.full((3,), float(i)))
        held["total"].square().sum().backward()
        assert w.grad is not None
        found.append(w.grad.numpy())
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_a_leaf_is_refused_by_a_program_for_what_is_none() -> None:
    compiled = flamec.compile(halved)
    w = flamec.ones(3).requires_grad_()
    compiled(w * 2, w)
    with pytest.raises(RuntimeError, match="leaf tensor that requires grad"):
        compiled(flamec.ones(3).requires_grad_(), w)


def test_gradients_that_were_read_are_those_of_the_call() -> None:
    """A pass from one result adds to a gradient that another result was computed from."""

    def f(x: T, w: T) -> tuple[T, T]:
        assert w.grad is not None
        h = (x + w.grad) * w
        return h.sum(), (h * h).sum()

    found = []
    for wrap in (lambda f: f, flamec.compile):
        w = flamec.ones(3).requires_grad_()
        w.grad = flamec.full((3,), 2.0)
        first, second = wrap(f)(flamec.ones(3), w)
        first.backward(retain_graph=True)
        second.backward()
        found.append(w.grad.numpy())
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_what_is_changed_is_written_once() -> None:
    """A program gives back results and what its derivative needs, no copies of what it changed."""
    for f, given in ((halved, 0), (first_row_changed, 1), (several_times, 2)):
        compiled = flamec.compile(f)
        w = flamec.linspace(0.5, 1.5, 3).requires_grad_()
        compiled(whole(w)[1], w)
        (program,) = compiled.programs
        assert len(program.forward_graph.updates) == 1
        assert len(program.forward_graph.outputs) == given
