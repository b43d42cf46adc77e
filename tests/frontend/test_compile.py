"""Compiled functions: what goes in and out, effects, gradients, sizes, errors."""

from __future__ import annotations

import threading
import weakref
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn, optim
from flamec.errors import CompileError, DataDependentError

Pair = namedtuple("Pair", "first second")


@dataclass
class Batch:
    x: flamec.Tensor
    scale: float


def seed_program() -> tuple[nn.Module, Any, Any]:
    model = nn.Sequential(nn.Linear(10, 50), nn.ReLU(), nn.Linear(50, 2))
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=0.001)

    def step(x: flamec.Tensor, y: flamec.Tensor) -> flamec.Tensor:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return model, optimizer, step


def test_seed_program_learns_and_equals_eager() -> None:
    x, y = flamec.randn(16, 10), flamec.randint(0, 2, (16,))
    losses = []
    start: dict[str, Any] | None = None
    for wrap in (lambda f: f, flamec.compile):
        model, _, step = seed_program()
        if start is None:
            start = {k: v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict(start)
        step = wrap(step)
        losses.append([step(x, y).item() for _ in range(50)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-5)
    assert losses[1][-1] < 0.8 * losses[1][0]
    assert step.stats.traces == 1


def test_changing_the_learning_rate_never_recompiles() -> None:
    _, optimizer, step = seed_program()
    compiled = flamec.compile(step)
    scheduler = optim.lr_scheduler.ExponentialLR(optimizer, 0.999)
    x, y = flamec.randn(4, 10), flamec.randint(0, 2, (4,))
    for _ in range(1000):
        compiled(x, y)
        scheduler.step()
    assert compiled.stats.traces == 1
    assert compiled.stats.guard_failures == []
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001 * 0.999**1000)


def test_the_learning_rate_is_really_read() -> None:
    model, optimizer, step = seed_program()
    compiled = flamec.compile(step)
    x, y = flamec.randn(4, 10), flamec.randint(0, 2, (4,))
    compiled(x, y)
    optimizer.param_groups[0]["lr"] = 0.0
    before = model[0].weight.clone()
    compiled(x, y)
    assert flamec.equal(before, model[0].weight)


def test_a_hundred_batch_sizes_compile_twice() -> None:
    _, _, step = seed_program()
    compiled = flamec.compile(step)
    for n in [16, 32, 1, 0, *range(2, 98)]:
        loss = compiled(flamec.randn(n, 10), flamec.randint(0, 2, (n,)))
        assert loss.shape == ()
    assert compiled.stats.traces == 2


def test_symbolic_sizes_give_exact_results() -> None:
    w = flamec.randn(7, 3)

    def f(x: flamec.Tensor) -> tuple[flamec.Tensor, ...]:
        h = flamec.softmax(x @ w, dim=-1)
        return h, h.mean(0), x.reshape(-1), flamec.cat([x, x * 2]), x.shape[0] * x

    compiled = flamec.compile(f)
    for n in (4, 5, 1, 0, 33):
        x = flamec.randn(n, 7)
        for got, expected in zip(compiled(x), f(x), strict=True):
            assert got.shape == expected.shape
            np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)
    assert compiled.stats.traces == 2


def test_structures_in_and_out() -> None:
    @flamec.compile
    def f(batch: Batch, *rest: Any, extra: dict[str, Any]) -> Any:
        total = batch.x * batch.scale + rest[0][0] + extra["k"]
        return {"sum": total, "pair": Pair(total + 1, None), "n": 3, "list": [total - 1]}

    one = flamec.ones(2)
    out = f(Batch(one, 2.0), (one, 5), extra={"k": one})
    assert out["sum"].tolist() == [4.0, 4.0]
    assert isinstance(out["pair"], Pair) and out["pair"].first.tolist() == [5.0, 5.0]
    assert out["pair"].second is None and out["n"] == 3
    assert out["list"][0].tolist() == [3.0, 3.0]


def test_no_outputs_and_in_place_arguments() -> None:
    @flamec.compile
    def f(x: flamec.Tensor) -> None:
        x[1:].mul_(10.0)
        x[0] = 7.0

    x = flamec.arange(4.0)
    for argument in (x, flamec.arange(4.0)):
        version = argument._version
        assert f(argument) is None
        assert argument.tolist() == [7.0, 10.0, 20.0, 30.0]
        assert argument._version > version


def test_programs_do_not_keep_their_first_arguments_alive() -> None:
    f = flamec.compile(lambda x: x + 1)
    x = flamec.ones(3)
    alive = weakref.ref(x)
    f(x)
    del x
    assert alive() is None


