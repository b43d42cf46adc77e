"""Tensors that compiled functions store in Python's state: one trace, written at each call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

import flamec
from flamec import nn
from tests.stateful_models import Pair, State, average

T = flamec.Tensor
pytestmark = pytest.mark.filterwarnings("error:.*run at each call")


GLOBAL: Any = None


def plain(value: Any) -> Any:
    """A value that can be compared: tensors as lists, with dtype and place in autograd."""
    if isinstance(value, T):
        return ("tensor", value.dtype.name, value.requires_grad, value.detach().tolist())
    if isinstance(value, dict):
        return [[key, plain(item)] for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *[plain(v) for v in value]]
    return value, type(value).__name__


def hidden(s: State, x: T) -> Any:
    s.a = flamec.tanh(x) if s.a is None else flamec.tanh(x + s.a * 0.5)
    return s.a


def last_loss(s: State, x: T) -> Any:
    loss = (x * s.weight).sum()
    s.new = loss.detach()  # an attribute that is not there at first
    return loss


def in_lists_and_dicts(s: State, x: T) -> Any:
    s.list[0], s.list[1] = s.list[1] + x, s.list[0] * 0.5
    s.table["a"] = x if s.table["a"] is None else s.table["a"] - x
    return s.table["b"] + s.list[0]


def in_globals(s: State, x: T) -> Any:
    global GLOBAL
    GLOBAL = x * 2 if GLOBAL is None else GLOBAL + x
    return GLOBAL.sum()


def in_slots(s: State, x: T) -> Any:
    s.slots.a = x if s.slots.a is None else s.slots.a * x
    return x


def default_of_the_class(s: State, x: T) -> Any:
    s.default = x + 1 if s.default is None else s.default + x
    return x


def tuples(s: State, x: T) -> Any:
    h, (c, n) = s.a if s.a is not None else (x * 0, (x * 0, 1))
    s.a = (h + x, (c * 0.5 + h, n))
    return c


def named_tuples(s: State, x: T) -> Any:
    s.b = Pair(x, x * 2) if s.b is None else Pair(s.b.b, s.b.a + x)
    return s.b.a


def number_then_tensor(s: State, x: T) -> Any:
    s.total = s.total + x.sum()
    return s.total


def asked_for_first(s: State, x: T) -> Any:
    if not hasattr(s, "new"):
        s.new = x * 0
    s.new = s.new + x
    return getattr(s, "new", None)


def flag_and_tensor(s: State, x: T) -> Any:
    if not s.flag:
        s.a, s.flag = x * 0, True
    s.a = s.a + x
    return s.a


def read_before_and_after(s: State, x: T) -> Any:
    before = s.mean
    s.mean = x * 2
    first = s.mean
    s.mean = s.mean + before
    return before, first, s.mean


def swapped(s: State, x: T) -> Any:
    s.list[0], s.list[1] = s.list[1], s.list[0] + x
    return x


def changed_in_place_behind(s: State, x: T) -> Any:
    y = x * 2
    s.a = y
    y.add_(1)
    s.b = s.mean
    s.mean.add_(y)
    return y


def view_of_an_argument(s: State, x: T) -> Any:
    s.a = x[1:]
    x.mul_(2)
    return s.a


def view_of_state(s: State, x: T) -> Any:
    s.b = s.mean[:2]
    s.mean.add_(x)
    s.mean = s.mean.clone()
    return s.b


def views_of_what_is_stored(s: State, x: T) -> Any:
    y = x * 3
    s.a, s.b = y[:2], y[1:]
    y[1] = 7.0
    return s.a


def only_written(s: State, x: T) -> Any:
    s.a = {"loss": x.sum().detach(), "kind": "train", "all": [x * 2, 1]}
    return x


def taken_away(s: State, x: T) -> Any:
    if s.a is None:
        s.a = x * 2
    else:
        y, s.a = s.a, None
        return y
    return x


def graph_is_held(s: State, x: T) -> Any:
    s.a = x * s.weight if s.a is None else (s.a.detach() + x) * s.weight
    return s.a.sum()


def with_a_step(s: State, x: T) -> Any:
    loss = ((x + s.mean) * s.weight).exp().sum()
    s.weight.grad = None
    loss.backward()
    with flamec.no_grad():
        s.weight.sub_(s.weight.grad, alpha=0.1)
    s.mean = s.weight.detach() * 0.5
    s.a = loss.detach()
    return loss


def random_numbers(s: State, x: T) -> Any:
    s.mean = s.mean + flamec.rand(3) + nn.functional.dropout(x, 0.5)
    return s.mean


def split(s: State, x: T) -> Any:
    s.mean = s.mean * 0.5 + x
    if s.mean.sum() > 8:
        s.mean = s.mean - 1
        s.flag = True
    s.b = x.sum()
    return s.mean


FUNCTIONS = [
    hidden, average, last_loss, in_lists_and_dicts, in_globals, in_slots, default_of_the_class,
    tuples, named_tuples, number_then_tensor, asked_for_first, flag_and_tensor,
    read_before_and_after, swapped, changed_in_place_behind, view_of_an_argument,
    view_of_state, views_of_what_is_stored,
    only_written, taken_away, graph_is_held, with_a_step, random_numbers, split,
]  # fmt: skip


def run(function: Callable[[State, T], Any], compiles: bool, calls: int = 6) -> Any:
    """What is seen after each call, and the compiled function."""
    global GLOBAL
    GLOBAL = None
    flamec.manual_seed(3)
    s = State()
    call = lambda x: function(s, x)  # noqa: E731
    compiled = flamec.compile(call, backend="evaluate")
    found, kept = [], []
    for n in range(calls):
        x = flamec.tensor([1.0, 2.0, 0.5]) * (n + 1)
        result = (compiled if compiles else call)(x)
        found.append(plain([result, x, [*s.seen(), GLOBAL], getattr(s, "new", None)]))
        kept.append((result, x, s.a, s.b, s.mean))
    found.append(plain(kept))  # later calls change nothing that the user holds
    return found, compiled


@pytest.mark.parametrize("function", FUNCTIONS)
def test_state_is_that_of_eager_code(function: Callable[[State, T], Any]) -> None:
    expected, _ = run(function, False)
    found, compiled = run(function, True)
    for number, (mine, other) in enumerate(zip(found, expected, strict=True)):
        assert repr(mine) == repr(other), f"call {number}"
    assert compiled.stats.python_runs == 0
    assert compiled.stats.traces <= 5
    traces = compiled.stats.traces
    for n in range(2):
        compiled(flamec.ones(3) * n)
    assert compiled.stats.traces == traces or function is split


def test_a_counted_example() -> None:
    """Two traces for the first call, which found what varies; one more where a tensor was None."""
    assert run(average, True)[1].stats.traces == 2
    assert run(hidden, True)[1].stats.traces == 3
    assert len(run(hidden, True)[1].programs) == 2


def test_identity() -> None:
    s = State()

    @flamec.compile(backend="evaluate")
    def f(x: T) -> Any:
        y = x * 2 if s.a is None else s.a + x
        s.a = s.b = s.table["a"] = y
        s.list[0] = x
        s.list[1] = y[:2]
        s.slots.a = s.weight
        return y, s.list[1]

    for _ in range(4):
        x = flamec.ones(3)
        y, view = f(x)
        assert s.a is y and s.b is y and s.table["a"] is y
        assert s.list[0] is x and s.list[1] is view and s.slots.a is s.weight
        view.zero_()
        assert y.tolist()[:2] == [0.0, 0.0]
        y.add_(1)
    assert f.stats.python_runs == 0 and f.stats.traces <= 4
    s.b = s.a.clone()  # from now on two tensors
    f(flamec.ones(3))
    assert s.a is s.b


def test_tensors_that_share_memory_with_what_is_stored() -> None:
    outcomes = []
    for compiles in (False, True):
        s = State()
        shared = flamec.zeros(4)
        s.a = shared[:3]

        def f(x: T) -> T:
            shared.add_(1)  # noqa: B023
            y = s.a * 2  # noqa: B023
            s.a = y + x if s.flag else s.a  # noqa: B023
            return y

        call = flamec.compile(f, backend="evaluate") if compiles else f
        found = []
        for n in range(5):
            s.flag = n > 1
            if n == 3:
                s.a = shared[1:]
            found.append(plain([call(flamec.ones(3)), s.a, shared]))
        outcomes.append(found)
    assert outcomes[0] == outcomes[1]


def test_the_same_argument_again_after_a_view_of_it_was_stored() -> None:
    outcomes = []
    for compiles in (False, True):
        s = State()

        def f(x: T) -> T:
            x.add_(1)
            y = x.sum() if s.a is None else s.a.sum()  # noqa: B023
            s.a = x[1:]  # noqa: B023
            return y

        call = flamec.compile(f, backend="evaluate") if compiles else f
        x, z = flamec.zeros(3), flamec.zeros(3)
        outcomes.append([plain([call(v), s.a, x, z]) for v in (x, x, x, z, x, z, z)])
    assert outcomes[0] == outcomes[1]


def exchanging(values: list[T], log: list[float], h: T) -> None:
    values[0], values[1] = values[0] + h.mean(), values[0]


def popping(values: list[T], log: list[float], h: T) -> None:
    values.append(values.pop() * 0.5 + h.mean())


def shortening(values: list[T], log: list[float], h: T) -> None:
    if len(values) > 1:
        del values[1]
    values[0] = values[0] + h.mean()


@pytest.mark.filterwarnings("ignore:.*Python code")
@pytest.mark.parametrize("change", [exchanging, popping, shortening])
def test_one_tensor_in_two_places_of_a_list_that_a_trace_must_undo(change: Any) -> None:
    """Places that had tracers from the first are given back, too, and nothing happens twice."""
    found = []
    for compiled in (False, True):
        zeros = flamec.zeros(3, dtype=flamec.float64)
        values, log = [zeros, zeros], []

        def step(x: T, y: T, values: Any = values, log: Any = log) -> T:
            h = x * 1.0
            y.add_(1)
            change(values, log, h)
            log.append(float(h.mean()))
            return h

        run = flamec.compile(step) if compiled else step
        base = flamec.arange(18.0, dtype=flamec.float64).reshape(6, 3)
        for _ in range(3):
            result = run(base[:4], base[2])
            kept = [v.tolist() for v in values]
            found.append([result.tolist(), kept, list(log), base.tolist()])
    assert found[:3] == found[3:]


class Logs:
    def __init__(self) -> None:
        self.losses: list[float] = []
        self.by_name: dict[str, Any] = {"losses": []}
        self.settings = Settings()


@dataclass
class Settings:
    steps: int = 0
    losses: list[float] = field(default_factory=list)


def a_list(logs: Logs) -> Any:
    return logs.losses


def in_a_tuple(logs: Logs) -> Any:
    return (logs.losses, 1)[0]


def in_a_dict(logs: Logs) -> Any:
    return logs.by_name["losses"]


def of_settings(logs: Logs) -> Any:
    return logs.settings.losses


@pytest.mark.filterwarnings("ignore:.*Python code")
@pytest.mark.parametrize("find", [a_list, in_a_tuple, in_a_dict, of_settings])
def test_a_local_name_of_a_container_of_state_that_the_end_of_the_function_changes(
    find: Any,
) -> None:
    """Functions are cut behind their work, and the rest takes the local variables."""
    logs = Logs()
    weight = flamec.full((3,), 2.0, requires_grad=True)

    @flamec.compile
    def step(x: T) -> T:
        settings, both, log = logs.settings, [find(logs), logs], find(logs)
        loss = ((weight * x).sigmoid().exp() - 1).square().mean().sqrt()
        loss.backward()
        with flamec.no_grad():
            weight.sub_(weight.grad * 0.5)
            weight.grad = None
        log.append(float(loss))
        both[0].append(0.0)
        settings.steps += 1
        return loss

    losses = [step(flamec.ones(3)).item() for _ in range(6)]
    assert step.stats.python_runs < 4
    assert find(logs) == [v for loss in losses for v in (loss, 0.0)]
    assert logs.settings.steps == 6


def test_containers_of_state_are_returned_themselves() -> None:
    logs = Logs()

    @flamec.compile
    def step(x: T) -> Any:
        return x + 1, logs.losses, {"all": [logs.by_name, logs.settings]}, (logs.losses, [x * 2])

    for _ in range(2):
        _, losses, made, (again, new) = step(flamec.ones(2))
        assert losses is again is logs.losses and new[0].tolist() == [2, 2]
        assert made["all"][0] is logs.by_name and made["all"][1] is logs.settings
        losses.append(1.0)
        logs.losses.clear()
