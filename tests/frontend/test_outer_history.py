"""Backward passes in compiled functions that reach what an argument was computed from before."""

from __future__ import annotations

import gc
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn, optim
from flamec.errors import CompileError

T = flamec.Tensor


class Outer:
    """A model whose first part runs outside, and its second part in the function."""

    def __init__(self) -> None:
        flamec.manual_seed(0)
        self.body = nn.Linear(3, 4, dtype=flamec.float64)
        self.head = nn.Linear(4, 2, dtype=flamec.float64)
        self.optimizer = optim.SGD(self.head.parameters(), lr=0.1)
        self.hooked: list[Any] = []
        self.calls: list[int] = []

    def hidden(self, k: int) -> T:
        return self.body(flamec.full((5, 3), 0.5 + k, dtype=flamec.float64)).tanh()

    def state(self) -> list[Any]:
        parameters = [*self.body.parameters(), *self.head.parameters()]
        gradients = [None if p.grad is None else p.grad.numpy().copy() for p in parameters]
        return [
            *[p.detach().numpy().copy() for p in parameters],
            *gradients,
            *self.hooked,
            len(self.calls),
        ]


def plain(m: Outer, h: T) -> T:
    loss = (m.head(h) ** 2).mean()
    loss.backward()
    return loss.detach()


def with_a_step(m: Outer, h: T) -> T:
    m.optimizer.zero_grad()
    loss = plain(m, h)
    m.optimizer.step()
    return loss


def after_zeroing_all(m: Outer, h: T) -> T:
    m.body.zero_grad()
    m.head.zero_grad()
    return plain(m, h)


def with_an_effect(m: Outer, h: T) -> T:
    loss = plain(m, h)
    m.calls.append(len(m.calls))
    return loss


def split(m: Outer, h: T) -> T:
    loss = plain(m, h)
    return loss * 2.0 if loss.item() > 1e-3 else loss


def split_before(m: Outer, h: T) -> T:
    return plain(m, h * 2.0) if h.sum().item() > 0 else plain(m, h)


def twice(m: Outer, h: T) -> T:
    loss = (m.head(h) ** 2).mean()
    loss.backward(retain_graph=True)
    (h.sum() * 0.5).backward()
    return loss.detach()


def result_goes_on(m: Outer, h: T) -> T:
    loss = (m.head(h) ** 2).mean()
    loss.backward(retain_graph=True)
    return loss * 3.0


def in_place(m: Outer, h: T) -> T:
    h.mul_(2.0)
    loss = plain(m, h)
    h.add_(1.0)
    return loss


def only_some(m: Outer, h: T) -> T:
    loss = (m.head(h) ** 2).mean()
    loss.backward(inputs=[m.body.weight, m.head.bias])
    return loss.detach()


def shared_body(m: Outer, h: T) -> T:
    """The outer part's parameters are used in the function, too."""
    loss = (m.head(h) ** 2).mean() + (m.body.weight**2).sum()
    loss.backward()
    return loss.detach()


FUNCTIONS = (plain, with_a_step, after_zeroing_all, with_an_effect, split, split_before)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "function", (*FUNCTIONS, twice, result_goes_on, only_some, in_place, shared_body)
)
def test_gradients_go_on_outside(function: Callable[[Outer, T], T]) -> None:
    found = []
    for wrap in (lambda f: f, lambda f: flamec.compile(f, backend="evaluate")):
        model = Outer()
        step, seen = wrap(lambda h, m=model: function(m, h)), []
        for k in range(4):
            h = model.hidden(k) * 0.5
            h.retain_grad()
            h.register_hook(lambda g, m=model: m.hooked.append(g.numpy().copy()))
            result = step(h)
            if result.requires_grad:
                result.backward()
            assert h.grad is not None
            seen += [h.grad.numpy().copy(), result.item(), *model.state()]
        found.append(seen)
    same(*found)


