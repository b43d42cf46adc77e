"""Functions that print, log and read lists after their work: Python does so after the program."""

from __future__ import annotations

import contextlib
import functools
import io
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import flamec
from flamec import nn, optim

T = flamec.Tensor


class Training:
    """A model, what trains it, and what is kept of that."""

    limit = 0.5

    def __init__(self) -> None:
        flamec.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
        self.optimizer = optim.SGD(self.model.parameters(), lr=0.1, momentum=0.5)
        self.losses: list[float] = []
        self.count, self.best, self.note = 0, float("inf"), ""

    def work(self, x: T, y: T) -> T:
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss


class Louder(Training):
    def report(self, loss: T) -> None:
        self.note = f"{loss.item():.5f}"


class Loudest(Louder):
    def step(self, x: T, y: T, k: int) -> T:
        loss = self.work(x, y)
        super().report(loss)
        return loss


def as_float(t: Training, x: T, y: T, k: int) -> T:
    loss = t.work(x, y)
    t.losses.append(float(loss))
    return loss


def now_and_then(t: Training, x: T, y: T, k: int) -> T:
    loss = t.work(x, y)
    t.count += 1
    if t.count % 3 == 1:
        print(f"{t.count}: {loss.item():.5f}")
    return loss


def reads_what_it_appends(t: Training, x: T, y: T, k: int) -> tuple[float, int]:
    loss = t.work(x, y)
    t.losses.append(loss.item())
    if t.losses[-1] <= min(t.losses):
        t.best = t.losses[-1]
    recent = t.losses[-3:]
    return sum(recent) / len(recent), len(t.losses)


def may_be_unbound(t: Training, x: T, y: T, k: int) -> str:
    loss = t.work(x, y)
    if t.count > 2:
        text = "late"
    t.count += 1
    print(round(loss.item(), 5))
    try:
        return text
    except UnboundLocalError:
        return "unbound"


def returns_early(t: Training, x: T, y: T, k: int) -> Any:
    if t.count < 0:
        return None
    loss = t.work(x, y)
    print(round(loss.item(), 5))
    for value in t.losses:
        return value
    return loss


def takes_time(t: Training, x: T, y: T, k: int) -> T:
    loss = t.work(x, y)
    started = time.perf_counter()
    t.note = "" if time.perf_counter() >= started else "backwards"
    return loss


def fails(t: Training, x: T, y: T, k: int) -> T:
    loss = t.work(x, y)
    t.losses.append(float(loss))
    if len(t.losses) > 5:
        raise ValueError(f"the loss was {loss.item():.5f}")
    return loss


def changes_arguments(t: Training, x: T, y: T, k: int, kept: list[Any] | None = None) -> Any:
    kept = [] if kept is None else kept
    loss = t.work(x, y)
    kept.append(k)
    print(len(kept), k)
    del x
    return kept, loss


def a_closure(t: Training) -> Callable[[T, T, int], Any]:
    total, worst = 0.0, None

    def step(x: T, y: T, k: int, scale: float = 1.0) -> Any:
        nonlocal total, worst
        loss = t.work(x, y)
        total += scale * float(loss)
        worst = max(worst or 0.0, float(loss))
        report = [(name, p.grad is not None) for name, p in t.model.named_parameters()]
        return total, worst, report, (lambda: total)()

    return step


Step = Callable[[T, T, int], Any]


def bound(function: Callable[..., Any]) -> Callable[[Training], Step]:
    def make(t: Training) -> Step:
        def step(x: T, y: T, k: int) -> Any:
            return function(t, x, y, k)

        return step

    return make


FUNCTIONS = (as_float, now_and_then, reads_what_it_appends, may_be_unbound, returns_early)
FUNCTIONS += (takes_time, fails, changes_arguments)  # type: ignore[assignment]


def run(t: Training, step: Callable[..., Any], calls: int = 7) -> list[Any]:
    """What is seen of some calls."""
    seen: list[Any] = []
    for k in range(calls):
        x, y = flamec.full((3, 4), 0.1 * k - 0.2), flamec.arange(3) % 2
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            try:
                result = step(x, y, k)
            except ValueError as error:
                result = str(error)
        weights = [p.detach().numpy().round(5).tolist() for p in t.model.parameters()]
        kept = [round(v, 5) for v in t.losses], t.count, round(t.best, 5), t.note
        seen.append((plain(result), out.getvalue(), kept, weights))
    return seen


