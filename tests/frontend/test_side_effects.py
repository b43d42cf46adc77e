"""Effects of a compiled function's Python code happen at each call, as without compiling."""

from __future__ import annotations

import copy
import datetime
import functools
import gc
import itertools
import logging
import random
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn
from flamec.errors import CompileError

T = flamec.Tensor
pytestmark = pytest.mark.filterwarnings("ignore:.*run at each call")


@dataclass
class State:
    """What a function changes; two equal ones are compared after equal calls."""

    items: list[Any] = field(default_factory=list)
    table: dict[Any, Any] = field(default_factory=dict)
    names: set[Any] = field(default_factory=set)
    queue: deque[Any] = field(default_factory=lambda: deque(maxlen=3))
    count: int = 0
    best: Any = None


def plain(value: Any) -> Any:
    """A value that can be compared: tensors as lists, with their dtype."""
    if isinstance(value, T):
        return ("tensor", value.dtype.name, value.detach().tolist())
    if isinstance(value, (list, tuple, deque)):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, State):
        return {k: plain(v) for k, v in vars(value).items()}
    return value


def append_tensor(s: State, x: T) -> Any:
    s.items.append(x * 2)


def append_numbers(s: State, x: T) -> Any:
    s.items.append(x.sum().item())
    s.items += [1, s.count]


def count_calls(s: State, x: T) -> Any:
    s.items.append(s.count)
    s.count += 1
    return x * s.count


def keep_argument(s: State, x: T) -> Any:
    s.best = x
    s.table["view"] = x[1:]
    x.add_(1)


def keep_the_best(s: State, x: T) -> Any:
    total = x.sum()
    if s.best is None or total > s.best:
        s.best = total
    return total


def fill_containers(s: State, x: T) -> Any:
    y = x + 1
    s.table[len(s.table)] = [y, {"inner": (y, 1)}]
    s.queue.append(y)
    s.names.add(f"{len(s.names)}")
    s.names.add(x.sum().item())
    return y


def keep_history(s: State, x: T) -> Any:
    previous = s.best if s.best is not None else flamec.zeros(2)
    s.best = previous * 0.5 + x
    return s.best


def change_in_place_and_keep(s: State, x: T) -> Any:
    y = x * 1
    s.items.append(y)
    y.mul_(3)
    s.items.append(y[0])
    return y


def take_out(s: State, x: T) -> Any:
    s.items.append(1)
    if len(s.items) > 2:
        s.items.clear()
    return x + len(s.items)


def delete(s: State, x: T) -> Any:
    s.table["a"] = 1
    if "b" in s.table:
        del s.table["b"]
    else:
        s.table["b"] = x.sum()
    return x


def split_and_append(s: State, x: T) -> Any:
    if x.sum() > 3:
        s.items.append("large")
        x = x - 1
    s.items.append(int(x.sum()))
    return x


@pytest.mark.parametrize(
    "function",
    [
        append_tensor, append_numbers, count_calls, keep_argument, keep_the_best,
        fill_containers, keep_history, change_in_place_and_keep, take_out, delete,
        split_and_append,
    ],
)  # fmt: skip
def test_state_after_each_call_is_the_eager_one(function: Callable[[State, T], Any]) -> None:
    mine, other = State(), State()
    compiled = flamec.compile(lambda x: function(mine, x))
    for value in (1.0, 3.0, 2.0, 4.0, 1.0):
        x, y = flamec.full((2,), value), flamec.full((2,), value)
        assert plain(compiled(x)) == plain(function(other, y))
        assert plain(mine) == plain(other) and plain(x) == plain(y)
    runs_python = function in (fill_containers, take_out, delete)
    assert (compiled.stats.python_runs >= 3) == runs_python


def test_what_was_stored_is_the_argument_and_the_result() -> None:
    kept: list[Any] = []

    @flamec.compile
    def f(x: T) -> T:
        y = x * 2
        kept.append(x)
        kept.append(y)
        return y

    x = flamec.ones(2)
    y = f(x)
    assert kept[0] is x and kept[1] is y
    y.add_(1)
    assert kept[1].tolist() == [3.0, 3.0]


def test_gradients_reach_what_was_stored() -> None:
    w = flamec.ones(2, requires_grad=True)
    kept: list[Any] = []

    @flamec.compile
    def f(x: T) -> None:
        kept.append((w * x).sum())

    for value in (1.0, 2.0):
        f(flamec.full((2,), value))
    (kept[0] + kept[1]).backward()
    assert w.grad is not None and w.grad.tolist() == [3.0, 3.0]


