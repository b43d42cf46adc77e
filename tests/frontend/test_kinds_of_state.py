"""State in objects of Python's library: what changes there between calls is never missed."""

from __future__ import annotations

import argparse
import collections
import contextvars
import ctypes
import functools
import gc
import importlib.util
import mmap
import threading
import types
import weakref
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flamec

T = flamec.Tensor


class Owner:
    rate = 1.0


def scaled(x: T, rate: float = 1.0) -> T:
    return x * rate


def with_attribute() -> Any:
    def function() -> None: ...

    function.__dict__["rate"] = 1.0
    return function


def set_rate(state: Any, value: float) -> None:
    state.rate = value


def set_item(state: Any, value: float) -> None:
    state["rate"] = value


Case = tuple[Callable[[], Any], Callable[[Any, T], T], Callable[[Any, float], Any]]
OWNERS: list[Owner] = []  # alive


def referred() -> Any:
    OWNERS.append(Owner())
    return weakref.ref(OWNERS[-1])


def proxy() -> Any:
    return types.MappingProxyType({"rate": 1.0})


class Static:
    @staticmethod
    def scaled(x: T) -> T:
        return x * 1.0


class Computed:
    def __getattr__(self, name: str) -> float:
        if name == "rate":
            return 1.0
        raise AttributeError(name)


CASES: dict[str, Case] = {
    "a class that gets what __getattr__ gave": (
        lambda: type("Own", (Computed,), {})(),
        lambda s, x: x * s.rate,
        lambda s, v: setattr(type(s), "rate", v),
    ),
    "a static method that is replaced": (
        lambda: type("Own", (Static,), {})(),
        lambda s, x: s.scaled(x),
        lambda s, v: setattr(type(s), "scaled", staticmethod(lambda x: x * v)),
    ),
    "the number of attributes": (
        Owner,
        lambda s, x: x * (1.0 + len(vars(s)) * s.rate),
        lambda s, v: setattr(s, f"more{v}", v),
    ),
    "SimpleNamespace": (
        lambda: types.SimpleNamespace(rate=1.0),
        lambda s, x: x * s.rate,
        set_rate,
    ),
    "SimpleNamespace, a new attribute": (
        types.SimpleNamespace,
        lambda s, x: x * getattr(s, "rate", 1.0),
        set_rate,
    ),
    "SimpleNamespace in another": (
        lambda: types.SimpleNamespace(inner=types.SimpleNamespace(rates=[1.0])),
        lambda s, x: x * s.inner.rates[0],
        lambda s, v: s.inner.rates.__setitem__(0, v),
    ),
    "argparse": (lambda: argparse.Namespace(rate=1.0), lambda s, x: x * s.rate, set_rate),
    "defaultdict": (
        lambda: collections.defaultdict(float, rate=1.0),
        lambda s, x: x * s["rate"],
        set_item,
    ),
    "OrderedDict": (
        lambda: collections.OrderedDict(rate=1.0),
        lambda s, x: x * s["rate"],
        set_item,
    ),
    "ChainMap": (
        lambda: collections.ChainMap({}, {"rate": 1.0}),
        lambda s, x: x * s["rate"],
        set_item,
    ),
    "UserDict": (lambda: collections.UserDict(rate=1.0), lambda s, x: x * s["rate"], set_item),
    "UserList": (
        lambda: collections.UserList([1.0]),
        lambda s, x: x * s[0],
        lambda s, v: s.__setitem__(0, v),
    ),
    "mappingproxy": (
        proxy,
        lambda s, x: x * s["rate"],
        lambda s, v: _behind(s).__setitem__("rate", v),
    ),
    "array": (
        lambda: array("d", [1.0]),
        lambda s, x: x * s[0],
        lambda s, v: s.__setitem__(0, v),
    ),
    "bytearray": (
        lambda: bytearray(b"\1"),
        lambda s, x: x * s[0],
        lambda s, v: s.__setitem__(0, int(v)),
    ),
    "memoryview": (
        lambda: memoryview(array("d", [1.0])),
        lambda s, x: x * s[0],
        lambda s, v: s.__setitem__(0, v),
    ),
    "every second of a memoryview": (
        lambda: memoryview(array("d", [1.0, 0.0, 2.0]))[::2],
        lambda s, x: x * s[0],
        lambda s, v: s.__setitem__(0, v),
    ),
    "mmap": (
        lambda: mmap.mmap(-1, 1),
        lambda s, x: x * (s[0] + 1),
        lambda s, v: s.__setitem__(0, int(v) - 1),
    ),
    "array of ctypes": (
        lambda: (ctypes.c_double * 1)(1.0),
        lambda s, x: x * s[0],
        lambda s, v: s.__setitem__(0, v),
    ),
    "array that grows": (lambda: array("d", [1.0]), lambda s, x: x * s[-1], array.append),
    "ContextVar": (
        lambda: contextvars.ContextVar("rate", default=1.0),
        lambda s, x: x * s.get(),
        lambda s, v: s.set(v),
    ),
    "partial": (
        lambda: functools.partial(scaled, rate=1.0),
        lambda s, x: s(x),
        lambda s, v: s.keywords.__setitem__("rate", v),
    ),
    "threading.local": (threading.local, lambda s, x: x * getattr(s, "rate", 1.0), set_rate),
    "attribute of a function": (with_attribute, lambda s, x: x * s.rate, set_rate),
    "weak reference": (referred, lambda s, x: x * s().rate, lambda s, v: set_rate(s(), v)),
}