def plain(value: Any) -> Any:
    if isinstance(value, T):
        return round(value.item(), 5)
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return round(value, 5) if isinstance(value, float) else value


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_what_follows_a_training_step(function: Callable[..., Any]) -> None:
    t = Training()
    expected = run(t, lambda x, y, k: function(t, x, y, k))
    u = Training()
    compiled = flamec.compile(function, backend="evaluate")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run(u, lambda x, y, k: compiled(u, x, y, k))
    assert found == expected
    assert compiled.stats.python_runs <= 2, "then each call is one program"


def test_methods_and_closures() -> None:
    t, u = Loudest(), Loudest()
    compiled = flamec.compile(u.step, backend="evaluate")
    assert run(t, t.step) == run(u, compiled)
    assert compiled.stats.python_runs <= 2
    t, u = Loudest(), Loudest()
    step = flamec.compile(a_closure(u), backend="evaluate")
    assert run(t, a_closure(t)) == run(u, step)
    assert step.stats.python_runs <= 2


def test_defaults_and_code_that_change() -> None:
    total = worst = t = None

    def louder(x: T, y: T, k: int, scale: float = 1.0) -> Any:
        return scale * 2.0, k, (t, total, worst)[1:]

    seen = []
    for wrap in (lambda f: f, lambda f: flamec.compile(f, backend="evaluate")):
        t = Training()
        function = a_closure(t)
        step, found = wrap(function), []
        for scale in (1.0, 3.0):
            function.__defaults__ = (scale,)  # type: ignore[attr-defined]
            found += run(t, step, 5)
        function.__code__ = louder.__code__  # type: ignore[attr-defined]
        found += run(t, step, 3)
        seen.append(found)
    assert seen[0] == seen[1]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_work_that_follows_is_not_cut_off() -> None:
    """What prints before its gradient runs in Python at each call, compiled in one piece."""

    def early(t: Training, x: T, y: T, k: int) -> T:
        t.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(t.model(x), y)
        print(round(loss.item(), 5))
        loss.backward()
        t.optimizer.step()
        return loss

    t, u = Training(), Training()
    compiled = flamec.compile(early, backend="evaluate")
    assert run(t, lambda x, y, k: early(t, x, y, k)) == run(u, lambda x, y, k: compiled(u, x, y, k))
    assert compiled.stats.python_runs == 7


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_functions_without_a_source() -> None:
    names: dict[str, Any] = {}
    exec("def step(t, x, y, k):\n    loss = t.work(x, y)\n    print(k)\n    return loss\n", names)
    t, u = Training(), Training()
    compiled = flamec.compile(names["step"], backend="evaluate")
    expected = run(t, lambda x, y, k: names["step"](t, x, y, k), 4)
    assert expected == run(u, lambda x, y, k: compiled(u, x, y, k), 4)
    assert compiled.stats.python_runs == 4


def test_no_tail_changes_memory_that_gradients_need() -> None:
    flamec.manual_seed(0)
    layers = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
    names: set[int] = set()

    def step(x: T, shift: T) -> T:
        h = layers(x * 1.5)
        x.add_(shift)
        names.add(len(names))
        return h

    found = []
    for function in (step, flamec.compile(step)):
        names.clear()
        layers.zero_grad()
        for number in range(5):
            x = flamec.full((2, 3), float(number))
            function(x, flamec.ones(3)).sum().backward()
            assert x.tolist() == [[number + 1.0] * 3] * 2
        found.append([p.grad.tolist() for p in layers.parameters()])
    assert found[0] == found[1] and len(names) == 5


def test_a_head_that_is_given_up_leaves_nothing_in_caches() -> None:
    """Its result would have a history that the function's has not."""
    layers = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
    table = functools.cache(lambda count: flamec.arange(count) * 0.5)
    counts: list[int] = []

    def step(x: T) -> T:
        h = layers(x) + table(3)
        counts.append(len(counts))
        return h.detach()

    compiled = flamec.compile(step)
    for number in range(5):
        x = flamec.full((2, 3), float(number))
        table.cache_clear()
        assert compiled(x).allclose(step(x))