def test_gradients_that_are_stored() -> None:
    w = flamec.ones(2, requires_grad=True)
    kept: list[Any] = []

    @flamec.compile
    def f(x: T) -> None:
        w.grad = None
        (w * x).sum().backward()
        kept.append(w.grad)

    for value in (1.0, 2.0):
        f(flamec.full((2,), value))
        assert kept[-1] is w.grad
    assert [g.tolist() for g in kept] == [[1.0, 1.0], [2.0, 2.0]]


COUNTER = 0


def test_globals_closures_and_classes() -> None:
    class Config:
        seen = 0

    turns = 0

    @flamec.compile
    def f(x: T) -> T:
        nonlocal turns
        global COUNTER
        turns += 1
        COUNTER = turns * 10
        Config.seen = turns
        return x * turns

    for expected in (1.0, 2.0, 3.0):
        assert f(flamec.ones(1)).item() == expected
        assert (turns, COUNTER, Config.seen) == (expected, expected * 10, expected)


def test_an_attribute_that_is_only_written() -> None:
    class Holder:
        pass

    holder = Holder()
    calls = []

    @flamec.compile
    def f(x: T, value: int) -> T:
        holder.value = value  # type: ignore[attr-defined]
        return x + 1

    for value in (1, 1, 2, 2, 1):
        f(flamec.ones(1), value)
        calls.append(holder.value)  # type: ignore[attr-defined]
        holder.value = None  # type: ignore[attr-defined]
    assert calls == [1, 1, 2, 2, 1]


def test_a_module_that_counts_and_replaces_a_buffer() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0
            self.register_buffer("mean", flamec.zeros(2))

        def forward(self, x: T) -> T:
            self.calls += 1
            self.mean = self.mean * 0.5 + x
            return x - self.mean

    eager, module = Counting(), Counting()
    compiled = flamec.compile(module)
    for value in (1.0, 2.0, 3.0):
        x = flamec.full((2,), value)
        assert compiled(x).tolist() == eager(x).tolist()
        assert module.calls == eager.calls and module.mean.tolist() == eager.mean.tolist()


@pytest.mark.parametrize(
    "draw",
    [random.random, lambda: random.randint(0, 10**6), lambda: np.random.rand(), time.perf_counter,
     lambda: np.random.default_rng().random(), lambda: datetime.datetime.now().timestamp()],
)  # fmt: skip
def test_the_clock_and_random_numbers_are_not_constants(draw: Callable[[], float]) -> None:
    compiled = flamec.compile(lambda x: x + draw())
    x = flamec.zeros((), dtype=flamec.float64)
    assert len({compiled(x).item() for _ in range(3)}) == 3


