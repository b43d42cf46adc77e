"""Hooks that change something, in compiled functions whose backward begins outside.

Each program runs eagerly and compiled; what hooks stored, gradients and counts of traces are
compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from plain_states import plain, same

import flamec
from flamec import nn
from flamec.errors import CompileError

T = flamec.Tensor
CALLS = 4


class Model(nn.Module):
    """What hooks write to: ``seen``, ``last``, ``total``, ``count``."""

    last: Any = None

    def __init__(self) -> None:
        super().__init__()
        flamec.manual_seed(0)
        self.first = nn.Linear(3, 4, dtype=flamec.float64)
        self.second = nn.Linear(4, 2, dtype=flamec.float64)
        self.seen: list[Any] = []
        self.stored: dict[str, Any] = {}
        self.total = flamec.zeros(4, dtype=flamec.float64)
        self.count = 0

    def hidden(self, x: T) -> T:
        return self.first(x).tanh()

    def store(self, gradient: T) -> None:
        self.last = gradient


def stored_in_a_dict(m: Model, x: T) -> T:
    h = m.hidden(x)
    h.register_hook(lambda g: m.stored.__setitem__("h", g))
    return m.second(h).sum()


def stored_by_a_method(m: Model, x: T) -> T:
    h = m.hidden(x)
    h.register_hook(m.store)
    return (m.second(h) ** 2).sum()


def appended_numbers(m: Model, x: T) -> T:
    h = m.hidden(x)
    h.register_hook(lambda g: m.seen.append(g.norm().item()))
    return (m.second(h) ** 2).sum()


def added_in_place(m: Model, x: T) -> T:
    def hook(gradient: T) -> None:
        m.total.add_(gradient.abs().sum(0))

    h = m.hidden(x)
    h.register_hook(hook)
    return (m.second(h) ** 2).sum()


def counted(m: Model, x: T) -> T:
    def hook(gradient: T) -> None:
        m.count += 1
        print(f"gradient {m.count}: {gradient.sum().item():.6f}")

    h = m.hidden(x)
    h.register_hook(hook)
    return (m.second(h) ** 2).sum()


def scaled_and_appended(m: Model, x: T) -> T:
    def hook(gradient: T) -> T:
        m.seen.append(gradient)
        return gradient.clamp(-0.5, 0.5) * 2

    h = m.hidden(x)
    h.register_hook(hook)
    return (m.second(h) ** 2).sum()


def two_on_one(m: Model, x: T) -> T:
    h = m.hidden(x)
    h.register_hook(lambda g: m.seen.append(g))
    h.register_hook(lambda g: g * 3)
    h.register_hook(lambda g: m.seen.append(g))
    y = m.second(h)
    y.register_hook(lambda g: m.seen.append(g))
    return (y**2).sum()


def of_modules(m: Model, x: T) -> T:
    return (m.second(m.hidden(x)) ** 2).sum()


PROGRAMS: list[Callable[[Model, T], T]] = [
    stored_in_a_dict,
    stored_by_a_method,
    appended_numbers,
    added_in_place,
    counted,
    scaled_and_appended,
    two_on_one,
    of_modules,
]


def with_module_hooks(m: Model) -> None:
    m.second.register_full_backward_pre_hook(lambda _, o: m.seen.append(("before", *o)))
    m.second.register_full_backward_hook(lambda _, i, o: m.seen.append(("second", *i, *o)))
    m.first.register_full_backward_hook(lambda _, i, o: m.seen.append(("first", i[0] is None, *o)))


def state(m: Model) -> Any:
    gradients = [None if p.grad is None else p.grad for p in m.parameters()]
    return plain([m.seen, m.last, m.stored, m.total, m.count, gradients])


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("program", PROGRAMS)
def test_hooks_are_called_in_each_backward(
    program: Callable[[Model, T], T], create_graph: bool, capsys: Any
) -> None:
    found, printed = [], []
    compiled = None
    for wrap in (lambda f: f, lambda f: flamec.compile(f, backend="evaluate")):
        m = Model()
        if program is of_modules:
            with_module_hooks(m)
        compiled = step = wrap(lambda x, m=m: program(m, x))
        states = []
        for k in range(CALLS):
            m.zero_grad()
            x = flamec.full((5, 3), 0.5 + k, dtype=flamec.float64)
            step(x).backward(create_graph=create_graph)
            states.append(state(m))
        first, second = step(x * 0.5), step(x * 0.25)  # two calls before their backward passes
        second.backward()
        first.backward()
        found.append([*states, state(m)])
        printed.append(capsys.readouterr().out)
    same(found[1], found[0])
    assert printed[0] == printed[1] and found[0][0] != found[0][1]
    has_history = program is added_in_place and create_graph  # the total, from the first pass on
    assert compiled.stats.traces == 1 + has_history or program is scaled_and_appended
    assert compiled.stats.python_runs == 0


def test_a_hook_is_not_called_where_no_gradient_arrives() -> None:
    seen: list[Any] = []

    def both(x: T) -> tuple[T, T]:
        a, b = x * 2, x * 3
        a.register_hook(lambda g: seen.append(("a", g.tolist())))
        b.register_hook(lambda g: seen.append(("b", g.tolist())))
        return (a * a).sum(), (b * b).sum()

    x = flamec.tensor([1.0, 2.0], requires_grad=True)
    compiled = flamec.compile(both, backend="evaluate")
    compiled(x)[1].backward()
    assert seen == [("b", [6.0, 12.0])]
    first, second = compiled(x)
    (first + second).backward()
    assert sorted(seen[1:]) == [("a", [4.0, 8.0]), ("b", [6.0, 12.0])]
    assert compiled.stats.traces == 1


def test_a_gradient_that_depends_on_what_the_hook_changes_is_refused() -> None:
    m = Model()

    def hook(gradient: T) -> T:
        m.count += 1
        return gradient * m.count

    def step(x: T) -> T:
        h = m.hidden(x)
        h.register_hook(hook)
        return h.sum()

    x = flamec.ones(2, 3, dtype=flamec.float64)
    with pytest.raises(CompileError, match="changes state on which the gradient"):
        flamec.compile(step, backend="evaluate")(x)
    assert m.count == 0
    inside = flamec.compile(lambda x: step(x).backward(), backend="evaluate")
    for _ in range(3):
        inside(x)
    assert m.count == 3


def test_a_hook_that_asks_for_values_and_returns_another_gradient_is_refused() -> None:
    def step(x: T) -> T:
        y = x * 2
        y.register_hook(lambda g: g / 2 if g.norm() > 1 else None)
        return (y * y).sum()

    compiled = flamec.compile(step, backend="evaluate")
    small, large = (flamec.full((2,), v, requires_grad=True) for v in (0.01, 1.0))
    compiled(small).backward()
    assert small.grad.tolist() == pytest.approx([0.08, 0.08])
    with pytest.raises(RuntimeError, match="call backward inside"):
        compiled(large).backward()
    inside = flamec.compile(lambda x: step(x).backward(), backend="evaluate")
    inside(large)
    assert large.grad.tolist() == [4.0, 4.0]


def test_what_a_hook_puts_into_an_object_of_the_call_is_refused() -> None:
    """The program would give each call another dict than the one that the hook writes to."""

    def step(x: T) -> tuple[T, dict[str, T]]:
        found: dict[str, T] = {}
        y = x * 2
        y.register_hook(lambda g: found.__setitem__("g", g))
        return y.sum(), found

    with pytest.raises(CompileError, match="in a hook"):
        flamec.compile(step, backend="evaluate")(flamec.ones(2, requires_grad=True))


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_are_kept_of_what_leaves_the_function(create_graph: bool) -> None:
    class Kept:
        hidden: Any = None

    found = []
    for wrap in (lambda f: f, lambda f: flamec.compile(f, backend="evaluate")):
        kept, weight = Kept(), flamec.tensor([1.0, 2.0, 3.0], requires_grad=True)

        def both(x: T, kept: Kept = kept, weight: T = weight) -> tuple[T, T]:
            hidden = x * weight
            hidden.retain_grad()
            kept.hidden = hidden
            return (hidden * hidden).sum(), hidden

        step = wrap(both)
        for k in range(3):
            loss, hidden = step(flamec.tensor([1.0, float(k), 2.0]))
            assert hidden is kept.hidden and hidden.retains_grad
            ((loss + hidden.sum()) * 10).backward(retain_graph=True, create_graph=create_graph)
            found.append(hidden.grad.tolist())
            loss.backward()  # is added
            found.append(hidden.grad.tolist())
            loss, hidden = step(flamec.ones(3))
            hidden.sum().backward()
            found.append(hidden.grad.tolist())
    assert found[: len(found) // 2] == found[len(found) // 2 :]
    assert found[0] == [30.0, 10.0, 130.0] and step.stats.python_runs == 0


def test_module_hooks_that_look_at_values() -> None:
    """Lists in a log: of the gradients of a module's arguments and results, and before those."""

    def numbers(gradients: Any) -> list[Any]:
        return [None if g is None else g.tolist() for g in gradients]

    found = []
    for wrap in (lambda f: f, lambda f: flamec.compile(f, backend="evaluate")):
        model = Model()
        seen: list[Any] = []
        layers = (model.first, model.second)
        for layer in layers:
            layer.register_full_backward_pre_hook(lambda _, g, s=seen: s.append(numbers(g)))
            layer.register_full_backward_hook(
                lambda _, given, g, s=seen: s.append((numbers(given), numbers(g)))
            )
        function = wrap(lambda x, m=model: (m.second(m.first(x).tanh()) ** 2).sum())
        for factor in (1.0, 2.0):
            x = (flamec.arange(6.0, dtype=flamec.float64).view(2, 3) * factor).requires_grad_()
            function(x).backward()
        assert model.first.weight.grad is not None and x.grad is not None
        found.append((seen, model.first.weight.grad.tolist(), x.grad.tolist()))
    assert len(found[0][0]) == 8
    same(plain(found[0]), plain(found[1]))
