"""Containers that a compiled function returns, or gives to its end, and that others hold, too.

The end of a function that is cut behind its work takes the local variables, as a result is taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

import flamec
from flamec import nn, optim

T = flamec.Tensor


class Record:
    def __init__(self) -> None:
        self.values: list[float] = []


class World:
    """A network in training, and state; ``seen``: what the ends of functions have found."""

    def __init__(self) -> None:
        flamec.manual_seed(0)
        self.net = nn.Linear(3, 3, dtype=flamec.float64)
        self.optimizer = optim.SGD(self.net.parameters(), lr=0.1)
        self.rows: list[Any] = []
        self.pair: Any = None
        self.seen: list[Any] = []

    def trained(self, x: T) -> T:
        self.optimizer.zero_grad()
        loss = self.net(x).square().mean().sqrt()
        loss.backward()
        self.optimizer.step()
        return loss


def new_list_of_state(w: World, x: T) -> Any:
    w.rows = rows = []
    loss = w.trained(x)
    rows.append(float(loss))


def new_dict_of_state(w: World, x: T) -> Any:
    row: dict[str, Any] = {"n": 1}
    w.rows = [row]
    loss = w.trained(x)
    row["loss"] = float(loss)


def inner_list_of_state(w: World, x: T) -> Any:
    w.pair = {"a": {"b": []}}
    inner = w.pair["a"]["b"]
    loss = w.trained(x)
    inner.append(float(loss))


def appended_list(w: World, x: T) -> Any:
    if len(w.rows) < 3:
        w.rows.append([])
    last = w.rows[-1]
    loss = w.trained(x)
    last.append(float(loss))


def tuple_of_state(w: World, x: T) -> Any:
    w.pair = pair = ([], 1)
    loss = w.trained(x)
    pair[0].append(float(loss))


def two_variables(w: World, x: T) -> Any:
    metrics: dict[str, float] = {}
    every = [metrics]
    loss = w.trained(x)
    metrics["loss"] = float(loss)
    w.seen.append(dict(every[0]))


def part_of_another_variable(w: World, x: T) -> Any:
    whole: dict[str, list[float]] = {"a": []}
    part = whole["a"]
    loss = w.trained(x)
    part.append(float(loss))
    w.seen.append(list(whole["a"]))
    return whole


def list_of_an_object(w: World, x: T) -> Any:
    record = Record()
    values = record.values
    loss = w.trained(x)
    values.append(float(loss))
    w.seen.append(list(record.values))


def two_variables_after_an_effect(w: World, x: T) -> Any:
    w.pair = time.time() * 0
    metrics: dict[str, float] = {}
    every = [metrics]
    loss = w.trained(x)
    metrics["loss"] = float(loss)
    w.seen.append(dict(every[0]))


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(part) for part in value]
    return round(value, 9) if isinstance(value, float) else value


FUNCTIONS: list[Callable[[World, T], Any]] = [
    new_list_of_state,
    new_dict_of_state,
    inner_list_of_state,
    appended_list,
    tuple_of_state,
    two_variables,
    part_of_another_variable,
    list_of_an_object,
    two_variables_after_an_effect,
]


@pytest.mark.filterwarnings("ignore:.*Python code")
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_end_of_a_function_changes_what_others_hold(function: Any) -> None:
    found = []
    for compiled in (False, True):
        world, results = World(), []
        run = flamec.compile(function) if compiled else function
        for _ in range(5):
            result = run(world, flamec.ones(2, 3, dtype=flamec.float64))
            results.append(rounded([result, world.rows, world.pair, world.seen]))
        found.append(results)
    assert found[0] == found[1]


@pytest.mark.filterwarnings("ignore:.*Python code")
def test_a_list_that_is_kept_and_returned_is_one() -> None:
    world = World()

    @flamec.compile
    def step(x: T) -> Any:
        world.rows = [x * 2]
        return world.rows, 1

    for n in range(3):
        rows, _ = step(flamec.full((2,), float(n)))
        assert rows is world.rows and rows[0].tolist() == [2 * n] * 2


def test_what_only_the_result_holds_is_made_by_the_program() -> None:
    """Also if a local function calls itself: it holds its variables until a collection."""

    @flamec.compile
    def step(x: T) -> Any:
        found: list[T] = []

        def visit(n: int) -> None:
            found.append(x * n)
            if n:
                visit(n - 1)

        visit(3)
        return found, {"again": found}

    results = [step(flamec.ones(2)) for _ in range(3)]
    assert step.stats.traces == 1 and step.stats.python_runs == 0
    assert len({id(found) for found, _ in results}) == 3
    assert [v.tolist() for v in results[2][1]["again"]] == [[3, 3], [2, 2], [1, 1], [0, 0]]
