"""Schedules and settings of optimizers that a compiled function changes: written at each call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn, optim
from flamec.errors import CompileError
from flamec.optim import lr_scheduler
from tests.stateful_models import Counter, training

T = flamec.Tensor


def test_a_step_of_a_schedule_is_repeated_at_each_call() -> None:
    x = flamec.ones(4, 3, dtype=flamec.float64)
    rates = []
    _, optimizer, update = training(lambda p: optim.SGD(p, lr=0.1, momentum=0.5))
    calls = []

    def factor(epoch: int) -> float:
        calls.append(epoch)
        return 1 / (1 + epoch)

    schedule = lr_scheduler.LambdaLR(optimizer, factor)

    @flamec.compile
    def step(x: T) -> Any:
        loss = update(x)
        schedule.step()
        return loss, schedule.get_last_lr(), schedule.last_epoch

    for n in range(1, 6):
        _, last, epoch = step(x)
        rates.append(optimizer.param_groups[0]["lr"])
        assert last == [rates[-1]] and epoch == schedule.last_epoch == n
        assert type(last[0]) is float and type(epoch) is int
    assert rates == [0.1 * (1 / (1 + n)) for n in range(1, 6)]
    assert step.stats.traces == 1
    assert calls == [0, 1, 1, 2, 3, 4, 5]  # while it is traced once more


def test_what_a_plateau_sets_is_not_known_in_the_same_call() -> None:
    x = flamec.ones(4, 3, dtype=flamec.float64)
    model, optimizer, update = training(lambda p: optim.SGD(p, lr=0.1))
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)

    @flamec.compile
    def before(x: T) -> T:
        loss = (model(x) ** 2).mean()
        schedule.step(loss)
        return update(x)

    with pytest.raises(CompileError, match=r"ReduceLROnPlateau.step\(\).*after optimizer.step"):
        before(x)
    assert optimizer.param_groups[0]["lr"] == 0.1 and schedule.last_epoch == 0


def test_a_schedule_of_a_tensor_learning_rate_is_refused() -> None:
    _, optimizer, update = training(lambda p: optim.SGD(p, lr=flamec.tensor(0.5)))
    schedule = lr_scheduler.ExponentialLR(optimizer, 0.5)

    def step(x: T) -> T:
        loss = update(x)
        schedule.step()
        return loss

    with pytest.raises(CompileError, match=r"ExponentialLR.step\(\).*tensor"):
        flamec.compile(step)(flamec.ones(4, 3, dtype=flamec.float64))


def test_a_program_with_a_schedule_cannot_be_exported(tmp_path: Any) -> None:
    _, optimizer, _ = training(lambda p: optim.SGD(p, lr=0.1))
    schedule = lr_scheduler.ExponentialLR(optimizer, 0.5)

    def step(x: T) -> T:
        schedule.step()
        return x * 2

    with pytest.raises(CompileError, match="changes Python's state"):
        flamec.export(step, (flamec.ones(1),), tmp_path / "f.flamec")


def test_a_schedule_before_results_that_are_differentiated_outside() -> None:
    _, optimizer, _ = training(lambda p: optim.SGD(p, lr=0.5))
    schedule = lr_scheduler.ExponentialLR(optimizer, 0.5)
    s = Counter()

    @flamec.compile
    def step(x: T) -> Any:
        schedule.step()
        s.count += 1  # found after an act
        rate = optimizer.param_groups[0]["lr"]
        return (x * x).sum() * rate * s.count, rate

    for n in range(1, 5):
        x = flamec.full((2,), 3.0, dtype=flamec.float64).requires_grad_()
        loss, rate = step(x)
        loss.backward()
        assert rate == optimizer.param_groups[0]["lr"] == 0.5**n * 0.5
        assert x.grad is not None
        assert x.grad.tolist() == [6.0 * rate * n] * 2 and s.count == n
    assert step.stats.traces <= 3 and step.stats.python_runs == 0


_WRITES = ("schedule", "lr", "lr schedule", "schedule lr", "lr back", "lr betas schedule again")
_CALLS: list[float] = []
_EFFECTS = (None, time.time, lambda: _CALLS.append(1))


def _settings() -> Iterator[Any]:
    """All choices; two choices of any kinds meet in one that is not slow."""
    for (i, writes), (k, effect) in product(enumerate(_WRITES), enumerate(_EFFECTS)):
        for optimizer, is_split in product((optim.SGD, optim.Adam), (False, True)):
            is_one = (optimizer is optim.Adam, is_split) == ((i // 3 + k) % 2, (i + k) % 2)
            marks = () if is_one else pytest.mark.slow
            yield pytest.param(optimizer, writes, effect, is_split, marks=marks)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("optimizer", "writes", "effect", "is_split"), list(_settings()))
def test_settings_written_between_steps_of_one_call(
    optimizer: Any, writes: str, effect: Callable[[], Any] | None, is_split: bool
) -> None:
    """Each step takes the rate that was there when it was reached, also where the function is
    split, or its Python code runs at each call."""

    def weights(wrap: Callable[[Any], Any]) -> list[np.ndarray]:
        flamec.manual_seed(0)
        layer = nn.Linear(3, 3, dtype=flamec.float64)
        steps = optimizer(layer.parameters(), lr=0.01)
        schedule = lr_scheduler.StepLR(steps, 2, 0.5)
        (group,) = steps.param_groups

        def write(kind: str) -> None:
            if kind == "schedule":
                schedule.step()
            elif kind == "betas" and "betas" in group:
                group["betas"] = (group["betas"][0] * 0.9, 0.99)
            elif kind == "lr":
                group["lr"] = group["lr"] * 2.0
            elif kind == "back":
                group["lr"] = group["lr"] / 2.0

        def step(x: T) -> T:
            h = layer(x)
            h.sum().backward()
            steps.step()
            if effect is not None:
                effect()
            for kind in writes.split():
                write(kind)
                steps.step()
            if "again" in writes:
                group["lr"] = group["lr"] * 0.3 + 0.01
            return h[h.sum(1) > -5.0] if is_split else h

        function, found = wrap(step), []
        for rows in (4, 1, 3, 2):
            function(flamec.ones(rows, 3, dtype=flamec.float64))
            found.append(layer.weight.detach().numpy().copy())
        return found

    compiled = weights(lambda f: flamec.compile(f, backend="evaluate"))
    np.testing.assert_allclose(compiled, weights(lambda f: f), 1e-12, 1e-12)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_rate_from_a_number_that_varies_before_a_schedule() -> None:
    rates = []
    for wrap in (lambda f: f, lambda f: flamec.compile(f, backend="evaluate")):
        steps = optim.SGD([nn.Parameter(flamec.ones(2))], lr=0.1)
        schedule = lr_scheduler.StepLR(steps, 2, 0.5)
        state = {"rate": 0.5}

        def step(x: T, n: float, s: Any = steps, d: Any = schedule, state: Any = state) -> T:
            s.param_groups[0]["lr"] = n * 0.01
            d.step()
            state["rate"] = max(0.1, state["rate"] - 0.1)
            s.param_groups[0]["lr"] = s.param_groups[0]["lr"] + state["rate"]
            return x * s.param_groups[0]["lr"]

        function = wrap(step)
        rates.append([function(flamec.ones(1), n).item() for n in (1, 3, -1, 2.5, 1.5, 2)])
    np.testing.assert_allclose(rates[1], rates[0], 1e-6)