def same(expected: list[Any], got: list[Any]) -> None:
    assert len(expected) == len(got)
    for a, b in zip(expected, got, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, 1e-10, 1e-12)


def test_one_outer_pass_for_arguments_with_a_common_history() -> None:
    model = Outer()
    compiled = flamec.compile(lambda a, b: plain(model, a * b), backend="evaluate")
    for k in range(4):
        h = model.hidden(k)
        compiled(h * 2.0, h.exp())  # two arguments with a common history, which is freed once
        with pytest.raises(RuntimeError, match="second time"):
            h.sum().backward()
    assert compiled.stats.traces == 2  # the first call found no gradients


def test_a_captured_tensor_with_a_history() -> None:
    model = Outer()
    h = model.hidden(1)
    flamec.compile(lambda x: plain(model, h + x), backend="evaluate")(flamec.zeros(4))
    other = Outer()
    plain(other, other.hidden(1) + flamec.zeros(4))
    for p, q in zip(model.body.parameters(), other.body.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None and flamec.equal(p.grad, q.grad)


def test_a_leaf_in_place_of_a_result() -> None:
    model = Outer()
    compiled = flamec.compile(lambda h: plain(model, h), backend="evaluate")
    compiled(model.hidden(0))
    leaf = model.hidden(1).detach().requires_grad_()
    compiled(leaf)
    assert leaf.grad is not None
    plainly = model.hidden(2).detach()
    compiled(plainly)
    assert plainly.grad is None


def views_of_a_result(m: Outer) -> tuple[T, T]:
    h = m.hidden(1)
    return h[:2], h[1:4]


def views_of_a_leaf(m: Outer) -> tuple[T, T]:
    return m.body.weight.t()[:2], m.body.weight.t()[1:]


@pytest.mark.parametrize("views_of_one", [views_of_a_result, views_of_a_leaf])
def test_views_of_one_memory(views_of_one: Callable[[Outer], tuple[T, T]]) -> None:
    results = []
    for wrap in (lambda f: f, lambda f: flamec.compile(f, backend="evaluate")):
        model = Outer()
        step = wrap(lambda a, b, m=model: plain(m, flamec.cat([a, b.exp()])))
        step(*views_of_one(model))
        results.append(model.state())
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, 1e-10)


def stepping_all(m: Outer, h: T) -> Any:
    everything = optim.SGD([*m.body.parameters(), *m.head.parameters()], lr=0.1)
    plain(m, h)
    everything.step()


def reading(m: Outer, h: T) -> Any:
    plain(m, h)
    assert m.body.weight.grad is not None
    return m.body.weight.grad * 2


def switching_off(m: Outer, h: T) -> Any:
    plain(m, h)
    m.body.weight.requires_grad_(False)
    m.body.weight.requires_grad_(True)


def changing(m: Outer, h: T) -> Any:
    plain(m, h)
    with flamec.no_grad():
        m.body.weight.mul_(0.5)


def by_an_outer_leaf(m: Outer, h: T) -> Any:
    return flamec.autograd.grad((m.head(h) ** 2).mean(), m.body.weight)[0]


