"""Guards of functions: inner ones, their variables and globals, and what replaces a function."""

from __future__ import annotations

import cProfile
import gc
import os
import sys
import types
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn
from flamec.nn import functional as F


def values(x: flamec.Tensor) -> np.ndarray:
    return x.detach().numpy()


def test_inner_functions_share_containers_and_counters() -> None:
    @flamec.compile
    def f(x):
        products = {}

        def add(k):
            products[k] = x * k

        for k in range(3):
            add(k)
        late = [lambda: x + k for k in range(2)]  # noqa: B023
        return [[products[k] * i for k in products] for i in range(2)], [g() for g in late]

    for factor in (1.0, 3.0):
        rows, late = f(flamec.full((2,), factor))
        assert [[values(v)[0] for v in row] for row in rows] == [
            [0, 0, 0],
            [0, factor, 2 * factor],
        ]
        assert [values(v)[0] for v in late] == [factor + 1, factor + 1]
    assert f.stats.traces == 1


def test_inner_functions_made_before_and_while_tracing() -> None:
    """The same code, with variables that are state and with variables that are locals."""

    def adder(n):
        def change(by):
            nonlocal n
            n = by

        return lambda x: x + n, change

    before, change = adder(1.0)

    @flamec.compile
    def f(x):
        during, change_during = adder(10.0)
        change_during(20.0)
        return during(x) + before(x)

    assert values(f(flamec.zeros(1))).tolist() == [21.0]
    change(2.0)
    assert values(f(flamec.zeros(1))).tolist() == [22.0]
    assert values(f(flamec.zeros(1))).tolist() == [22.0]
    assert f.stats.traces == 2


def test_an_outer_container_in_an_inner_comprehension() -> None:
    scales = [1.0]
    state = {"factor": 2.0}

    @flamec.compile
    def f(x):
        rows = [[x * state["factor"] * s for s in scales] for _ in range(2)]
        return rows[1][-1]

    x = flamec.ones(1)
    assert values(f(x)).tolist() == [2.0]
    state["factor"] = 5.0
    assert values(f(x)).tolist() == [5.0]
    scales.append(3.0)
    assert values(f(x)).tolist() == [15.0]
    scales = [7.0]
    assert values(f(x)).tolist() == [35.0]


def test_equal_code_with_other_globals() -> None:
    def made(factor):
        names = {"K": factor}
        exec("def scaled(x):\n    return x * K\n", names)
        return names

    first, second = made(2.0), made(3.0)

    @flamec.compile
    def f(x):
        return first["scaled"](x) + second["scaled"](x)

    assert values(f(flamec.ones(1))).tolist() == [5.0]
    second["K"] = 4.0
    assert values(f(flamec.ones(1))).tolist() == [6.0]


def test_a_profiler_goes_on_after_tracing() -> None:
    """cProfile's is an object that cannot be called, unlike a function given to setprofile."""

    def later() -> int:
        return 7

    profiler = cProfile.Profile()
    profiler.enable()
    flamec.compile(lambda x: x * 2)(flamec.ones(3))
    later()
    profiler.disable()
    assert any(entry.code is later.__code__ for entry in profiler.getstats())

    seen = []
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, argument: seen.append(frame.f_code))
    try:
        flamec.compile(lambda x: x * 3)(flamec.ones(3))
        later()
    finally:
        sys.setprofile(before)
    assert later.__code__ in seen


def test_functions_and_methods_that_are_replaced() -> None:
    """Defaults and code of a function; methods of a class, of one object; an object's class."""

    def helper(x, factor=2.0, *, shift=0.0):
        return x * factor + shift

    class Net(nn.Module):
        def forward(self, x):
            return self.part(x) * 2

        def part(self, x):
            return x + 1

    class Other(Net):
        def part(self, x):
            return x - 100

    net = Net()

    @flamec.compile
    def function(x):
        return helper(net(x))

    x = flamec.ones(2)

    def both() -> tuple[float, float]:
        return function(x)[0].item(), function.function(x)[0].item()

    assert both() == (8.0, 8.0)
    helper.__defaults__ = (3.0,)
    assert both() == (12.0, 12.0)
    helper.__kwdefaults__ = {"shift": 1.0}
    assert both() == (13.0, 13.0)
    helper.__code__ = (lambda x, factor, *, shift: x - factor).__code__
    assert both() == (1.0, 1.0)
    Net.part = lambda self, x: x + 4
    assert both() == (7.0, 7.0)
    net.forward = lambda x: x * 9
    assert both() == (6.0, 6.0)
    del net.forward
    assert both() == (7.0, 7.0)
    net.__class__ = Other
    assert both() == (-201.0, -201.0)
    before = function.stats.traces
    assert both() == (-201.0, -201.0)
    assert function.stats.traces == before


def test_environment_variables_are_guarded_where_they_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FACTOR", "2")
    by_name = flamec.compile(lambda x: x * float(os.environ["FACTOR"]))
    by_function = flamec.compile(lambda x: x * float(os.getenv("FACTOR", "5")))
    other = flamec.compile(lambda x: x * len(os.sep))
    for value in ("2", "3", "3"):
        monkeypatch.setenv("FACTOR", value)
        for compiled in (by_name, by_function):
            assert compiled(flamec.ones(1)).item() == float(value)
        other(flamec.ones(1))
    assert by_name.stats.traces == by_function.stats.traces == 2 and other.stats.traces == 1
    assert "os.environ" in by_name.stats.guard_failures[0].reason