def test_outputs_that_alias() -> None:
    captured = flamec.zeros(3)

    @flamec.compile
    def f(x: flamec.Tensor) -> Any:
        y = x * 2
        return x, x[1:], captured, captured.view(3, 1), y, y[0], y

    x = flamec.ones(3)
    same, view, cap, cap_view, y, y0, y_again = f(x)
    assert same is x and cap is captured and y is y_again
    view.fill_(5.0)
    assert x.tolist() == [1.0, 5.0, 5.0]
    cap_view.fill_(2.0)
    assert captured.tolist() == [2.0, 2.0, 2.0]
    y0.fill_(9.0)
    assert y.tolist() == [9.0, 2.0, 2.0]


def test_outputs_of_earlier_calls_stay_intact() -> None:
    f = flamec.compile(lambda x: x + 1)
    held = [f(flamec.full((3,), float(i))) for i in range(20)]
    assert [h[0].item() for h in held] == [float(i + 1) for i in range(20)]


def test_strided_arguments_and_write_back() -> None:
    f = flamec.compile(lambda x: x.add_(1.0).sum())
    base = flamec.zeros(4, 3)
    assert f(base.t()).item() == 12.0
    assert base.tolist() == flamec.ones(4, 3).tolist()


def test_nested_compiled_functions_and_methods() -> None:
    inner = flamec.compile(lambda x: x * 3)

    class Thing:
        def __init__(self, k: float) -> None:
            self.k = k

        @flamec.compile
        def run(self, x: flamec.Tensor) -> flamec.Tensor:
            return inner(x) + self.k

    a, b = Thing(1.0), Thing(2.0)
    x = flamec.ones(1)
    assert (a.run(x).item(), b.run(x).item()) == (4.0, 5.0)
    a.k = 10.0
    assert a.run(x).item() == 13.0


def test_compiled_module_trains_from_outside() -> None:
    flamec.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    compiled = flamec.compile(model)
    x = flamec.randn(5, 4)
    model(x).square().mean().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    compiled(x).square().mean().backward()
    for p, g in zip(model.parameters(), expected, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), g.numpy(), rtol=1e-5, atol=1e-7)
    assert [n for n, _ in compiled.named_parameters()]


def test_gradients_after_a_compiled_step() -> None:
    layer = nn.Linear(3, 1)

    @flamec.compile
    def step(x: flamec.Tensor) -> flamec.Tensor:
        layer.zero_grad()
        loss = layer(x).sum()
        loss.backward()
        return loss

    step(flamec.ones(1, 3))
    first = layer.weight.grad
    loss = step(flamec.full((1, 3), 2.0))
    assert first.tolist() == [[1.0, 1.0, 1.0]], "a gradient that the user holds is not overwritten"
    assert layer.weight.grad.tolist() == [[2.0, 2.0, 2.0]]
    assert loss.requires_grad
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_gradients_accumulate_without_zero_grad() -> None:
    w = flamec.ones(2, requires_grad=True)

    @flamec.compile
    def step(x: flamec.Tensor) -> None:
        (w * x).sum().backward()

    for i in range(1, 5):
        step(flamec.ones(2))
        assert w.grad.tolist() == [float(i), float(i)]
    assert step.stats.traces == 2


def test_second_order_gradients_compiled_and_eager() -> None:
    def f(x: flamec.Tensor) -> flamec.Tensor:
        return (x**3 * flamec.sin(x)).sum()

    def second(x: flamec.Tensor) -> flamec.Tensor:
        (g,) = flamec.autograd.grad(f(x), x, create_graph=True)
        (h,) = flamec.autograd.grad(g.sum(), x, create_graph=True)
        (t,) = flamec.autograd.grad(h.sum(), x)
        return t

    x = flamec.tensor([0.3, -1.2, 2.0], dtype=flamec.float64, requires_grad=True)
    v = x.detach().numpy()
    third = (6 - 9 * v**2) * np.sin(v) + (18 * v - v**3) * np.cos(v)
    np.testing.assert_allclose(second(x).numpy(), third, rtol=1e-10)
    np.testing.assert_allclose(flamec.compile(second)(x).numpy(), third, rtol=1e-10)
    outer = flamec.compile(f)
    (g,) = flamec.autograd.grad(outer(x), x, create_graph=True)
    (h,) = flamec.autograd.grad(g.sum(), x)
    expected = 6 * v * np.sin(v) + 6 * v**2 * np.cos(v) - v**3 * np.sin(v)
    np.testing.assert_allclose(h.numpy(), expected, rtol=1e-10)


def test_random_numbers_are_those_of_eager() -> None:
    def f() -> tuple[flamec.Tensor, ...]:
        return flamec.randn(5), flamec.rand(3, 2), flamec.randint(0, 10, (7,))

    flamec.manual_seed(3)
    expected = [*f(), *f()]
    flamec.manual_seed(3)
    compiled = flamec.compile(f)
    got = [*compiled(), *compiled()]
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-6, atol=1e-6)
    assert compiled.stats.traces == 1


