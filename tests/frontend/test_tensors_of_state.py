"""Tensors that compiled functions store in Python's state: one trace, written at each call."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest

import flamec
from flamec import nn
from flamec.errors import CompileError

T = flamec.Tensor
pytestmark = pytest.mark.filterwarnings("error:.*run at each call")


class Pair(NamedTuple):
    a: T
    b: T


@dataclass(slots=True)
class Slots:
    a: Any = None


class State(nn.Module):
    """What functions change; two equal ones are compared after equal calls."""

    default: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.a: Any = None
        self.b: Any = None
        self.flag = False
        self.total: Any = 0.0
        self.list = [flamec.zeros(3), flamec.zeros(3)]
        self.table: dict[str, Any] = {"a": None, "b": flamec.ones(3)}
        self.slots = Slots()
        self.weight = nn.Parameter(flamec.tensor([0.5, -1.0, 2.0]))
        self.register_buffer("mean", flamec.zeros(3))

    def seen(self) -> list[Any]:
        return [
            self.a, self.b, self.flag, self.total, self.list, self.table, self.slots.a,
            self.default, self.mean, dict(self.named_buffers()), GLOBAL, self.weight.grad,
        ]  # fmt: skip


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


def average(s: State, x: T) -> Any:
    s.mean = 0.9 * s.mean + 0.1 * x
    return x - s.mean


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
        found.append(plain([result, x, s.seen(), getattr(s, "new", None)]))
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


# sizes --------------------------------------------------------------------------------------


class Cache(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.k: Any = None
        self.v: Any = None

    def forward(self, x: T) -> T:
        k, v = x * 2, x + 1
        if self.k is not None:
            k, v = flamec.cat([self.k, k]), flamec.cat([self.v, v])
        self.k, self.v = k, v
        return flamec.softmax(x @ k.t(), -1) @ v


@pytest.mark.parametrize("backend", ["evaluate", "auto"])
def test_a_cache_that_grows_has_a_dynamic_size_from_its_third_size_on(backend: str) -> None:
    eager, cache = Cache(), Cache()
    compiled = flamec.compile(cache, backend=backend)
    for n in range(12):
        x = flamec.full((1, 4), n * 0.1)
        np.testing.assert_allclose(compiled(x).numpy(), eager(x).numpy(), rtol=1e-6)
        assert cache.k.shape == (n + 1, 4) and cache.v.shape == (n + 1, 4)
    np.testing.assert_array_equal(cache.k.numpy(), eager.k.numpy())
    assert compiled.stats.traces == 4 and compiled.stats.python_runs == 0
    assert str(compiled.programs[0].captured.graph.inputs[1].type) == "float32[s0, 4]"
    cache.k = cache.v = None  # the first program serves again
    compiled(x)
    cache.v = flamec.zeros(7, 4)  # two sizes now
    cache.k = flamec.zeros(5, 4)
    with pytest.raises(RuntimeError):
        compiled(x)
    assert cache.k.shape == (5, 4)


def test_prompts_of_other_lengths() -> None:
    eager, cache = Cache(), Cache()
    compiled = flamec.compile(cache, backend="evaluate")
    for lengths in ((3, 1, 1, 1), (5, 1, 1), (4, 2, 1), (9, 1)):
        cache.k = cache.v = eager.k = eager.v = None
        for length in lengths:
            x = flamec.rand(length, 4)
            np.testing.assert_allclose(compiled(x).numpy(), eager(x).numpy(), rtol=1e-6)
    assert compiled.stats.python_runs == 0 and len(compiled.programs) <= 6


# gradients ----------------------------------------------------------------------------------


def test_gradients_flow_through_what_is_stored() -> None:
    grads = []
    for compiles in (False, True):
        s = State()

        def f(x: T) -> T:
            h = flamec.tanh(x * s.weight)  # noqa: B023
            s.a = h if s.a is None else flamec.tanh(h + s.a)  # noqa: B023
            return s.a.sum()  # noqa: B023

        call = flamec.compile(f, backend="evaluate") if compiles else f
        loss = sum(call(flamec.full((3,), n + 1.0)) for n in range(4))
        loss.backward()
        assert s.a.requires_grad and s.weight.grad is not None
        grads.append(s.weight.grad.numpy())
        with pytest.raises(RuntimeError, match="second time"):
            s.a.sum().backward()
        with pytest.raises(RuntimeError, match="second time"):
            call(flamec.ones(3)).backward()
        s.a = s.a.detach()
        call(flamec.ones(3)).backward()
        if compiles:
            assert call.stats.python_runs == 0
    np.testing.assert_allclose(grads[0], grads[1], rtol=1e-6)


def test_views_of_what_is_stored_have_gradients() -> None:
    s = State()

    @flamec.compile(backend="evaluate")
    def f(x: T) -> T:
        y = x * s.weight
        s.a, s.b = y[:2], y
        return s.a

    for _ in range(3):
        s.weight.grad = None
        view = f(flamec.ones(3))
        assert view is s.a and s.a.requires_grad and s.b.requires_grad
        (s.a.sum() + s.b.sum()).backward()
        assert s.weight.grad is not None and s.weight.grad.tolist() == [2.0, 2.0, 1.0]


def test_parameters_cannot_be_made_in_a_compiled_function() -> None:
    s = State()

    @flamec.compile(backend="evaluate")
    def f(x: T) -> None:
        s.mean = x
        s.weight = nn.Parameter(x * 2)

    weight, mean = s.weight, s.mean
    for _ in range(2):
        with pytest.raises(CompileError, match="Parameter cannot be created"):
            f(flamec.ones(3))
        assert s.weight is weight and s.mean is mean


# the rest of Python -------------------------------------------------------------------------


def test_an_exception_leaves_nothing_half_written() -> None:
    s = State()

    @flamec.compile(backend="evaluate")
    def f(x: T, fails: bool) -> T:
        s.a = x * 2
        s.mean = s.mean + x
        if fails:
            raise ValueError("on purpose")
        return s.a

    mean = s.mean
    for _ in range(2):
        with pytest.raises(ValueError, match="on purpose"):
            f(flamec.ones(3), True)
        assert s.a is None and s.mean is mean
    f(flamec.ones(3), False)
    f(flamec.ones(3), False)
    a, mean = s.a, s.mean
    with pytest.raises(ValueError, match="on purpose"):
        f(flamec.ones(3), True)
    assert s.a is a and s.mean is mean and mean.tolist() == [2.0] * 3
    f(flamec.ones(3), False)
    assert s.mean.tolist() == [3.0] * 3


def test_several_functions_share_the_state() -> None:
    s = State()

    @flamec.compile(backend="evaluate")
    def write(x: T) -> None:
        s.mean = s.mean + x

    @flamec.compile(backend="evaluate")
    def read(x: T) -> T:
        return s.mean * x

    @flamec.compile(backend="evaluate")
    def scale(x: T) -> None:
        s.mean = s.mean * x

    for n in range(6):
        before = s.mean.numpy()
        write(flamec.ones(3))
        np.testing.assert_array_equal(read(flamec.full((3,), 2.0)).numpy(), (before + 1) * 2)
        scale(flamec.full((3,), 0.5))
        np.testing.assert_array_equal(s.mean.numpy(), (before + 1) * 0.5)
        if n == 3:
            traces = [f.stats.traces for f in (write, read, scale)]
    assert [f.stats.traces for f in (write, read, scale)] == traces
    assert not any(f.stats.python_runs for f in (write, read, scale))


def test_a_tensor_that_others_replace_becomes_an_input() -> None:
    s = State()
    compiled = flamec.compile(lambda x: x * s.mean, backend="evaluate")
    for n in range(8):
        s.mean = flamec.full((3,), float(n))
        assert compiled(flamec.ones(3)).tolist() == [float(n)] * 3
    assert compiled.stats.traces == 3


def test_places_among_real_effects() -> None:
    """A list that grows keeps Python's code running; what it stores is the same tensor."""
    s = State()
    log: list[Any] = []

    @flamec.compile(backend="evaluate")
    def f(x: T) -> T:
        s.mean = s.mean + x
        s.a = (s.mean, 1)
        log.append(s.mean)
        return s.mean

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n in range(4):
            y = f(flamec.ones(3))
            assert y is s.mean and s.a[0] is y and log[-1] is y and y.tolist() == [n + 1.0] * 3
    assert f.stats.python_runs == 4