def test_a_function_of_flamec_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = flamec.compile(lambda x: F.relu(x) + flamec.nn.functional.gelu(x) * 0)
    x = flamec.tensor([-1.0, 2.0])
    assert compiled(x).tolist() == [0.0, 2.0]
    with monkeypatch.context() as patch:
        patch.setattr(F, "relu", lambda x: x * 3)
        assert compiled(x).tolist() == [-3.0, 6.0]
        patch.setattr(F, "gelu", lambda x: x / x)
        assert compiled(x).tolist() == [-3.0, 6.0]
    assert compiled(x).tolist() == [0.0, 2.0] and compiled.stats.traces == 3


def test_variables_of_functions_that_the_collector_has_frozen() -> None:
    def make():
        factor = 2.0

        def change(value):
            nonlocal factor
            factor = value

        return lambda x: x * factor, change

    inner, change = make()
    gc.freeze()
    step = flamec.compile(lambda x: inner(x))
    try:
        for value in (2.0, 3.0, 4.0):
            change(value)
            assert step(flamec.ones(1)).item() == value
    finally:
        gc.unfreeze()


OTHER = types.ModuleType("module_that_is_handed_on")
OTHER.__file__ = "module_that_is_handed_on.py"


def read_of(module: Any, x: flamec.Tensor) -> flamec.Tensor:
    return x * module.rate


def with_alias(x: flamec.Tensor) -> flamec.Tensor:
    module = OTHER
    return x * module.rate


def with_import(x: flamec.Tensor) -> flamec.Tensor:
    import module_that_is_handed_on  # type: ignore[import-not-found]
    from module_that_is_handed_on import rate

    return x * (module_that_is_handed_on.rate + rate) / 2


HELD = {"module": OTHER}


@pytest.mark.parametrize(
    "function",
    [
        with_alias,
        with_import,
        lambda x: read_of(OTHER, x),
        lambda x: x * getattr(OTHER, "rate"),  # noqa: B009
        lambda x: x * HELD["module"].rate,
    ],
)
def test_modules_that_are_handed_on(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, OTHER.__name__, OTHER)
    compiled = flamec.compile(function, backend="evaluate")
    for rate in (1.0, 2.0, 3.0):
        vars(OTHER)["rate"] = rate
        assert values(compiled(flamec.ones(1))).tolist() == [rate]
    assert compiled.stats.traces == 2


@pytest.mark.parametrize("holder", [{"module": OTHER}, types.SimpleNamespace(module=OTHER), None])
def test_what_a_module_lacks(holder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def function(x: flamec.Tensor) -> flamec.Tensor:
        if holder is None:
            return x * getattr(OTHER, "scale", 1.0)
        module = holder["module"] if type(holder) is dict else holder.module
        return x * (module.scale if hasattr(module, "scale") else 1.0)

    compiled = flamec.compile(function, backend="evaluate")
    assert values(compiled(flamec.ones(1))).tolist() == [1.0]
    for scale in (2.0, 3.0):
        monkeypatch.setitem(vars(OTHER), "scale", scale)
        assert values(compiled(flamec.ones(1))).tolist() == [scale]
    vars(OTHER).pop("scale")
    assert values(compiled(flamec.ones(1))).tolist() == [1.0]


def test_modules_in_code_of_many_names(monkeypatch: pytest.MonkeyPatch) -> None:
    many = "".join(f"        name_{i}\n" for i in range(300))
    source = f"def function(x):\n    if x is None:\n{many}    return x * flamec.late(x)\n"
    variables: dict[str, Any] = {"flamec": flamec, "__name__": __name__}
    exec(source, variables)
    compiled = flamec.compile(variables["function"], backend="evaluate")
    for factor in (2.0, 3.0):
        monkeypatch.setattr(flamec, "late", lambda x, by=factor: by, raising=False)
        assert values(compiled(flamec.ones(1))).tolist() == [factor]


def with_names(x: flamec.Tensor) -> flamec.Tensor:
    try:
        return x * max(1.0, 2.0) + UNKNOWN  # type: ignore[name-defined]
    except NameError:
        return x * max(1.0, 2.0)


def test_globals_that_are_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = flamec.compile(with_names, backend="evaluate")
    x = flamec.ones(1)
    assert values(compiled(x)).tolist() == [2.0]
    monkeypatch.setitem(globals(), "max", lambda a, b: 10.0)  # before Python's own
    assert values(compiled(x)).tolist() == [10.0]
    monkeypatch.setitem(globals(), "UNKNOWN", 5.0)
    assert values(compiled(x)).tolist() == [15.0]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_globals_that_are_looked_up_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = flamec.compile(lambda x: x * globals()["BY_NAME"], backend="evaluate")
    for value in (1.0, 2.0, 3.0):
        monkeypatch.setitem(globals(), "BY_NAME", value)
        assert values(compiled(flamec.ones(1))).tolist() == [value]