@pytest.mark.parametrize("f", [stepping_all, reading, switching_off, changing, by_an_outer_leaf])
def test_what_is_known_only_after_the_call_is_no_program(f: Callable[[Outer, T], Any]) -> None:
    model = Outer()
    h, before = model.hidden(0), model.state()
    with pytest.raises(CompileError, match=r"known only after the call.*step the optimizer"):
        flamec.compile(f, fullgraph=True)(model, h)
    assert all(map(np.array_equal, before[:4], model.state()[:4]))
    assert model.body.weight.requires_grad and model.body.weight.grad is None
    results = []
    for run in (f, flamec.compile(f)):
        model = Outer()
        model.hidden(0).sum().backward()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            values = [run(model, model.hidden(k)) for k in range(7)]
        results.append([*model.state(), *(v.numpy() for v in values if v is not None)])
    told = [str(w.message) for w in seen]
    assert len(told) == 1 and "or detach it. So" in told[0] and "runs uncompiled" in told[0]
    assert (run.stats.python_runs, run.stats.traces) == (7, 4)  # at the 1st, 2nd, 3rd, 5th call
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_call_that_has_told_the_time_begins_anew_and_one_that_has_printed_does_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, started = Outer(), [0.0]

    def timed(h: T) -> Any:
        started[0] = time.time()
        return reading(model, h)

    def printing(h: T) -> Any:
        print("begins")
        return reading(model, h)

    compiled = flamec.compile(timed)
    compiled(model.hidden(0))
    assert compiled.stats.python_runs == 1 and started[0] > 0
    with pytest.raises(CompileError, match=r"known only after the call.*and before that print\(\)"):
        flamec.compile(printing)(model.hidden(0))
    assert capsys.readouterr().out == "begins\n"


