"""What Python code does beside computing happens once a call, also where the trace of a call has
to begin anew: because a number is no constant after all, its type is asked for, or a loop's steps
must be counted."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

import flamec

pytestmark = pytest.mark.filterwarnings("ignore:.*runs? at each call|.*is run at each call")
Function = Callable[..., Any]


class Config:
    rate = 0.5
    told = False


def _type_of_an_argument(config: Config) -> Function:
    def step(x, n):
        y = x * n
        if config.told:
            print("told")
            y = y * (2 if type(n) is float else 3)
        return y

    return step


def _type_of_a_setting(config: Config) -> Function:
    def step(x, n):
        y = x * config.rate
        if config.told:
            print("told")
            y = y * (2 if isinstance(config.rate, float) else 3)
        return y

    return step


def _a_number_for_a_place(config: Config) -> Function:
    def step(x, n):
        y = x * n
        if config.told:
            print("told")
            y = y.reshape(-1, int(n)) if int(n) % 2 == 0 else y * [1, 2, 3, 4, 5][int(n)]
        return y

    return step


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("make", [_type_of_an_argument, _type_of_a_setting, _a_number_for_a_place])
def test_effects_and_numbers_that_vary(make: Any, dynamic: bool | None, capsys: Any) -> None:
    def run(compile: Function) -> list[Any]:
        config = Config()
        step, seen = compile(make(config)), []
        for told, n in ((False, 1.0), (True, 2.0), (True, 4.0), (False, 3.0), (True, 1.0)):
            config.told, config.rate = told, n
            seen += [step(flamec.ones(8), n).sum().item(), capsys.readouterr().out]
        return seen

    assert run(lambda f: flamec.compile(f, backend="evaluate", dynamic=dynamic)) == run(lambda f: f)


turns = itertools.count()
scale = Config()


def test_an_iterator_in_a_head() -> None:
    """The function is cut behind its second effect; then a number among the arguments varies."""

    def step(x, y, n, box):
        h = x * 1.0
        h = h + next(turns)
        h = h * scale.rate * type(scale).rate
        return h

    def run(compile: Function) -> list[float]:
        global turns, scale
        turns, scale = itertools.count(), Config()
        scale.rate = 0.75
        made = compile(step)
        calls = ((4, 3), (1, -1), (5, 1), (5, 2))
        return [made(flamec.ones(k, 3), flamec.ones(3), n, {})[0, 0].item() for k, n in calls]

    assert run(lambda f: flamec.compile(f, backend="evaluate")) == run(lambda f: f)


@pytest.mark.parametrize("before", [True, False])
def test_loops_whose_steps_are_counted(before: bool, capsys: Any) -> None:
    def grow(x):
        if before:
            print("before")
        (y,) = flamec.while_loop(lambda y: y.sum() < 50, lambda y: (y * 1.5,), (x,))
        if not before:
            print("after")
        return y.sum()

    compiled = flamec.compile(grow, backend="evaluate")
    for _ in range(3):
        found = []
        for function in (grow, compiled):
            x = flamec.ones(3, requires_grad=True)
            function(x).backward()
            found += [x.grad.tolist(), capsys.readouterr().out]
        assert found[:2] == found[2:]
