"""Numbers of Python's state that vary: inputs of one program, and written at each call."""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import optim
from tests.stateful_models import Counter, training

T = flamec.Tensor


GLOBAL = 1.0


def in_attributes(s: Counter, x: T) -> Any:
    s.count += 1
    return x * s.count


def in_dicts(s: Counter, x: T) -> Any:
    s.table["a"] *= 0.5
    s.table["n"] = s.table["n"] + 2
    return x * s.table["a"] + s.table["n"] // 2


def in_lists(s: Counter, x: T) -> Any:
    s.list[0], s.list[1] = s.list[1] * 0.5, s.list[1] + 1
    return x + s.list[0]


def in_tuples(s: Counter, x: T) -> Any:
    s.pair = (s.pair[0] * 0.75, s.pair[1] + 1)
    return x * s.pair[0] ** s.pair[1]


def in_globals(s: Counter, x: T) -> Any:
    global GLOBAL
    GLOBAL = GLOBAL + 0.5 if s.rate < 1 else -GLOBAL
    return x + GLOBAL


def with_math(s: Counter, x: T) -> Any:
    s.count += 1
    s.rate = 1 / math.sqrt(s.count) + math.cos(math.pi * s.rate / 7) - round(s.rate, 1)
    return x * s.rate + math.floor(s.rate * 3)


def returned(s: Counter, x: T) -> Any:
    s.count += 3
    return x, s.count, [s.count / 2, s.count > 0]


def read_before(s: Counter, x: T) -> Any:
    before = s.count
    s.count = before * 2 + 1
    return x * before - s.count


def computed_by_the_program(s: Counter, x: T) -> Any:
    s.rate = 0.9 * s.rate + 0.1 * x.sum().item()
    return x * s.rate


FUNCTIONS = [
    in_attributes, in_dicts, in_lists, in_tuples, in_globals, with_math, returned, read_before,
    computed_by_the_program,
]  # fmt: skip


def plain(value: Any) -> Any:
    if isinstance(value, T):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value, type(value)


def state(s: Counter) -> Any:
    return repr((s.count, s.pair, s.table, s.list)), s.rate


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_number_that_the_function_changes(function: Callable[[Counter, T], Any]) -> None:
    global GLOBAL
    outcomes = []
    for compiles in (False, True):
        GLOBAL = 1.0
        s = Counter()
        call = lambda x: function(s, x)  # noqa: B023, E731
        compiled = flamec.compile(call)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = []
            for n in range(6):
                x = flamec.full((2,), n + 1.0, dtype=flamec.float64)
                found.append((plain((compiled if compiles else call)(x)), state(s), GLOBAL))
        outcomes.append(found)
        if compiles:
            assert compiled.stats.traces == 2 and compiled.stats.python_runs == 0
            assert len(compiled.programs) == 1
    if function is computed_by_the_program:
        np.testing.assert_allclose(outcomes[0][-1][0], outcomes[1][-1][0], rtol=1e-12)
    else:
        assert outcomes[0] == outcomes[1]  # Python's own arithmetic, to the bit


def test_a_number_that_changes_between_calls() -> None:
    s = Counter()
    compiled = flamec.compile(lambda x: x * s.rate + s.table["n"])
    for rate, n in ((0.5, 3), (0.25, 3), (0.125, 4), (2.0, 5), (3.0, 6)):
        s.rate, s.table["n"] = rate, n
        assert compiled(flamec.ones(1)).item() == rate + n
    assert compiled.stats.traces == 3
    s.rate = 2  # an int
    assert compiled(flamec.ones(1, dtype=flamec.int64)).dtype is flamec.int64
    assert s.rate == 2


def test_decisions_by_numbers_are_guarded_by_their_outcome() -> None:
    s = Counter()

    def step(x: T) -> T:
        s.count += 1
        if s.count % 4 == 0:
            x = x * 10
        return x + min(s.count, 100)

    compiled = flamec.compile(step)
    for count in range(1, 17):
        wanted = (10 if count % 4 == 0 else 1) + count
        assert compiled(flamec.ones(1)).item() == wanted
    assert compiled.stats.traces == 3  # the first, the number as an input, the other outcome
    assert any("the condition on" in f.reason for f in compiled.stats.guard_failures)


def test_a_number_that_is_needed_itself_is_a_constant() -> None:
    s = Counter()
    compiled = flamec.compile(lambda x: sum((x for _ in range(s.count)), x))
    for count in (1, 2, 3, 2, 1):
        s.count = count
        assert compiled(flamec.ones(1)).item() == 1 + count
    assert compiled.stats.traces == 3