def test_dropout_draws_anew_at_each_call() -> None:
    drop = nn.Dropout(0.5)
    f = flamec.compile(lambda x: drop(x))
    x = flamec.ones(1000)
    a, b = f(x), f(x)
    assert not flamec.equal(a, b)
    assert 300 < int((a == 0).sum().item()) < 700
    drop.eval()
    assert flamec.equal(f(x), x)


def test_buffers_are_updated_in_place() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", flamec.zeros(2))

        def forward(self, x: flamec.Tensor) -> flamec.Tensor:
            self.total += x
            return self.total * 1

    counter = Counter()
    f = flamec.compile(lambda x: counter(x))
    for i in range(1, 4):
        assert f(flamec.ones(2)).tolist() == [float(i), float(i)]
    assert counter.total.tolist() == [3.0, 3.0]


# errors ---------------------------------------------------------------------------


def test_a_branch_on_a_value_names_the_line_and_the_next_call_works() -> None:
    @flamec.compile(fullgraph=True)
    def f(x: flamec.Tensor, check: bool) -> flamec.Tensor:
        if check and x.sum() > 3:
            return x
        return x + 1

    with pytest.raises(DataDependentError, match=r"test_compile\.py:\d+.*flamec\.where"):
        f(flamec.ones(2), True)
    assert f(flamec.ones(2), False).tolist() == [2.0, 2.0]


@pytest.mark.parametrize("use", [lambda x: float(x), lambda x: x.tolist(), lambda x: x.numpy()])
def test_reading_values_is_refused_in_one_graph(use: Any) -> None:
    with pytest.raises(DataDependentError):
        flamec.compile(lambda x: use(x), fullgraph=True)(flamec.ones(()))


def test_errors_raised_while_tracing_pass_through() -> None:
    @flamec.compile
    def f(x: flamec.Tensor, bad: bool) -> flamec.Tensor:
        if bad:
            raise KeyError("mine")
        return x @ x.t()

    with pytest.raises(KeyError, match="mine"):
        f(flamec.ones(2, 2), True)
    assert flamec.ones(1).tolist() == [1.0], "eager mode is intact"
    assert f(flamec.ones(2, 2), False).tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_shape_errors_name_the_operation_and_the_line() -> None:
    f = flamec.compile(lambda a, b: a + b)
    with pytest.raises(RuntimeError, match=r"add.*\[2\].*\[3\].*test_compile\.py"):
        f(flamec.ones(2), flamec.ones(3))


@pytest.mark.parametrize(
    ("argument", "message"),
    [(iter([1]), "iterator"), ((i for i in range(3)), "generator"), (np.ones(2), "from_numpy")],
)
def test_arguments_that_cannot_be_guarded(argument: Any, message: str) -> None:
    f = flamec.compile(lambda x: flamec.ones(1))
    with pytest.raises(CompileError, match=message):
        f(argument)


def test_a_tensor_stored_outside_is_refused_in_one_graph() -> None:
    kept: list[flamec.Tensor] = []

    @flamec.compile(fullgraph=True)
    def f(x: flamec.Tensor) -> flamec.Tensor:
        kept.insert(0, x * 2)
        return x

    with pytest.raises(CompileError, match="stored outside"):
        f(flamec.ones(1))


def test_unhashable_arguments_are_fine() -> None:
    class Odd:
        __hash__ = None  # type: ignore[assignment]
        k = 2.0

    odd = Odd()
    f = flamec.compile(lambda x, o: x * o.k)
    assert f(flamec.ones(1), odd).item() == 2.0
    odd.k = 3.0
    assert f(flamec.ones(1), odd).item() == 3.0


def test_calls_from_several_threads() -> None:
    f = flamec.compile(lambda x: (x * x).sum())
    results: dict[int, float] = {}

    def work(i: int) -> None:
        x = flamec.full((1000,), float(i))
        for _ in range(50):
            results[i] = f(x).item()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == {i: 1000.0 * i * i for i in range(4)}


def test_a_number_that_varied_once_stays_an_input() -> None:
    scaled = flamec.compile(lambda x, factor: x * factor)
    x = flamec.ones(4, 3)
    for factor in (2.0, 3.0):
        scaled(x, factor)
    for size, factor in ((5, 2.0), (6, 7.0), (7, 2.0)):
        assert scaled(flamec.ones(size, 3), factor)[0, 0].item() == factor
    assert scaled.stats.traces == 3


def test_large_outputs_use_the_memory_of_those_that_are_gone() -> None:
    double = flamec.compile(lambda x: x + x)
    x = flamec.ones(512, 512)
    kept, view = double(x), double(x)[1:]
    addresses = {double(x).data_ptr() for _ in range(10)}
    assert len(addresses) == 1
    assert kept.data_ptr() not in addresses and view.data_ptr() not in addresses
    assert kept[0, 0].item() == view[0, 0].item() == 2.0
