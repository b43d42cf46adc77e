"""Tensors that compiled functions store: sizes that vary, gradients, errors, threads, memory."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn
from flamec.errors import CompileError
from tests.stateful_models import State, average

T = flamec.Tensor


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
    assert cache.k.shape == (6, 4)


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


def test_a_parameter_that_is_made_is_stored_like_a_tensor() -> None:
    s = State()

    @flamec.compile(backend="evaluate")
    def f(x: T) -> None:
        s.mean = x
        s.weight = nn.Parameter(x * 2)

    with pytest.warns(RuntimeWarning, match="runs uncompiled"):
        for k in range(2):
            x = flamec.full((3,), float(k))
            f(x)
            assert s.mean is x and isinstance(s.weight, nn.Parameter)
            assert s.weight.tolist() == [2.0 * k] * 3


# the rest of Python -------------------------------------------------------------------------


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
    """An object of Python that is made keeps Python's code running; what it stores is the same
    tensor."""
    s = State()
    log: list[Any] = []

    @flamec.compile(backend="evaluate")
    def f(x: T) -> T:
        s.mean = s.mean + x
        s.a = (s.mean, 1)
        log.append(s.mean)
        log.append(object())
        return s.mean

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n in range(4):
            y = f(flamec.ones(3))
            assert y is s.mean and s.a[0] is y and log[-2] is y and y.tolist() == [n + 1.0] * 3
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
