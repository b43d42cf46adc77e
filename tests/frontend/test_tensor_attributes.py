"""Attributes that users set on tensors are never stale in a compiled function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import flamec
from flamec import nn
from flamec.errors import CompileError

T = flamec.Tensor


def both(make: Callable[[Callable[[Any], Any]], list[Any]]) -> None:
    assert make(lambda f: flamec.compile(f, backend="evaluate")) == make(lambda f: f)


def test_of_a_captured_tensor_that_has_it_or_gets_it_later() -> None:
    def run(wrap: Callable[[Any], Any]) -> list[Any]:
        weight, other = nn.Parameter(flamec.ones(2)), nn.Parameter(flamec.ones(2))
        weight.scale = 2.0

        def step(x: T) -> T:
            return x * weight * weight.scale * getattr(other, "factor", 1.0)

        step, found = wrap(step), []
        for scale, factor in ((2.0, None), (2.0, None), (3.0, None), (3.0, 5.0), (3.0, 7.0)):
            weight.scale = scale
            if factor is not None:
                other.factor = factor
            found.append(step(flamec.ones(2)).tolist())
        del other.factor
        return [*found, step(flamec.ones(2)).tolist()]

    both(run)


def test_that_nobody_changes_costs_no_call_of_python() -> None:
    weight = nn.Parameter(flamec.ones(2))
    weight.scale = 2.0
    step = flamec.compile(lambda x: x * weight * weight.scale, backend="evaluate")
    for _ in range(3):
        step(flamec.ones(2))
    assert step.stats.traces == 1 and step.stats.python_runs == 0


def test_set_on_a_captured_tensor_by_the_function() -> None:
    def run(wrap: Callable[[Any], Any]) -> list[Any]:
        weight = nn.Parameter(flamec.ones(2))
        weight.calls = 0

        def step(x: T) -> T:
            weight.calls += 1
            return x * weight * weight.calls

        step = wrap(step)
        return [(step(flamec.ones(2)).tolist(), weight.calls) for _ in range(4)]

    both(run)


@pytest.mark.filterwarnings("ignore:.*Python code")
def test_of_arguments() -> None:
    def run(wrap: Callable[[Any], Any]) -> list[Any]:
        def step(x: T) -> T:
            y = x * x.scale
            x.seen = x.scale + 1
            return y

        step, found = wrap(step), []
        for scale in (1.0, 2.0, 3.0):
            x = flamec.ones(2)
            x.scale = scale
            found.append((step(x).tolist(), x.seen))
        return found

    both(run)


def test_reading_and_setting_on_arguments_is_told() -> None:
    x = flamec.ones(2)
    x.scale = 2.0
    with pytest.warns(RuntimeWarning, match="attribute scale of an argument is read"):
        flamec.compile(lambda x: x * x.scale)(x)

    def keeps(x: T) -> T:
        x.twice = x * 2
        return x

    with pytest.raises(CompileError, match="attribute twice of an argument is set to a tensor"):
        flamec.compile(keeps)(x)
    with pytest.raises(AttributeError, match="'Tensor' object has no attribute 'scael'"):
        flamec.compile(lambda x: x.scael)(x)
