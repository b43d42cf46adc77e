"""requires_grad switched inside of compiled functions, and gradients that do not arrive."""

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


def adversarial(wrap: Callable[[Any], Any], thaws_early: bool) -> tuple[list[Any], Any]:
    """The generator's step freezes the discriminator."""
    flamec.manual_seed(0)
    generator = nn.Linear(3, 3, dtype=flamec.float64)
    discriminator = nn.Linear(3, 1, dtype=flamec.float64)
    first = optim.SGD(generator.parameters(), lr=0.1)
    second = optim.SGD(discriminator.parameters(), lr=0.1)

    def step(z: T, real: T) -> tuple[Any, ...]:
        for p in discriminator.parameters():
            p.requires_grad_(False)
        first.zero_grad()
        loss = (discriminator(generator(z)) ** 2).mean()
        if thaws_early:  # what was computed before gives no gradient all the same
            discriminator.requires_grad_(True)
        loss.backward()
        first.step()
        discriminator.requires_grad_(True)
        second.zero_grad()
        fake = generator(z).detach()
        other = ((discriminator(real) - 1) ** 2).mean() + (discriminator(fake) ** 2).mean()
        other.backward()
        second.step()
        return loss.detach(), other.detach()

    function, seen = wrap(step), []
    for k in range(4):
        z = flamec.full((4, 3), 0.1 * k + 0.2, dtype=flamec.float64)
        losses = function(z, z * 2.0 + 1.0)
        parameters = [*generator.parameters(), *discriminator.parameters()]
        assert all(p.requires_grad for p in parameters)
        seen += [x.detach().numpy().copy() for x in (*losses, *parameters)]
    return seen, function


@pytest.mark.parametrize("thaws_early", [False, True])
def test_frozen_for_a_part_of_the_call(thaws_early: bool) -> None:
    expected, _ = adversarial(lambda f: f, thaws_early)
    found, compiled = adversarial(lambda f: flamec.compile(f, backend="evaluate"), thaws_early)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a, b, 1e-12)
    assert (compiled.stats.traces, compiled.stats.python_runs) == (1, 0)


def in_turns(wrap: Callable[[Any], Any]) -> tuple[list[Any], Any]:
    """Each is frozen while the other learns, and left so."""
    first, second = flamec.ones(3).requires_grad_(), flamec.full((3,), 2.0).requires_grad_()

    def step(x: T) -> T:
        first.requires_grad_(False)
        second.requires_grad_(True)
        ((first * second * x) ** 2).sum().backward()
        first.requires_grad = True
        second.requires_grad = False
        loss = (first * second * x).sum()
        loss.backward()
        return loss.detach()

    function, seen = wrap(step), []
    for k in range(4):
        first.grad = second.grad = None
        seen.append(function(flamec.full((3,), k + 1.0)).item())
        assert first.grad is not None and second.grad is not None
        seen += [first.grad.tolist(), second.grad.tolist()]
        seen += [first.requires_grad, second.requires_grad]
    return seen, function