def test_a_second_derivative_through_what_was_computed_outside_is_refused() -> None:
    model = Outer()

    def twice_differentiable(h: T) -> None:
        (model.head(h) ** 2).mean().backward(create_graph=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(CompileError, match="create_graph"):
            flamec.compile(twice_differentiable, backend="evaluate")(model.hidden(0))


def test_a_later_call_whose_history_has_other_leaves() -> None:
    model, other = Outer(), nn.Linear(3, 4, dtype=flamec.float64)
    stepped = optim.SGD(other.parameters(), lr=0.1)
    for p in other.parameters():
        p.grad = flamec.zeros_like(p)

    def step(h: T) -> None:
        plain(model, h)
        stepped.step()

    compiled = flamec.compile(step, backend="evaluate", fullgraph=True)
    compiled(model.hidden(0))
    compiled(model.hidden(1))
    with pytest.raises(CompileError, match="known only after the call"):
        compiled(other(flamec.ones(5, 3, dtype=flamec.float64)))
    before = other.weight.detach().numpy().copy()
    compiled = flamec.compile(step, backend="evaluate")
    compiled(model.hidden(1))
    compiled(other(flamec.ones(5, 3, dtype=flamec.float64)))  # by Python
    assert (compiled.stats.traces, compiled.stats.python_runs) == (1, 1)
    assert not np.array_equal(before, other.weight.detach().numpy())


def test_a_later_call_reaches_what_is_stepped() -> None:
    """When the function is traced no leaf of the argument is alive; nothing is done in vain."""
    model, w = Outer(), flamec.full((4,), 2.0, dtype=flamec.float64).requires_grad_()
    w.grad = flamec.zeros_like(w)
    stepped = optim.SGD([w], lr=0.1)

    def step(h: T) -> None:
        plain(model, h)
        stepped.step()

    compiled = flamec.compile(step, backend="evaluate", fullgraph=True)
    for _ in range(2):
        compiled(flamec.ones(5, 4, dtype=flamec.float64).requires_grad_() * 2)
    before = w.detach().numpy().copy(), model.head.weight.grad.numpy().copy()
    with pytest.raises(CompileError, match="known only after the call"):
        compiled(flamec.ones(5, 4, dtype=flamec.float64) * w)
    assert np.array_equal(before[0], w.detach().numpy())
    assert np.array_equal(before[1], model.head.weight.grad.numpy())


def test_what_is_stepped_may_be_reached_if_it_gets_no_gradient() -> None:
    found = []
    for wrap in (lambda f: f, lambda f: flamec.compile(f, backend="evaluate")):
        model = Outer()
        everything = optim.SGD([*model.body.parameters(), *model.head.parameters()], lr=0.1)

        def step(h: T, m: Outer = model, all: optim.SGD = everything) -> None:
            m.head(h).sum().backward(inputs=[m.head.weight])
            all.step()

        function = wrap(step)
        for k in range(3):
            function(model.hidden(k))
        found.append(model.state())
    same(*found)


def test_inputs_that_are_arguments_are_those_of_each_call() -> None:
    model = Outer()

    def step(h: T, w: T) -> None:
        (model.head(h) ** 2).sum().backward(inputs=[w])

    found = []
    for function in (step, flamec.compile(step, backend="evaluate")):
        for k in range(3):
            w = flamec.full((4,), 1.0 + k, dtype=flamec.float64).requires_grad_()
            h = w * model.hidden(k).detach()
            function(h, w)
            assert w.grad is not None
            found.append(w.grad.numpy())
            with pytest.raises(RuntimeError, match="second time"):
                h.sum().backward()
        other = model.hidden(3).detach().requires_grad_()
        function(other * 2.0, w)  # whose history is another
        assert other.grad is None and np.array_equal(found[-1], w.grad.numpy())
    np.testing.assert_allclose(found[3:], found[:3], 1e-10)


def test_inputs_that_the_history_does_not_have_may_be_switched_off() -> None:
    """Backward goes on when the call ends: the leaf requires no gradient by then."""
    for wrap in (lambda f: f, lambda f: flamec.compile(f, backend="evaluate")):
        model = Outer()
        w = flamec.full((4,), 1.5, dtype=flamec.float64).requires_grad_()

        def step(h: T, model: Outer = model, w: T = w) -> None:
            (model.head(h) ** 2).sum().backward(inputs=[w])
            w.requires_grad_(not w.requires_grad)

        wrap(step)(model.hidden(0))
        assert not w.requires_grad and w.grad is None
        assert all(p.grad is None for p in model.body.parameters())


def test_arguments_are_let_go() -> None:
    model = Outer()

    def step(h: T, v: T) -> bool:
        plain(model, h)
        return v.grad is None

    compiled = flamec.compile(step, backend="evaluate")
    v = flamec.ones(3).requires_grad_()
    reference = weakref.ref(v)
    assert compiled(model.hidden(0), v)
    del v
    gc.collect()
    assert reference() is None


def test_no_gradient_passes_a_leaf_that_the_function_makes() -> None:
    """None is None, not zeros."""

    def function(x: flamec.Tensor) -> flamec.Tensor:
        return x.detach().requires_grad_() * 0.9

    for each in (function, flamec.compile(function, backend="evaluate")):
        weight = flamec.ones(3).requires_grad_()
        result = each(weight * 2)
        assert result.requires_grad
        result.sum().backward()
        assert weight.grad is None


def test_gradients_by_an_argument_with_a_history() -> None:
    """They end at the argument (the divergence of a flow, a gradient penalty)."""

    def penalty(m: Outer, h: T) -> T:
        h.requires_grad_(True)
        (g,) = flamec.autograd.grad(m.head(h).tanh().sum(), h, create_graph=True)
        return (g.norm(dim=1) - 1).square().mean() + (m.head(h) * 0.1).mean()

    results = []
    for wrap in (lambda f: f, flamec.compile):
        m, function = Outer(), wrap(penalty)
        for k in range(3):
            function(m, m.hidden(k)).backward()
        results.append(m.state())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=0)


def test_gradients_by_an_argument_behind_another() -> None:
    def behind(a: T, b: T) -> T:
        (g,) = flamec.autograd.grad((a * b).sum(), a)
        return g

    a = flamec.ones(3, requires_grad=True) * 2
    np.testing.assert_array_equal(behind(a, a.square().detach()).numpy(), [4.0] * 3)
    compiled = flamec.compile(behind, fullgraph=True)
    np.testing.assert_array_equal(compiled(a, a.square().detach()).numpy(), [4.0] * 3)
    with pytest.raises(CompileError, match="uses its gradient"):
        compiled(a, a.square())
    found = flamec.compile(behind)(a, a.square())  # by Python
    np.testing.assert_array_equal(found.numpy(), [12.0] * 3)
