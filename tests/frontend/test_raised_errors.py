"""Errors that a function raises: what it has done by then to tensors and to Python's state is done,
as in eager mode.

Each function is called by turns so that it raises and does not, eager and compiled.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest

import flamec
from flamec import nn, optim
from flamec.errors import Uncompiled

T = flamec.Tensor
State = types.SimpleNamespace


def make_state() -> State:
    weight = nn.Parameter(flamec.ones(2))
    optimizer = optim.SGD([weight], lr=0.5, momentum=0.5)
    rates = {"a": 1.0, "b": 2.0}
    tensor = flamec.zeros(2)
    return State(
        tensor=tensor,
        view=tensor[:1],
        log=[],
        n=0,
        last=None,
        weight=weight,
        opt=optimizer,
        rates=rates,
    )


def explicit(s: State, x: T, n: int) -> T:
    s.tensor.add_(x)
    s.n += 1
    s.log.append(n)
    s.last = s.tensor * 2
    if n > 2:
        raise ValueError("too much")
    return x * s.n + s.view


def by_value(s: State, x: T, n: int) -> T:
    s.view.add_(1)
    s.n += 1
    if x.sum() > 5:
        raise StopIteration(f"step {s.n}")
    s.log.append(float(x.sum()))
    return x * 2


def asserted(s: State, x: T, n: int) -> T:
    x.mul_(2)
    s.rates["a"] = s.rates["a"] * 0.5
    assert x.sum() < 9, f"after {s.rates['a']}"
    return x * s.rates["a"]


def after_a_step(s: State, x: T, n: int) -> T:
    s.opt.zero_grad()
    (s.weight * x).square().sum().backward()
    s.opt.step()
    s.log.append(n)
    return x + s.weight.detach() + flamec.zeros(2 if n < 3 else 3)


def after_draws(s: State, x: T, n: int) -> T:
    s.last = nn.functional.dropout(x, 0.5) + flamec.rand(2)
    if s.last.sum() > 100 or n > 2:
        raise RuntimeError("drawn")
    return x


def missing(s: State, x: T, n: int) -> T:
    s.tensor.mul_(2).add_(1)
    del s.n
    s.n = len(s.log)
    return x * {1: 2.0, 2: 3.0}[n]


def handled(s: State, x: T, n: int) -> T:
    try:
        s.tensor.add_(1)
        if n > 2:
            raise KeyError(n)
    except KeyError:
        s.n += 5
    return x + s.n


CASES: list[Callable[[State, T, int], T]] = [
    explicit,
    by_value,
    asserted,
    after_a_step,
    after_draws,
    missing,
    handled,
]


def content(state: State) -> list[Any]:
    parts = [*vars(state).values(), state.weight.grad, *state.opt.state.values()]
    return [p.tolist() if isinstance(p, T) else repr(p) for p in parts if p is not state.opt]


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("function", CASES)
def test_as_in_eager_mode(function: Callable[[State, T, int], T], fullgraph: bool) -> None:
    if fullgraph and function in (by_value, asserted, after_draws):
        pytest.skip("values are asked for")
    outcomes = []
    for compiles in (False, True):
        flamec.manual_seed(0)
        state, found = make_state(), []

        def step(x: T, n: int, state: State = state) -> T:
            return function(state, x, n)

        call = flamec.compile(step, backend="evaluate", fullgraph=fullgraph) if compiles else step
        for n in (3, 1, 1, 2, 4, 4, 1, 3, 1):
            x = flamec.full((2,), float(n))
            try:
                result: Any = call(x, n).tolist()
            except Exception as error:
                result = type(error), str(error).split(" (at")[0]
                assert not isinstance(error.__context__, Uncompiled)
            found.append([result, x.tolist(), content(state), flamec.get_rng_state().tolist()])
        outcomes.append(found)
    assert outcomes[0] == outcomes[1]


def test_what_happens_outside_of_the_state_happens_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Then tensors are left as they were."""
    state = make_state()

    @flamec.compile(backend="evaluate")
    def step(x: T) -> T:
        state.tensor.add_(1)
        state.n += 1
        print("begun")
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        step(flamec.ones(2))
    assert capsys.readouterr().out == "begun\n"
    assert (state.n, state.tensor.tolist()) == (1, [0.0, 0.0])


def test_an_error_of_the_trace_alone_is_an_error() -> None:
    """That the function does not raise as it is does not hide it."""
    state = make_state()

    @flamec.compile(backend="evaluate")
    def step(x: T) -> T:
        if flamec.compiler.is_compiling():
            raise NotImplementedError("of the trace")
        state.n += 1
        return x

    with pytest.raises(NotImplementedError, match="of the trace"):
        step(flamec.ones(2))
    assert state.n == 1
