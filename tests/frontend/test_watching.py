"""Code of users that our code calls while tracing is watched; most of our own is not."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn, optim, watching
from flamec.autograd import Function
from flamec.ir.types import TensorType
from flamec.nn import functional as F
from flamec.state import thread

factor = 2.0
width = 2


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch) -> None:
    """The globals that these tests change are the next test's again."""
    monkeypatch.setattr(sys.modules[__name__], "factor", 2.0)
    monkeypatch.setattr(sys.modules[__name__], "width", 2)


def change(**values: Any) -> None:
    vars(sys.modules[__name__]).update(values)


class Scaled(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient * factor


def test_the_backward_of_a_custom_function() -> None:
    @flamec.compile
    def gradient(x):
        x = x.detach().requires_grad_()
        Scaled.apply(x).sum().backward()
        return x.grad

    assert gradient(flamec.ones(2)).tolist() == [2.0, 2.0]
    change(factor=3.0)
    assert gradient(flamec.ones(2)).tolist() == [3.0, 3.0]


def test_hooks_of_tensors() -> None:
    @flamec.compile
    def gradient(x):
        x = x.detach().requires_grad_()
        y = x * 1.0
        y.register_hook(lambda g: g * factor)
        y.sum().backward()
        return x.grad

    assert gradient(flamec.ones(2)).tolist() == [2.0, 2.0]
    change(factor=3.0)
    assert gradient(flamec.ones(2)).tolist() == [3.0, 3.0]


class Descent(optim.SGD):
    """An update rule of one's own on top of one of ours."""

    def update_group(self, group: Any, pairs: Any) -> None:
        super().update_group(group, [(p, g * factor) for p, g in pairs])


def test_an_optimizer_derived_from_one_of_ours() -> None:
    parameter = nn.Parameter(flamec.zeros(1))
    optimizer = Descent([parameter], lr=1.0)

    @flamec.compile
    def step(x):
        optimizer.zero_grad()
        (parameter * x).sum().backward()
        optimizer.step()

    step(flamec.ones(1))
    change(factor=3.0)
    step(flamec.ones(1))
    assert parameter.tolist() == [-5.0]


@flamec.kernel
def first(x: TensorType) -> TensorType:
    return x.with_shape((width,))


@first.numpy
def _(x: np.ndarray) -> np.ndarray:
    return x[:width].copy()


def test_the_shape_rule_of_a_kernel() -> None:
    @flamec.compile(backend="evaluate")
    def f(x):
        return first(x) + 0.0

    assert f(flamec.ones(4)).shape == (2,)
    change(width=3)
    assert f(flamec.ones(4)).shape == (3,)


def events_of(monkeypatch: pytest.MonkeyPatch, function: Callable[[], Any]) -> int:
    """How often the interpreter reports something while ``function`` is compiled and run."""
    events = 0

    def counting(report: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            nonlocal events
            events += 1
            return report(*arguments)

        return counted

    profile_function = watching._profile_function
    monkeypatch.setattr(watching, "_profile_function", lambda o: counting(profile_function(o)))
    monkeypatch.setattr(watching, "_found", [])  # a monitor of its own, with these callbacks
    for name in ("_entered", "_called"):
        report = getattr(watching._Monitor, name)
        monkeypatch.setattr(watching._Monitor, name, counting(report))
    function()
    return events


def test_most_calls_of_our_own_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at all of them took four times as long as tracing."""
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3))
    optimizer = optim.AdamW(model.parameters())

    @flamec.compile(backend="evaluate")
    def step(x, y):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    x, y = flamec.ones(2, 4), flamec.zeros(2, dtype=flamec.int64)
    events = events_of(monkeypatch, lambda: step(x, y))
    assert 0 < events < 60 * len(step.programs[0].prepared.graph.nodes)  # 177 if all are


def test_a_profiler_goes_on_after_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the interpreter has no monitoring, or others have taken all of its places."""
    monkeypatch.setattr(watching, "_found", [None])
    names = []

    def profile(frame: Any, event: str, argument: Any) -> None:
        names.append(frame.f_code.co_name)

    def user_function() -> float:
        return factor

    compiled = flamec.compile(lambda x: x * user_function())
    sys.setprofile(profile)
    try:
        compiled(flamec.ones(2))
        user_function()
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(None)
    assert "user_function" in names
    change(factor=3.0)
    assert compiled(flamec.ones(2)).tolist() == [3.0, 3.0]


def test_watching_ends_with_the_trace() -> None:
    @flamec.compile
    def f(x):
        return x.no_such_attribute

    before = sys.getprofile()
    with pytest.raises(AttributeError):
        f(flamec.ones(2))
    assert thread.watch is None and thread.observer is None
    assert sys.getprofile() is before
    with pytest.raises(RuntimeError):  # in an operation, where nothing is watched
        flamec.compile(lambda x: x @ flamec.ones(5))(flamec.ones(2))
    assert thread.watch is None and thread.observer is None
    assert sys.getprofile() is before


def test_python_s_library_is_not_watched_where_our_code_calls_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the profiler's hook and by monitoring, which reports the library's calls wherever from."""
    called: list[Any] = []

    class Observer:
        def entered(self, frame: Any) -> None: ...

        def called(self, function: Any, file: str) -> None:
            called.append(function)

    @watching.unwatched
    def of_ours(x: Any) -> Any:
        return dataclasses.is_dataclass(x), thread.observer

    watch = watching.Watch(Observer())
    watch.begin()
    try:
        of_ours(1)
    finally:
        watch.end()
    assert isinstance not in called
    monkeypatch.setattr(thread, "observer", Observer())
    observer = thread.observer
    assert of_ours(1) == (False, None) and thread.observer is observer