def test_objects_and_shared_lists_are_made_anew_at_each_call() -> None:
    class Box:
        def __init__(self, x: T) -> None:
            self.x = x

    s = State()
    existing = [flamec.zeros(1)]

    @flamec.compile(backend="evaluate")
    def f(x: T) -> Any:
        s.a = Box(x * 2)
        made = [x, x + 1]
        s.b = made
        s.total = existing
        return made

    boxes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n in range(3):
            made = f(flamec.full((1,), float(n)))
            boxes.append(s.a)
            assert s.a.x.tolist() == [2.0 * n] and s.total is existing
            assert s.b[0] is made[0] and s.b[1] is made[1]
    assert len(set(map(id, boxes))) == 3


def test_what_is_taken_away_stays_away() -> None:
    table: dict[str, Any] = {"a": flamec.zeros(3)}
    s = State()

    @flamec.compile(backend="evaluate")
    def f(x: T, deletes: bool) -> None:
        table["a"] = table["a"] + x
        s.a = table["a"]
        if deletes:
            del table["a"]

    for _ in range(3):
        f(flamec.ones(3), False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        f(flamec.ones(3), True)
    assert table == {} and s.a.tolist() == [4.0] * 3
    table["a"] = flamec.ones(3)
    f(flamec.ones(3), False)
    assert table["a"] is s.a and s.a.tolist() == [2.0] * 3


def test_tensors_of_an_inner_function_that_are_stored() -> None:
    """Of one example of a batch there is no tensor outside, as in eager code; the rest is right."""
    s = State()

    def inner(x: T) -> T:
        s.a = x * 2
        return x

    @flamec.compile(backend="evaluate")
    def f(x: T) -> T:
        s.mean = s.mean + x[0]
        return flamec.func.vmap(inner)(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n in range(3):
            assert f(flamec.ones(2, 3)).tolist() == [[1.0] * 3] * 2
            assert s.mean.tolist() == [n + 1.0] * 3


def test_threads_that_have_states_of_their_own() -> None:
    errors = []

    def work(number: int) -> None:
        s = State()
        call = flamec.compile(lambda x: average(s, x), backend="evaluate")
        mean = np.zeros(3, np.float32)
        for _ in range(20):
            call(flamec.full((3,), float(number)))
            mean = np.float32(0.9) * mean + np.float32(0.1) * np.float32(number)
            if not np.allclose(s.mean.numpy(), mean, rtol=1e-5):
                errors.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_the_old_state_is_let_go() -> None:
    import gc
    import weakref

    s = State()
    compiled = flamec.compile(lambda x: average(s, x), backend="evaluate")
    kept = []
    for _ in range(5):
        kept.append(weakref.ref(s.mean))
        compiled(flamec.ones(3))
    gc.collect()
    assert [ref() is not None for ref in kept] == [False] * 5


def test_export_refuses_state_that_is_written(tmp_path: Any) -> None:
    s = State()
    with pytest.raises(CompileError, match="cannot be exported"):
        flamec.export(lambda x: average(s, x), (flamec.ones(3),), tmp_path / "p.flamec")


def test_memory_of_state_that_somebody_holds_is_not_used_again(simulated: list[Any]) -> None:
    """In programs in C and on a GPU, whose small outputs take turns in memory of their own."""
    for device in ("cpu", "cuda"):
        held = {"h": flamec.zeros(3, device=device), "k": flamec.zeros(0, device=device)}

        @flamec.compile
        def f(x: T) -> None:
            held["h"] = held["h"] + x  # noqa: B023
            held["k"] = flamec.cat([held["k"], held["h"][:1]])  # noqa: B023

        kept = []
        for _ in range(6):
            f(flamec.ones(3, device=device))
            kept.append((held["h"], held["k"]))
        for n, (h, k) in enumerate(kept):
            assert h.tolist() == [n + 1.0] * 3 and k.tolist() == [i + 1.0 for i in range(n + 1)]
        kept[-1][0].zero_()  # in place, by the caller
        f(flamec.ones(3, device=device))
        assert held["h"].tolist() == [1.0] * 3
        assert f.stats.traces == 3 and f.stats.python_runs == 0


def test_conditions_on_many_tensors_do_not_compare_pairs() -> None:
    counts = []
    for layers in (10, 20):
        held = [flamec.zeros(2) for _ in range(layers)]

        def f(x: T) -> None:
            for i in range(len(held)):  # noqa: B023
                held[i] = held[i] + x  # noqa: B023

        compiled = flamec.compile(f, backend="evaluate")
        for _ in range(3):
            compiled(flamec.ones(2))
        assert held[-1].tolist() == [3.0, 3.0] and compiled.stats.traces == 2
        counts.append(len(compiled.programs[0].check.conditions))
        held[3] = held[2]  # one tensor in two places: found, and right
        compiled(flamec.ones(2))
        assert held[3] is not held[2] and held[3].tolist() == [4.0, 4.0]
        assert compiled.stats.traces == 3
    assert counts[1] < 2 * counts[0]


def test_reasons_name_the_places() -> None:
    s = State()
    compiled = flamec.compile(lambda x: average(s, x), backend="evaluate")
    compiled(flamec.ones(3))
    s.mean = flamec.zeros(3, dtype=flamec.float64)
    compiled(flamec.ones(3))
    s.mean = flamec.zeros(3)
    compiled(flamec.ones(3))  # the first program again
    x = flamec.ones(3)
    s.mean = x
    compiled(x)
    reasons = [f.reason for f in compiled.stats.guard_failures]
    assert reasons == [
        "s._buffers['mean'].dtype is flamec.float32",
        "argument 0 and s._buffers['mean'] do not share memory",
    ]
    assert s.mean.tolist() == pytest.approx([1.0] * 3)


def test_a_split_before_state_of_a_size_that_varies() -> None:
    """The part before the split knows fewer sizes than the whole call."""

    class Holder:
        last: Any = None

    found = []
    for wrap in (lambda f: f, lambda f: flamec.compile(f, backend="evaluate")):
        holder = Holder()

        def step(x: T, holder: Holder = holder) -> T:
            kept = x[x.sum(1) > 0.0]
            last = holder.last
            holder.last = kept if last is None or last.shape != kept.shape else last * 0.5 + kept
            return kept

        function = wrap(step)
        for rows in (4, 4, 2, 4, 3, 3, 1):
            x = flamec.arange(3.0 * rows).reshape(rows, 3) - 2.0
            found.append((function(x).tolist(), holder.last.tolist()))
    assert found[:7] == found[7:]
