"""Random numbers and writes in the branches and loops of ``cond`` and ``while_loop``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn


def test_random_numbers_are_those_of_eager_code() -> None:
    def call(x: Any, n: Any) -> Any:
        y = flamec.cond(x.sum() > 0, lambda x: x + flamec.rand(3), lambda x: x, (x,))
        _, z = flamec.while_loop(
            lambda i, z: i < n, lambda i, z: (i + 1, z * flamec.rand(3)), (0, y)
        )
        return z, flamec.rand(2)

    compiled = flamec.compile(call, fullgraph=True)
    for sign, count in ((1, 2), (-1, 3), (1, 0)):
        x, n = flamec.tensor([1.0, 2.0, 3.0]) * sign, flamec.tensor(count)
        results = []
        for function in (call, compiled):
            flamec.manual_seed(7)
            results.append([t.tolist() for t in function(x, n)] + [flamec.rand(1).item()])
        assert results[0] == results[1]


def test_dropout_and_running_statistics_in_a_branch() -> None:
    """The gradient has the mask that the value had, though the branch is computed once more."""
    linear, norm = nn.Linear(4, 4).double(), nn.BatchNorm1d(4).double()
    parameters = [*linear.parameters(), *norm.parameters()]

    def call(x: Any) -> Any:
        y = flamec.cond(
            x.sum() > 0,
            lambda x: nn.functional.dropout(norm(linear(x)), 0.5),
            lambda x: 2 * nn.functional.dropout(linear(x), 0.3),
            (x,),
        )
        return (y * y).sum()

    compiled = flamec.compile(call, fullgraph=True)
    for sign in (1.0, -1.0):
        x = flamec.tensor(sign * np.abs(np.random.default_rng(23).normal(size=(6, 4))))
        results = []
        for function in (call, compiled):
            norm.reset_running_stats()
            flamec.manual_seed(4)
            value = function(x)
            found = flamec.autograd.grad(
                value, parameters, allow_unused=True, materialize_grads=True
            )
            state = [norm.running_mean.clone(), norm.num_batches_tracked.clone()]
            results.append([value.detach(), *found, *state])
        for found, wanted in zip(results[1], results[0], strict=True):
            np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-10, atol=1e-10)


def test_changes_of_tensors_from_outside() -> None:
    hits, last = flamec.zeros(2), flamec.zeros(3)
    weight = flamec.tensor(2.0, requires_grad=True)

    def count(x: Any) -> Any:
        hits[0].add_(1)
        return x * weight

    def note(x: Any) -> Any:
        hits.add_(10)
        last.copy_(x)
        with flamec.no_grad():
            weight.add_(1)
        return x + 1

    def body(i: Any, x: Any) -> Any:
        hits[1].sub_(1)
        return i + 1, x + last

    def call(x: Any) -> Any:
        y = flamec.cond(x[0] > 0, count, note, (x,))
        return flamec.while_loop(lambda i, y: i < 3, body, (0, y))[1]

    states = []
    for function in (call, flamec.compile(call, fullgraph=True)):
        with flamec.no_grad():
            hits.zero_(), last.zero_(), weight.fill_(2.0)
        found = [function(flamec.tensor([s, 2.0, 3.0])).tolist() for s in (1.0, -1.0, 1.0)]
        states.append((found, hits.tolist(), last.tolist(), weight.item()))
    assert states[0] == states[1] and states[0][1] == [12.0, 1.0]


def test_results_share_memory_with_nothing() -> None:
    x = flamec.ones(2)
    for wrap in (lambda f: f, lambda f: flamec.compile(f, fullgraph=True)):
        y = wrap(lambda x: flamec.cond(x[0] > 0, lambda x: x, lambda x: x, (x,)))(x)
        (z,) = wrap(lambda x: flamec.while_loop(lambda c: c[0] > 5, lambda c: (c,), (x,)))(x)
        y.add_(1), z.add_(1)
        assert x.tolist() == [1.0, 1.0] and y.tolist() == z.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("wrap", [lambda f: f, flamec.compile], ids=["eager", "compiled"])
def test_histories_of_what_bodies_change(wrap: Any) -> None:
    """What changes while nothing is recorded has none, what changes by a parameter has one."""
    w = flamec.ones(2).requires_grad_()
    plain, followed = flamec.zeros(2), flamec.zeros(2)

    def change(x: Any) -> Any:
        with flamec.no_grad():
            plain.add_(x * w)
        followed.add_(x * w)
        return x * w

    def step(x: Any) -> Any:
        return flamec.cond(x.sum() > 0, change, lambda x: x, (x,))

    function = wrap(step)
    for _ in range(3):
        function(flamec.full((2,), 2.0))
    assert not plain.requires_grad and followed.requires_grad
    followed.sum().backward()
    assert w.grad is not None and w.grad.tolist() == [6.0, 6.0]
    assert plain.tolist() == followed.tolist() == [6.0, 6.0]