def test_questions_about_the_type_of_a_number() -> None:
    s = Counter()

    def step(x: T) -> T:
        s.count += 1
        return x * (2 if isinstance(s.count, int) else 3)

    compiled = flamec.compile(step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert [compiled(flamec.ones(1)).item() for _ in range(4)] == [2.0] * 4
    assert s.count == 4


def test_an_error_leaves_the_numbers_of_eager_mode() -> None:
    s = Counter()

    def step(x: T) -> T:
        s.count += 1
        if s.count > 3:
            raise ValueError("enough")
        return x * (1 / (3 - s.count) if s.count < 3 else 1)

    compiled = flamec.compile(step)
    assert [compiled(flamec.ones(1)).item() for _ in range(3)] == [0.5, 1.0, 1.0]
    with pytest.raises(ValueError, match="enough"):
        compiled(flamec.ones(1))
    assert type(s.count) is int
    s.count = 0
    assert compiled(flamec.ones(1)).item() == 0.5 and s.count == 1


def test_gradients_flow_beside_numbers_that_change() -> None:
    s = Counter()

    def step(x: T) -> Any:
        s.count += 1
        return (x * x).sum() * s.count, s.count

    compiled = flamec.compile(step)
    for n in range(1, 5):
        x = flamec.full((2,), 3.0).requires_grad_()
        y, count = compiled(x)
        y.backward()
        assert x.grad is not None
        assert x.grad.tolist() == [6.0 * n] * 2 and count == s.count == n
    assert compiled.stats.traces == 2


def test_a_split_beside_numbers_that_change() -> None:
    s = Counter()

    def step(x: T) -> T:
        s.count += 1
        y = x * s.count
        return y if y.sum() > 6 else y - 1

    compiled = flamec.compile(step)
    found = [compiled(flamec.ones(2)).tolist()[0] for _ in range(6)]
    assert found == [0.0, 1.0, 2.0, 4.0, 5.0, 6.0] and s.count == 6
    assert compiled.stats.python_runs == 0 and compiled.stats.traces == 3


# optimizers -----------------------------------------------------------------------------


class Adam(optim.Optimizer):
    """Adam as users write it, with step counts and powers in Python."""

    def __init__(self, params: Any, lr: float = 0.05) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99), "eps": 1e-8})
        self.t = 0

    @flamec.no_grad()
    def step(self, closure: Any = None) -> None:
        self.t += 1
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                entry = self.state[p]
                if not entry:
                    entry.update(step=0, m=flamec.zeros_like(p), v=flamec.zeros_like(p))
                entry["step"] += 1
                entry["m"].mul_(beta1).add_(p.grad, alpha=1 - beta1)
                entry["v"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                size = (entry["v"] / (1 - beta2 ** entry["step"])).sqrt() + group["eps"]
                p.sub_(entry["m"] / size, alpha=group["lr"] / (1 - beta1**self.t))


def test_an_optimizer_that_counts_its_steps_in_python() -> None:
    x = flamec.tensor(np.random.default_rng(0).normal(size=(4, 3)))
    _, mine, step = training(Adam)
    _, theirs, wanted = training(lambda p: optim.Adam(p, lr=0.05, betas=(0.9, 0.99)))
    compiled = flamec.compile(step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the first call stores the state
        for n in range(12):
            mine.param_groups[0]["lr"] = theirs.param_groups[0]["lr"] = 0.05 * 0.9**n
            np.testing.assert_allclose(compiled(x).item(), wanted(x).item(), rtol=1e-9)
    assert mine.t == 12 and [s["step"] for s in mine.state.values()] == [12, 12]
    assert compiled.stats.python_runs == 1 and compiled.stats.traces <= 5


@pytest.mark.parametrize("make", [optim.SGD, optim.AdamW, Adam])
@pytest.mark.parametrize("where", ["argument", "attribute", "computed"])
def test_a_learning_rate_that_is_set_in_the_step(make: Any, where: str) -> None:
    x = flamec.tensor(np.random.default_rng(1).normal(size=(4, 3)))
    losses = []
    for compiles in (False, True):
        _, optimizer, update = training(lambda p: make(p, lr=0.1))
        s = Counter()

        def step(x: T, lr: float) -> T:
            for group in optimizer.param_groups:  # noqa: B023
                if where == "argument":
                    group["lr"] = lr
                elif where == "attribute":
                    s.count += 1  # noqa: B023
                    group["lr"] = 0.1 * 0.8**s.count  # noqa: B023
                else:
                    group["lr"] = group["lr"] * 0.9
            return update(x)  # noqa: B023

        call = flamec.compile(step) if compiles else step
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            found = [
                (call(x, 0.1 / n).item(), optimizer.param_groups[0]["lr"]) for n in range(1, 9)
            ]
        losses.append(found)
        if compiles:
            assert call.stats.traces <= 5 and call.stats.python_runs <= 1
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-9)


def test_a_momentum_of_a_split_that_a_trace_first_reached_which_came_to_nothing() -> None:
    """The second call is traced twice; the segment of the first time is kept, and its numbers
    are computed at each call."""

    def run(wrap: Callable[[Any], Any]) -> list[float]:
        s = SimpleNamespace(last=None, before=None)
        w = flamec.nn.Parameter(flamec.ones(1, dtype=flamec.float64))
        optimizer = optim.SGD([w], lr=0.1, momentum=0.5)
        limit = flamec.ones(3)

        def step(x: T) -> T:
            s.last, s.before = x.mean(), s.last
            h = x * w
            optimizer.param_groups[0]["momentum"] *= 0.5
            h.sum().backward()
            optimizer.step()
            return h if limit.sum() > 4 else h - 1

        step = wrap(step)
        for n in range(1, 5):
            step(flamec.full((2,), float(n), dtype=flamec.float64))
        return [round(float(w), 12)]

    assert run(flamec.compile) == run(lambda function: function)


def test_a_learning_rate_that_the_function_reads_is_not_stale() -> None:
    _, optimizer, update = training(lambda p: optim.SGD(p, lr=0.1))
    compiled = flamec.compile(lambda x: update(x) * 0 + optimizer.param_groups[0]["lr"])
    group = optimizer.param_groups[0]
    held = flamec.compile(lambda x: update(x) * 0 + group["lr"])
    x = flamec.ones(4, 3, dtype=flamec.float64)
    for lr in (0.1, 0.2, 0.3, 0.4):
        group["lr"] = lr
        assert compiled(x).item() == held(x).item() == lr
    assert compiled.stats.traces == held.stats.traces == 2


# schedulers -----------------------------------------------------------------------------
def test_a_count_in_each_of_many_layers() -> None:
    count = SimpleNamespace(layers=0)

    @flamec.compile
    def forward(x: flamec.Tensor) -> flamec.Tensor:
        for _ in range(300):
            count.layers += 1
        return x * count.layers

    for call in range(1, 5):
        assert forward(flamec.ones(2)).tolist() == [300.0 * call] * 2
        assert count.layers == 300 * call
    assert forward.stats.traces <= 2


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_long_chain_of_other_arithmetic() -> None:
    values = []
    for wrap in (lambda f: f, flamec.compile):
        state = {"scale": 1.0}

        def forward(x: flamec.Tensor, state: dict[str, float] = state) -> flamec.Tensor:
            for _ in range(150):
                state["scale"] = state["scale"] * 1.01 + 0.001
            return x * state["scale"]

        wrapped = wrap(forward)
        values.append([(wrapped(flamec.ones(1)).item(), state["scale"]) for _ in range(4)])
    assert values[0] == values[1]


def test_a_least_loss_beside_a_count() -> None:
    """A trace that begins again, as the count varies, has compiled a comparison with the least."""

    class Record:
        best, count = float("inf"), 0

    seen = []
    for wrap in (lambda f: f, flamec.compile):
        record = Record()

        def step(x: flamec.Tensor, record: Record = record) -> flamec.Tensor:
            record.best = min(record.best, x.mean().item())
            record.count += 1
            return x * 2

        wrapped, found = wrap(step), []
        for value in (3.0, 2.0, 5.0, 1.0, 4.0):
            wrapped(flamec.full((2,), value))
            found.append((record.best, record.count))
        seen.append(found)
    assert seen[0] == seen[1]


def test_traces_that_begin_again_look_through_no_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds tensors of such a trace in caches of functions looks at all objects: it must not
    have to because of the frames that the trace has left."""
    searches: list[Any] = []
    search = gc.get_referrers

    def counted(*objects: Any) -> list[Any]:
        searches.append(objects)
        return search(*objects)

    monkeypatch.setattr(gc, "get_referrers", counted)
    state = Counter()
    compiled = flamec.compile(in_attributes, backend="evaluate")
    for call in range(1, 4):
        assert compiled(state, flamec.ones(2)).tolist() == [call, call]
    assert compiled.stats.traces > 1 and not searches