def _behind(proxy: Any) -> dict[str, float]:
    (held,) = gc.get_referents(proxy)
    assert isinstance(held, dict)
    return held


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_change_between_calls(name: str) -> None:
    make, read, change = CASES[name]
    state = make()
    compiled = flamec.compile(lambda x: read(state, x))
    x = flamec.ones(2)
    assert compiled(x).tolist() == compiled(x).tolist() == [1.0, 1.0]
    for value in (2.0, 3.0):
        change(state, value)
        assert compiled(x).tolist() == compiled(x).tolist() == [value] * 2


class Local(threading.local):
    def __init__(self) -> None:
        self.rate = 1.0


def test_what_each_thread_has() -> None:
    state = Local()
    compiled = flamec.compile(lambda x: x * state.rate)
    for value in (1.0, 1.0, 2.0, 3.0, 4.0):
        state.rate = value
        assert compiled(flamec.ones(1)).item() == value
    assert compiled.stats.traces == 2
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(compiled(flamec.ones(1)).item()))
    thread.start()
    thread.join()
    assert [*found, compiled(flamec.ones(1)).item()] == [1.0, 4.0]


def test_what_a_function_writes_to_a_namespace() -> None:
    state = types.SimpleNamespace(rate=1.0, calls=0)

    @flamec.compile
    def decayed(x: T) -> T:
        state.rate = state.rate * 0.5
        state.calls += 1
        return x * state.rate

    found = [decayed(flamec.ones(1)).item() for _ in range(6)]
    assert found == [0.5**k for k in range(1, 7)]
    assert vars(state) == {"rate": 0.5**6, "calls": 6}
    assert decayed.stats.traces <= 3


def test_a_module_in_a_closure(tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text("rate = 1.0\nunread = 5.0\n")
    spec = importlib.util.spec_from_file_location("settings", tmp_path / "settings.py")
    assert spec is not None and spec.loader is not None
    settings: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(settings)
    compiled = flamec.compile(lambda x: x * settings.rate)
    x = flamec.ones(2)
    assert compiled(x).tolist() == [1.0, 1.0]
    settings.unread = 6.0
    assert compiled(x).tolist() == [1.0, 1.0] and compiled.stats.traces == 1
    settings.rate = 2.0
    assert compiled(x).tolist() == [2.0, 2.0]


def test_a_context_variable_that_is_reset_is_no_effect() -> None:
    rate = contextvars.ContextVar("rate", default=1.0)

    def scaled(x: T) -> T:
        with np.errstate(divide="ignore"):
            limit = float(np.float64(1.0) / np.float64(0.0))
        token = rate.set(2.0)
        y = x.clamp(max=limit)
        rate.reset(token)
        return y

    compiled = flamec.compile(scaled)
    assert [compiled(flamec.ones(1)).item() for _ in range(3)] == [1.0] * 3
    assert (compiled.stats.traces, compiled.stats.python_runs) == (1, 0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_context_variable_that_stays_set_is_set_at_each_call() -> None:
    rate = contextvars.ContextVar("rate", default=0.0)

    def scaled(x: T) -> T:
        token = rate.set(1.0)
        rate.reset(token)
        rate.set(3.0)
        return x + 1.0

    compiled = flamec.compile(scaled)
    for _ in range(3):
        rate.set(0.0)
        compiled(flamec.ones(1))
        assert rate.get() == 3.0