def test_flags_that_a_call_leaves_changed_are_set_by_each_call() -> None:
    expected, _ = in_turns(lambda f: f)
    found, compiled = in_turns(lambda f: flamec.compile(f, backend="evaluate", fullgraph=True))
    assert found == expected
    assert (compiled.stats.traces, compiled.stats.python_runs) == (2, 0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_switch_happens_once_a_call() -> None:
    leaf, counter = flamec.ones(3).requires_grad_(), {"n": 0}

    @flamec.compile(backend="evaluate")
    def step(x: T) -> Any:
        counter["n"] += 1  # a number that changes: the trace starts again
        leaf.requires_grad_(not leaf.requires_grad)
        return x * counter["n"], leaf.requires_grad

    for k in range(1, 5):
        result, flag = step(flamec.ones(2))
        assert result.tolist() == [k, k] and flag == leaf.requires_grad == (k % 2 == 0)


LEAF = flamec.ones(3).requires_grad_()


def on_of_an_argument(x: T) -> Any:
    x.requires_grad_()
    return x * 2.0, x.requires_grad


def off_of_an_argument(x: T) -> Any:
    x.requires_grad_(False)
    return x * 2.0, x.requires_grad, LEAF.requires_grad


def off_of_a_leaf_that_is_an_argument(x: T) -> Any:
    LEAF.requires_grad_(False)
    y = x * 2.0
    x.copy_(y)  # no leaf any more
    return y, x.requires_grad


def off_and_on(x: T) -> Any:
    x.requires_grad_(False)
    y = x * 2.0
    LEAF.requires_grad_(True)
    x.requires_grad_(True)
    return y, x * 3.0


@pytest.mark.parametrize(
    ("function", "is_leaf"),
    [
        (on_of_an_argument, False),
        (on_of_an_argument, True),
        (off_of_an_argument, False),
        (off_of_an_argument, True),
        (off_of_a_leaf_that_is_an_argument, True),
        (off_and_on, False),
        (off_and_on, True),
    ],
)
def test_a_switch_of_an_argument(function: Callable[[T], Any], is_leaf: bool) -> None:
    found = []
    compiled = flamec.compile(function, backend="evaluate", fullgraph=True)
    for step in (function, compiled):
        for _ in range(2):
            with flamec.no_grad():
                LEAF.fill_(1.0)
            LEAF.requires_grad_(True)
            x = (
                LEAF
                if is_leaf
                else flamec.ones(3).requires_grad_(function is not on_of_an_argument)
            )
            results = step(x)
            seen = [r.requires_grad if isinstance(r, T) else r for r in results]
            found.append((x.requires_grad, LEAF.requires_grad, x.tolist(), seen))
    LEAF.requires_grad_(True)
    assert compiled.stats.traces == 1
    assert found[0] == found[1] == found[2] == found[3]


def test_a_tensor_that_is_switched_on_by_a_trace_that_starts_again() -> None:
    counter = {"n": 0}
    for wrap in (lambda f: f, lambda f: flamec.compile(f, backend="evaluate")):
        leaf = flamec.ones(3)

        def step(x: T, leaf: T = leaf) -> T:
            counter["n"] += 1
            leaf.requires_grad_()
            (leaf * x).sum().backward()
            return x * counter["n"]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            wrap(step)(flamec.full((3,), 2.0))
        assert leaf.is_leaf and leaf.requires_grad
        assert leaf.grad is not None and leaf.grad.tolist() == [2.0] * 3


@pytest.mark.parametrize("is_argument", [False, True])
def test_a_result_of_a_leaf_that_is_switched_off_goes_back_to_it(is_argument: bool) -> None:
    leaf = flamec.ones(3).requires_grad_()

    def step(x: T, given: T | None) -> tuple[T, T]:
        y = (leaf if given is None else given) * x
        leaf.requires_grad_(False)
        return y, leaf * 3.0

    compiled = flamec.compile(step, backend="evaluate")
    for function in (step, compiled, compiled):
        first, second = function(flamec.full((3,), 2.0), leaf if is_argument else None)
        assert (first.requires_grad, second.requires_grad) == (True, False)
        assert not leaf.requires_grad
        leaf.requires_grad_(True)
        leaf.grad = None
        first.sum().backward()
        assert leaf.grad is not None and leaf.grad.tolist() == [2.0] * 3
    assert compiled.stats.traces == 1


def test_a_leaf_that_is_switched_off_and_on() -> None:
    leaf = flamec.ones(3).requires_grad_()

    def frozen_before(x: T) -> tuple[T, T]:
        leaf.requires_grad_(False)
        y = leaf * x
        leaf.requires_grad_(True)
        return y, leaf * 2.0

    for function in (frozen_before, flamec.compile(frozen_before, backend="evaluate")):
        leaf.grad = None
        first, second = function(flamec.ones(3))
        assert (first.requires_grad, second.requires_grad) == (False, True)
        second.sum().backward()
        assert leaf.grad is not None and leaf.grad.tolist() == [2.0] * 3


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_leaf_that_is_switched_on_after_it_was_used() -> None:
    """As a discriminator that is frozen outside, and thawed in the call."""

    def used_before(x: T, leaf: T) -> T:
        h = x * leaf
        leaf.requires_grad_(True)
        (h * x + leaf * 3.0).sum().backward()
        leaf.requires_grad_(False)
        return h.detach()

    found = []
    for step in (used_before, flamec.compile(used_before, backend="evaluate")):
        leaf, x = flamec.ones(3), flamec.ones(3).requires_grad_()
        step(x, leaf)
        assert x.grad is not None and leaf.grad is not None
        found.append((leaf.grad.tolist(), x.grad.tolist(), leaf.requires_grad))
    assert found[0] == found[1] == ([3.0] * 3, [2.0] * 3, False)

    def returned(x: T, leaf: T) -> T:
        h = x * leaf
        leaf.requires_grad_(True)
        return h + leaf

    compiled, gradients = flamec.compile(returned, backend="evaluate"), []
    for step in (returned, compiled):  # compiled: it runs as it is
        leaf = flamec.ones(3)
        for _ in range(2):
            step(flamec.full((3,), 2.0), leaf).sum().backward()
            leaf.requires_grad_(False)
        gradients.append(leaf.grad.tolist() if leaf.grad is not None else None)
    assert gradients[0] == gradients[1] == [2.0] * 3
    assert compiled.stats.python_runs == 2
    with pytest.raises(CompileError, match=r"switched on.*call backward inside"):
        flamec.compile(returned, fullgraph=True)(flamec.ones(3), flamec.ones(3))


def made_and_returned(x: T) -> T:
    return (x.detach() * 2).requires_grad_()


def returned_with_its_gradient(x: T) -> tuple[T, T]:
    z = (x.detach() * 2).requires_grad_()
    (z * z).sum().backward()
    assert z.grad is not None
    return z.grad, z


def returned_with_a_view(x: T) -> tuple[T, T]:
    z = x.clone().requires_grad_()
    return z[0], z


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_leaves_that_a_function_makes_and_returns() -> None:
    def returned_with_history(x: T) -> tuple[T, T]:
        z = (x.detach() * 2).requires_grad_()
        return (z * x).sum(), z

    def view_of_a_leaf(x: T) -> T:
        return (x * 2.0).detach().requires_grad_()[0]

    compiled = flamec.compile(view_of_a_leaf, backend="evaluate")
    assert all(compiled(flamec.ones(3)).requires_grad for _ in range(2))

    cases = ((made_and_returned, 0), (returned_with_its_gradient, 0), (returned_with_a_view, 0))
    for function, runs in (*cases, (returned_with_history, 2)):
        compiled = flamec.compile(function, backend="evaluate")
        for k in (1.0, 2.0):
            found = []
            for f in (function, compiled):
                result = f(flamec.full((3,), k))
                parts = result if isinstance(result, tuple) else (result,)
                z = parts[-1]
                flags = [(t.requires_grad, t.is_leaf) for t in parts]
                sum(t.sum() * 5 for t in parts).backward()  # type: ignore[union-attr]
                assert z.grad is not None
                found.append((flags, z.tolist(), z.grad.tolist()))
            assert found[0] == found[1]
        assert compiled.stats.python_runs == runs


def test_views() -> None:
    def detached(x: T) -> T:
        y = x.detach().requires_grad_()
        (y * y * x).sum().backward()
        assert y.grad is not None
        return y.grad

    for step in (detached, flamec.compile(detached, backend="evaluate")):
        assert step(flamec.full((2,), 3.0)).tolist() == [18.0, 18.0]
    base = flamec.ones(4)
    first, second = base[:2].requires_grad_(), base[2:]
    with pytest.raises(CompileError, match=r"requires_grad_\(False\) of a view"):
        flamec.compile(lambda a, b: (a.requires_grad_(False), b * 2), backend="evaluate")(
            first, second
        )


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("twice", [False, True])
def test_a_captured_leaf_that_is_an_argument_too(dynamic: bool | None, twice: bool) -> None:
    """Given twice it is one input still; with symbolic sizes its memory's base is the input."""

    def run(wrap: Callable[[Any], Any]) -> tuple[list[Any], Any]:
        leaf = flamec.ones(4)

        def step(y: T, box: list[T]) -> T:
            leaf.requires_grad_(not leaf.requires_grad)
            return leaf * 2 + y + box[0]

        function, seen = wrap(step), []
        for _ in range(4):
            result = function(leaf, [leaf if twice else flamec.ones(4)])
            seen.append((result.tolist(), result.requires_grad, leaf.requires_grad))
            if result.requires_grad:
                result.sum().backward()
                seen.append(leaf.grad.tolist())
        return seen, function

    expected, _ = run(lambda f: f)
    found, compiled = run(lambda f: flamec.compile(f, backend="evaluate", dynamic=dynamic))
    assert found == expected
    assert (compiled.stats.traces, compiled.stats.python_runs) == (2, 0)
    kinds = [s.kind for s in compiled.programs[0].captured.sources]
    assert kinds == (["base"] if dynamic else ["argument"]) + ["argument"] * (not twice)


def test_a_leaf_that_is_switched_off_before_backward() -> None:
    for wrap in (lambda f: f, lambda f: flamec.compile(f, backend="evaluate")):
        leaf, other = flamec.ones(3).requires_grad_(), flamec.ones(3).requires_grad_()

        def step(x: T, leaf: T = leaf, other: T = other) -> T:
            h = x * leaf * other
            leaf.requires_grad_(False)
            h.sum().backward()
            return h.detach()

        wrap(step)(flamec.ones(3))
        assert not leaf.requires_grad and leaf.is_leaf and leaf.grad is None
        assert other.grad is not None


def test_inputs_that_no_gradient_arrives_at_have_none() -> None:
    a, b = flamec.ones(3).requires_grad_(), flamec.ones(3).requires_grad_()
    both = flamec.ones(3).requires_grad_()
    arrived: list[str] = []
    b.register_hook(lambda g: arrived.append("b"))
    both.register_hook(lambda g: arrived.append("both"))

    @flamec.compile(backend="evaluate")
    def function(x: T) -> tuple[T, T]:
        return x * a * both, (x * b * both).sum()

    first, second = function(flamec.full((3,), 2.0))
    first.sum().backward(retain_graph=True)
    assert a.grad is not None and a.grad.tolist() == [2.0] * 3
    assert b.grad is None and arrived == ["both"]
    gradient = flamec.autograd.grad(second, [a, b], create_graph=True, allow_unused=True)
    assert gradient[0] is None and gradient[1] is not None and gradient[1].tolist() == [2.0] * 3


@pytest.mark.parametrize("kind", ["computed", "view", "view of computed", "by attribute"])
def test_gradients_end_at_a_leaf_made_of_what_was_not_recorded(kind: str) -> None:
    def f(x: T) -> tuple[T, T]:
        with flamec.no_grad():
            h = x.view(-1) if kind == "view" else x * 2
            h = h[1:] if kind == "view of computed" else h
        if kind == "by attribute":
            h.requires_grad = True
        else:
            h.requires_grad_()
        product = (h * x[-h.shape[0] :]).sum()
        return product, product * 2

    def inside(x: T) -> Any:
        f(x)[0].backward()
        return x.grad

    found = []
    for wrap in (lambda f: f, flamec.compile):
        x, y = (flamec.arange(1.0, 4.0).requires_grad_() for _ in range(2))
        wrap(f)(x)[1].backward()
        wrap(inside)(y)
        assert x.grad is not None and y.grad is not None
        found.append((x.grad.numpy(), y.grad.numpy()))
    np.testing.assert_array_equal(*found)
