"""A second backward pass is an error, compiled or not, where the first has freed what it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec

T = flamec.Tensor


def both(f: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return f, flamec.compile(f, backend="evaluate")


def is_refused(tensor: T) -> bool:
    try:
        tensor.sum().backward(retain_graph=True)
    except RuntimeError as error:
        assert "second time" in str(error)
        return True
    return False


def test_results_from_which_a_pass_begins_after_another() -> None:
    """The program keeps none of these factors, eager mode keeps each."""
    for f in both(lambda x, y: (x * 2, x * 2 + 1, y * 3, x + y)):
        a, b, c, d = f(flamec.ones(3).requires_grad_(), flamec.ones(3).requires_grad_())
        a.sum().backward(retain_graph=True)
        a.sum().backward()
        assert [is_refused(t) for t in (a, c, d, b, a)] == [True, False, False, False, True]
    for f in both(lambda x: (h := x * 2, h + 1, h * 3)):
        results = f(flamec.ones(3).requires_grad_())
        results[1].sum().backward()
        assert [is_refused(t) for t in results] == [True, True, True]
    for f in both(lambda x: (x + 1, -x)):
        results = f(flamec.ones(3).requires_grad_())
        results[0].sum().backward()
        assert [is_refused(t) for t in results] == [False, False]


def test_a_state_that_is_not_detached_between_backward_passes() -> None:
    for wrap in range(2):
        held = {"h": flamec.zeros(3)}

        def step(x: T, held: dict[str, T] = held) -> T:
            held["h"] = held["h"] * 0.5 + x
            return held["h"] * 1.5

        function = both(step)[wrap]
        x = flamec.ones(3).requires_grad_()
        for _ in range(2):  # the zeros at first have no history
            function(x).sum().backward()
        with pytest.raises(RuntimeError, match="second time"):
            function(x).sum().backward()


def test_what_a_pass_in_the_function_has_freed() -> None:
    w = flamec.ones(3).requires_grad_()

    def step(x: T) -> tuple[T, ...]:
        h = x * w
        added = x + w
        (h.sum() + added.sum()).backward()
        return h, h[:1], h + 1, added, added * 2

    for f in both(step):
        assert [is_refused(t) for t in f(flamec.ones(3))] == [True, True, True, False, False]


def test_a_second_pass_in_the_function() -> None:
    w = flamec.ones(3).requires_grad_()
    refused = []

    def twice(x: T, keep: bool) -> None:
        loss = (x * w).sum()
        loss.backward(retain_graph=keep)
        try:
            loss.backward()
        except RuntimeError as error:
            refused.append(str(error).partition(":")[0])

    gradients = []
    for f in both(twice):
        w.grad = None
        f(flamec.ones(3), False)
        f(flamec.ones(3), True)
        assert w.grad is not None
        gradients.append(w.grad.tolist())
    assert gradients == [[3.0] * 3] * 2
    assert refused == ["trying to backward through the graph a second time"] * 2


def test_a_pass_within_the_backward_of_a_function_frees_nothing_outside() -> None:
    """The rule of a fixed point (Bai et al., Deep Equilibrium Models, section 3.1.3)."""

    class FixedPoint(flamec.autograd.Function):
        @staticmethod
        def forward(ctx: Any, w: T, x: T) -> T:
            z = flamec.tanh(flamec.zeros_like(x) * w + x * w)
            ctx.save_for_backward(w, x, z)
            return z

        @staticmethod
        def backward(ctx: Any, gradient: T) -> Any:
            with flamec.enable_grad():
                w, x, z = (t.detach().requires_grad_() for t in ctx.saved_tensors)
                f = flamec.tanh(z * w + x * w)
            seed = gradient + flamec.autograd.grad(f, z, gradient, retain_graph=True)[0]
            return flamec.autograd.grad(f, (w, x), seed)

    found = []
    for wrap in (lambda f: f, flamec.compile):
        w, x = (flamec.full((3,), v, dtype=flamec.float64).requires_grad_() for v in (0.5, 2.0))
        z = wrap(FixedPoint.apply)(w, x)
        z.pow(2).sum().backward()
        found.append([w.grad, x.grad])
    for a, b in zip(*found, strict=True):
        assert a.tolist() == pytest.approx(b.tolist(), rel=1e-12)


def test_a_pass_frees_nothing_behind_detach() -> None:
    """The generator of an adversarial network learns after the discriminator."""

    def step(x: T, w: T, v: T) -> None:
        drawn = (x * w).sigmoid()
        (drawn.detach() * v).tanh().sum().backward()
        (drawn * v).tanh().sum().backward()

    found = []
    for function in both(step):
        w, v = (flamec.full((3,), k).requires_grad_() for k in (0.5, 2.0))
        function(flamec.ones(3), w, v)
        found.append([t.grad.tolist() for t in (w, v)])
    assert found[0] == found[1]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("wrap", [0, 1])
@pytest.mark.parametrize("named", [0, 1])
def test_a_pass_to_named_inputs_meets_only_what_leads_to_them(wrap: int, named: int) -> None:
    """Rules and hooks of other paths are not asked, and histories behind the inputs stay."""
    met: list[str] = []

    class Marked(flamec.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: T) -> T:
            return x * 1.0

        @staticmethod
        def backward(ctx: Any, g: T) -> T:
            met.append("rule")
            return g

    def twice(w: T, v: T) -> tuple[T, T, T]:
        h = w * w
        h.register_hook(lambda g: met.append("inputs"))
        y = (h.sin() * Marked.apply(v).exp()).sum()
        if named:
            y.backward(inputs=[h])
            g = h.grad
        else:
            (g,) = flamec.autograd.grad(y, h)
        met.append("end")
        (h * h).sum().backward()
        return g, w.grad, v.grad

    values = [[0.5, -1.0], [0.25, 2.0]]
    w, v = (flamec.tensor(a, dtype=flamec.float64, requires_grad=True) for a in values)
    w.register_hook(lambda g: met.append("leaf"))
    g, _, none = both(twice)[wrap](w, v)
    assert none is None and v.grad is None
    a, b = map(np.asarray, values)
    np.testing.assert_allclose(g.numpy(), np.cos(a * a) * np.exp(b), rtol=1e-12)
    np.testing.assert_allclose(w.grad.numpy(), 4 * a**3, rtol=1e-12)
    traced = ["rule"] * wrap  # a trace records the rule where the function is applied
    assert met == [*traced, "inputs", "end", "inputs", "leaf"]


def test_a_leaf_made_of_what_a_pass_has_gone_through_has_a_history_of_its_own() -> None:
    def f(x: T, recording: bool) -> T:
        h = x * 1.5
        h.sum().backward()
        if recording:
            return h.detach().requires_grad_() * 2
        with flamec.no_grad():
            h = h * 2
        return h.requires_grad_() * 2

    for function in both(f):
        for recording in (True, False):
            result = function(flamec.ones(3).requires_grad_(), recording)
            assert not is_refused(result) and not is_refused(result)


def test_passes_from_results_that_share_no_saved_values() -> None:
    def f(x: T, y: T) -> tuple[T, ...]:
        h = x.exp()
        return (h * x).sum(), (y.exp() * y.tanh()).sum(), (h.detach() * y.sin()).sum()

    for kept in (False, True):
        found = []
        for function in both(f):
            x, y = (flamec.linspace(0.5, 1, 3).requires_grad_() for _ in range(2))
            results = function(x, y)
            for i in (1, 0, 2):
                results[i].backward(retain_graph=kept and i == 1)
            assert [is_refused(t) for t in results] == [True, not kept, True]
            assert x.grad is not None and y.grad is not None
            found.append([x.grad.numpy(), y.grad.numpy()])
        np.testing.assert_allclose(*found, rtol=1e-6)


def test_saved_values_live_as_long_as_a_result_that_needs_them() -> None:
    compiled = flamec.compile(lambda x, y: ((x.exp() * x).sum(), (y.exp() * y).sum()))
    first, second = compiled(*(flamec.ones(3).requires_grad_() for _ in range(2)))
    call = first.grad_fn.op.derivative.__self__
    first.backward()
    assert call._later, "the second result still has a way back"
    second.backward()
    assert not call._later
    first, second = compiled(*(flamec.ones(3).requires_grad_() for _ in range(2)))
    call = first.grad_fn.op.derivative.__self__
    del second
    first.backward()
    assert not call._later


def test_a_gradient_by_one_input_goes_through_what_depends_on_it_alone() -> None:
    """A gradient that was computed from ``w`` without recording does not depend on it."""

    def f(x: T, w: T) -> T:
        q = x.detach().requires_grad_()
        (q * w).sum().backward()
        assert q.grad is not None
        h = x * 2 * q.grad
        return h * flamec.autograd.grad((h * w).sum(), w)[0]

    for function in both(f):
        x, w = (flamec.ones(3).requires_grad_() for _ in range(2))
        assert not is_refused(function(x * 2, w))
        assert x.grad is not None and x.grad.tolist() == [16.0] * 3


def test_what_no_gradient_arrives_at_is_not_freed() -> None:
    """A result that does not depend on an argument leaves the argument's history alone."""
    for function in both(lambda x, w: (w.sin(), x.cos())):
        x, w = (flamec.ones(3).requires_grad_() for _ in range(2))
        y = x.exp()
        results = function(y, w)
        results[0].sum().backward()
        assert not is_refused(y * 1.0)


def test_tensors_that_were_changed_before_a_pass_in_the_function() -> None:
    """Eager mode refuses to go back through what a pass has freed; a program leaves state
    without a history then (docs/GRADIENTS.md), so a pass from outside ends there."""
    for wrap in range(2):
        w, u = (flamec.ones(3).requires_grad_() for _ in range(2))
        state, argument = flamec.zeros(3), flamec.ones(3) * w

        def step(x: T, argument: T, state: T = state, w: T = w) -> None:
            state.copy_(x * w)
            argument.mul_(w)
            ((state * state).sum() + argument.sum()).backward()

        both(step)[wrap](flamec.ones(3), argument)
        assert w.grad is not None and w.grad.tolist() == [4.0, 4.0, 4.0]
        assert is_refused(argument)
        assert state.requires_grad is (wrap == 0)
        if wrap == 0:
            assert is_refused(state)
        else:
            (state * u).sum().backward()
            assert u.grad is not None and u.grad.tolist() == [1.0, 1.0, 1.0]
        assert w.grad.tolist() == [4.0, 4.0, 4.0]