def test_printing_and_logging(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("flamec-test")

    @flamec.compile
    def f(x: T) -> T:
        print("called")
        logger.warning("sum %.1f", x.sum().item())
        return x

    for value in (1.0, 2.0):
        f(flamec.full((2,), value))
    assert capsys.readouterr().out == "called\ncalled\n"
    assert [r.getMessage() for r in caplog.records] == ["sum 2.0", "sum 4.0"]


def test_files(tmp_path: Any) -> None:
    path = tmp_path / "log.txt"

    @flamec.compile
    def f(x: T) -> T:
        with path.open("a") as file:
            file.write(f"{x.sum().item()}\n")
        return x

    for value in (1.0, 2.0):
        f(flamec.full((2,), value))
    assert path.read_text() == "2.0\n4.0\n"


def test_iterators_are_used_up() -> None:
    numbers = itertools.count(1)
    batches = iter([flamec.full((2,), float(n)) for n in range(3)])

    @flamec.compile
    def f(x: T) -> T:
        return x * next(numbers) + next(batches)

    assert [f(flamec.ones(2)).tolist()[0] for _ in range(3)] == [1.0, 3.0, 5.0]
    with pytest.raises(StopIteration):
        f(flamec.ones(2))


def test_one_graph_refuses_effects() -> None:
    kept: list[int] = []

    def counts(x: T) -> T:
        kept.append(len(kept))
        return x

    def prints(x: T) -> T:
        print("x")
        return x

    with pytest.raises(CompileError, match=r"counts: it changed the state.*len\(kept\)"):
        flamec.compile(counts, fullgraph=True)(flamec.ones(1))
    with pytest.raises(CompileError, match=r"print\(\) is called \(at .*test_side_effects"):
        flamec.compile(prints, fullgraph=True)(flamec.ones(1))


def test_numbers_and_arguments_in_tuples_and_slots() -> None:
    class Slotted:
        __slots__ = ("value",)

    kept: list[Any] = []
    slotted = Slotted()

    @flamec.compile
    def f(x: T) -> T:
        slotted.value = x.sum().item()
        kept.append((x.sum().item(), (x, 1)))
        return x

    for value in (1.0, 2.0):
        x = flamec.full((2,), value)
        f(x)
        assert kept[-1] == (2 * value, (x, 1)) and type(kept[-1][0]) is float
        assert kept[-1][1][0] is x and slotted.value == 2 * value


def test_a_number_where_it_cannot_be_replaced_is_refused_clearly() -> None:
    kept: list[Any] = []

    @flamec.compile
    def f(x: T) -> T:
        kept.append(functools.partial(print, x.sum().item()))
        return x

    with pytest.raises(CompileError, match="stored in a partial"):
        f(flamec.ones(1))


def test_effects_do_not_stay_in_a_function_without_them() -> None:
    state = State()

    def f(x: T, log: bool) -> T:
        if log:
            state.names.add(x.sum().item())
        return x * 2

    compiled = flamec.compile(f)
    compiled(flamec.ones(2), False)
    compiled(flamec.ones(2), True)
    for _ in range(3):
        compiled(flamec.ones(2), False)
    assert compiled.stats.traces == 2 and state.names == {2.0}
    assert copy.copy(compiled.effects)


def test_a_module_that_is_imported_while_tracing_is_no_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless its own code has one."""
    (tmp_path / "quiet_module.py").write_text("factor = 3.0\n")
    (tmp_path / "loud_module.py").write_text("print('imported')\nfactor = 3.0\n")
    monkeypatch.syspath_prepend(tmp_path)

    @flamec.compile
    def quiet(x: T) -> T:
        import quiet_module

        return x * quiet_module.factor

    @flamec.compile
    def loud(x: T) -> T:
        import loud_module

        return x * loud_module.factor

    for function in (quiet, loud):
        assert function(flamec.ones(2)).tolist() == [3.0, 3.0]
    assert quiet.stats.python_runs == 0
    assert loud.stats.python_runs == 1
    vars(sys.modules["quiet_module"])["factor"] = 4.0
    assert quiet(flamec.ones(2)).tolist() == [4.0, 4.0]


def test_containers_that_are_only_read_cause_no_warning(recwarn) -> None:
    def function(batch, *rest, **more):
        more.pop("k", None)
        copied = {**batch, "z": 1}
        return sum(rest) + copied["x"] * len(more)

    compiled = flamec.compile(function, backend="evaluate")
    for rows in (2, 3, 4):
        x = flamec.ones(rows)
        assert compiled({"x": x}, x, x, k=1, m=2).tolist() == [3] * rows
    assert not [w for w in recwarn if "among its arguments" in str(w.message)]


def test_a_function_that_keeps_tensors_takes_a_full_collection_once() -> None:
    """What it leaves in cycles does not count as kept; young objects are all that is looked at."""
    full = 0
    kept: list[Any] = []

    class Ring:
        def __init__(self, tensor: Any) -> None:
            self.tensor, self.itself = tensor, self

    def function(x: Any, keeps: bool) -> Any:
        Ring(x * 3)
        if keeps:
            print(end="")
            kept.append(x * 2)
            kept.append(x)
        return x + len(kept)

    def count(phase: str, information: dict[str, int]) -> None:
        nonlocal full
        full += phase == "stop" and information["generation"] == 2

    compiled = flamec.compile(function, backend="evaluate")
    compiled(flamec.ones(1), False)
    assert compiled.stats.python_runs == 0
    gc.collect()
    gc.disable()  # none by itself
    gc.callbacks.append(count)
    try:
        for k in range(5):
            full = 0
            assert compiled(flamec.full((1,), float(k)), True).item() == 3 * k + 2
            assert full <= (2 if k == 0 else 0)
    finally:
        gc.callbacks.remove(count)
        gc.enable()
    assert [t.item() for t in kept] == [v for k in range(5) for v in (2 * k, k)]
    assert compiled.stats.python_runs == 5


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("every", [2, 3])
def test_lists_that_begin_at_different_calls(every: int) -> None:
    """Each list is new once, and then only appended to."""
    log: dict[str, list[Any]] = defaultdict(list)
    count = [0]

    @flamec.compile(backend="evaluate")
    def step(x: flamec.Tensor) -> flamec.Tensor:
        count[0] += 1
        log["loss"].append((x * 2).sum())
        if count[0] % every == 0:
            log["actor"].append(x.mean().item())
        return x + 1

    for k in range(12):
        step(flamec.full((3,), float(k)))
    assert [float(v) for v in log["loss"]] == [6.0 * k for k in range(12)]
    assert log["actor"] == [float(k) for k in range(12) if (k + 1) % every == 0]
    assert step.stats.python_runs == 2 and step.stats.traces < 12
