"""Python that needs a tensor's value splits a compiled function; the result is the eager one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from split_programs import (
    Branching,
    branch,
    growing,
    numbers_of_rows,
    same,
    squares_or_products,
    trainer,
    writing,
)

import flamec
from flamec.errors import CompileError, DataDependentError

T = flamec.Tensor


def follow(function: Callable[..., Any], *calls: tuple[Any, ...], **options: Any) -> Any:
    """Call a function compiled with the arguments of each call, compared with eager calls."""
    compiled = flamec.compile(function, **options)
    for arguments in calls:
        given, expected = copy.deepcopy(arguments), copy.deepcopy(arguments)
        same(compiled(*given), function(*expected))
        same(given, expected)
    return compiled


def filled(value: float) -> T:
    return flamec.full((3,), value)


def test_a_branch_has_a_program_for_each_side() -> None:
    compiled = follow(branch, *((filled(v),) for v in (1.0, 0.0, 2.0, 0.1, 5.0)))
    assert compiled.stats.traces == 2 and compiled.stats.python_runs == 0
    (first,), (second,) = (p.splits for p in compiled.programs)
    assert {bool(first.expected), bool(second.expected)} == {True, False}
    assert "bool()" in str(first) and "split_programs.py" in str(first)
    segments = [p.segments[0] for p in compiled.programs]
    assert segments[0] is segments[1], "both sides begin with the same program"
    assert "another value" in compiled.stats.guard_failures[0].reason


def test_python_is_not_run_for_a_path_that_is_known() -> None:
    runs = []

    class Counting:
        def __bool__(self) -> bool:
            runs.append(object())
            return True

    counting = Counting()

    @flamec.compile
    def f(x: T) -> T:
        if counting and x.sum() > 0:
            return x + 1
        return x - 1

    f(filled(1.0))
    f(filled(1.0))  # its Python code has an effect, which must happen each time
    assert f.stats.python_runs == len(runs) == 2
    compiled = follow(branch, *((filled(1.0),) for _ in range(3)))
    assert compiled.stats.traces == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("read", [lambda t: t.item(), lambda t: t, lambda t: t.sum().item() * 2])
def test_whether_a_loss_is_finite(read: Callable[[T], Any]) -> None:
    """A condition of the program, not a number that Python needs."""

    def checked(x: T) -> Any:
        value = read(x.sum())
        if math.isnan(value):
            return x * 0 + 1
        return x * 2 if math.isinf(value) else x + 1 if math.isfinite(value) else x

    compiled = flamec.compile(checked, backend="evaluate")
    for number in (1.0, math.inf, 2.0, math.nan, 3.0, -math.inf, 4.0):
        x = filled(number)
        np.testing.assert_array_equal(compiled(x).numpy(), checked(x).numpy())
    assert (compiled.stats.traces, compiled.stats.python_runs) == (3, 0)


def test_whether_a_number_of_state_is_finite() -> None:
    scale = [1.0]

    def scaled(x: T) -> T:
        scale[0] *= 2.0
        return x * scale[0] if math.isfinite(scale[0]) else x * 0

    compiled = flamec.compile(scaled, backend="evaluate")
    found = [compiled(filled(1.0)).sum().item() for _ in range(5)]
    scale[0] = math.inf
    assert compiled(filled(1.0)).sum().item() == 0.0
    assert found == [found[0] * 2**k for k in range(5)] and compiled.stats.traces <= 3


def test_a_loop_whose_length_depends_on_a_tensor() -> None:
    compiled = follow(growing(100), *((filled(v),) for v in (1.0, 3.0, 1.0, 7.0, 3.0, 1.0)))
    assert compiled.stats.traces == 3
    kernels = compiled.stats.kernels_compiled + compiled.stats.kernels_from_cache
    assert kernels <= 5, "turns of the loop are one program, the ends are three"


def test_item_is_a_number_of_the_program() -> None:
    compiled = follow(
        lambda x: (x.sum().item(), x.sum().item() * 2 + 1, x.amax().item() > 1, x * x.sum().item()),
        *((filled(v),) for v in (0.5, 2.0, -1.0, float("nan"))),
        fullgraph=True,
    )
    assert compiled.stats.traces == 1 and not compiled.programs[0].splits
    follow(lambda x: x.sum().item(), (flamec.tensor([1, 2]),), (flamec.tensor([True, True]),))
    with pytest.raises(RuntimeError, match="3 elements"):
        flamec.compile(lambda x: x.item())(filled(1.0))


def test_numbers_from_items_in_python() -> None:
    compiled = follow(numbers_of_rows, *((flamec.full((2, 2), v),) for v in (1.0, -1.0, 2.0)))
    assert compiled.stats.traces == 2 and compiled.stats.python_runs == 0


@pytest.mark.parametrize(
    "use",
    [
        lambda x: [1, 2, 3][int(x.sum())],
        lambda x: x[: int(x.sum())],
        lambda x: list(range(x.sum().to(flamec.int64).item())),
        lambda x: x.to(flamec.int64).tolist(),
        lambda x: {0: "a", 1: "b", 2: "c"}[x.to(flamec.int64).sum().item()],
        lambda x: 1.0 in x,
        lambda x: x.nonzero() + 1,
        lambda x: x.any().item(),
        lambda x: flamec.zeros(x.sum().to(flamec.int64)),
    ],
)
def test_whole_numbers_and_flags_choose_a_program(use: Callable[[T], Any]) -> None:
    x, y = flamec.tensor([1.0, 0.0]), flamec.tensor([0.0, 0.0])
    compiled = follow(lambda a: (use(a), a * 2), (x,), (y,), (x,), (y,))
    assert compiled.stats.traces == 2 and compiled.stats.python_runs == 0


@pytest.mark.filterwarnings("ignore:.*run at each call")
@pytest.mark.parametrize(
    "use",
    [
        lambda x: float(x.sum()),
        lambda x: f"{x.sum():.3f} {x.sum().item():.2f}",
        lambda x: x.tolist(),
        lambda x: x.numpy().sum(),
        lambda x: str(x) + repr(x.sum().item()),
        lambda x: round(x.sum().item(), 1),
        lambda x: x.sum().item() in {1.5, 2.0},
        lambda x: {x.sum().item(): 1},
    ],
)
def test_values_that_change_are_given_to_python_each_time(use: Callable[[T], Any]) -> None:
    calls = [(flamec.tensor([v, 0.5]),) for v in (1.0, 0.25, 1.0, -3.0)]
    compiled = follow(lambda a: (use(a * 1), a * 2), *calls)
    assert compiled.stats.python_runs == 4 and not compiled.programs


def test_a_fall_back_to_python_says_so_once() -> None:
    compiled = flamec.compile(lambda x: float(x.sum()))
    with pytest.warns(
        RuntimeWarning, match=r"float\(\).*test_splits\.py.*run at each call"
    ) as seen:
        for _ in range(3):
            compiled(filled(1.0))
    assert len(seen) == 1 and seen[0].filename == __file__


def test_one_graph_or_an_error() -> None:
    with pytest.raises(
        DataDependentError, match=r"bool\(\).*split_programs\.py:\d+.*flamec\.where"
    ):
        flamec.compile(branch, fullgraph=True)(filled(1.0))


def test_printed_tensors_have_their_values(capsys: pytest.CaptureFixture[str]) -> None:
    @flamec.compile
    def f(x: T) -> T:
        print("sum", x.sum(), x)
        return x + 1

    with pytest.warns(RuntimeWarning, match=r"print\(\)"):
        for v in (1.0, 2.0):
            f(filled(v))
    assert capsys.readouterr().out == (
        "sum tensor(3.) tensor([1., 1., 1.])\nsum tensor(6.) tensor([2., 2., 2.])\n"
    )


# writes, random numbers, gradients -------------------------------------------------------


def test_writes_before_and_behind_a_split() -> None:
    f = writing(6)
    compiled = flamec.compile(f)
    mine, other = flamec.zeros(2), flamec.zeros(2)
    for _ in range(5):
        a, b = flamec.ones(3), flamec.ones(3)
        same(compiled(a, mine), f(b, other))
        same((a, mine), (b, other))
    assert compiled.stats.traces == 2


def test_random_numbers_come_in_order() -> None:
    def f(x: T) -> T:
        y = x + flamec.rand(3)
        if y.sum() > 4.5:
            y = y + flamec.rand(3)
        return y + flamec.randn(3)

    compiled = flamec.compile(f)
    flamec.manual_seed(3)
    expected = [f(filled(1.0)) for _ in range(12)]
    flamec.manual_seed(3)
    for value in expected:
        same(compiled(filled(1.0)), value)
    assert compiled.stats.traces == 2


def test_training_steps_with_splits_before_and_behind_the_backward_pass() -> None:
    flamec.manual_seed(1)
    mine = Branching()
    other = copy.deepcopy(mine)

    compiled, eager = flamec.compile(trainer(mine, lr=0.1)), trainer(other, lr=0.1)
    for number in range(12):
        x, y = flamec.randn(8, 4), flamec.randn(8, 4) * (1 if number % 3 else 2)
        got, expected = compiled(x, y), eager(x, y)
        np.testing.assert_allclose(got[0], expected[0], rtol=1e-4)
        for (name, p), q in zip(
            mine.state_dict().items(), other.state_dict().values(), strict=True
        ):
            np.testing.assert_allclose(p.numpy(), q.numpy(), rtol=1e-3, atol=1e-5, err_msg=name)
    assert compiled.stats.python_runs == 0 and compiled.stats.traces <= 8


def test_gradients_through_splits_outside_the_function() -> None:
    f = squares_or_products
    compiled = flamec.compile(f)
    for sign in (1.0, -1.0, 2.0, -0.5):
        gradients = []
        for function in (compiled, f):
            w = flamec.tensor([0.5, 1.0, -0.25], requires_grad=True)
            function(flamec.tensor([1.0, 2.0, 1.0]) * sign, w).backward()
            assert w.grad is not None
            gradients.append(w.grad.numpy())
        np.testing.assert_allclose(*gradients, rtol=1e-6, atol=1e-6)  # one is a difference
    assert compiled.stats.traces == 2


def test_second_derivatives_through_a_split() -> None:
    def f(x: T) -> T:
        y = x**3
        return y.sum() if y.sum() > 0 else (y * y).sum()

    for function in (f, flamec.compile(f)):
        for sign, expected in ((1.0, [6.0, 12.0]), (-1.0, [30.0, 480.0])):
            x = flamec.tensor([sign, 2 * sign], requires_grad=True)
            (first,) = flamec.autograd.grad(function(x), x, create_graph=True)
            (second,) = flamec.autograd.grad(first.sum(), x)
            np.testing.assert_allclose(second.numpy(), expected, rtol=1e-5)


def test_equal_parts_that_read_numbers_of_different_state() -> None:
    first, second = {"best": 1.0}, {"best": 5.0}

    def step(x: T, is_first: bool) -> T:
        held = first if is_first else second
        value = x.mean() * 2
        if value < held["best"]:
            held["best"] = held["best"] - 0.25
            return value
        return value - 100

    found = []
    for function in (step, flamec.compile(step)):
        first["best"], second["best"] = 1.0, 5.0
        values = (0.2, 1.2, 0.3, 2.0, 5.0)
        results = [function(filled(values[k % 5]), k % 2 == 0).item() for k in range(16)]
        found.append((results, dict(first), dict(second)))
    assert found[0] == found[1]


# errors, state, sizes --------------------------------------------------------------------


def test_state_behind_a_split_is_guarded() -> None:
    options = {"scale": 2.0, "shift": 1.0}

    @flamec.compile
    def f(x: T) -> T:
        if x.sum() > 0:
            return x * options["scale"]
        return x + options["shift"]

    assert f(filled(1.0)).tolist() == [2.0] * 3 and f(filled(-1.0)).tolist() == [0.0] * 3
    options["scale"], options["shift"] = 5.0, 7.0
    assert f(filled(1.0)).tolist() == [5.0] * 3 and f(filled(-1.0)).tolist() == [6.0] * 3


def test_sizes_become_symbolic_around_a_split() -> None:
    def f(x: T) -> T:
        y = x * 2
        return y - y.shape[0] if y.sum() > 3 else y[: x.shape[0] // 2]

    sizes = (3, 5, 1, 0, 8, 2, 9, 4)
    compiled = follow(f, *((flamec.full((n,), v),) for n in sizes for v in (1.0, 0.1)))
    assert compiled.stats.traces <= 5


def test_paths_are_bounded_with_a_warning_that_names_the_value() -> None:
    def rows(x: T, n: T) -> T:
        return x[: int(n)].sum()

    compiled = flamec.compile(rows)
    x = flamec.ones(20)
    with pytest.warns(RuntimeWarning, match=r"9 different assumptions.*another value"):
        for n in range(12):
            assert compiled(x, flamec.tensor(n)).item() == n
    assert len(compiled.programs) == 8 and compiled.stats.evictions == 4
    traces = compiled.stats.traces
    assert compiled(x, flamec.tensor(11)).item() == 11 and compiled.stats.traces == traces


def test_splits_in_backward_functions_and_vmap_are_refused() -> None:
    class Doubled(flamec.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: T) -> T:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: T) -> T:
            return g * 2 if g.sum() > 0 else g

    w = flamec.ones(2, requires_grad=True)
    with pytest.raises(DataDependentError, match="bool"):
        flamec.compile(lambda x: Doubled.apply(w * x).sum())(flamec.ones(2))
    batched = flamec.compile(flamec.func.vmap(lambda x: x * 2 if x.sum() > 0 else x))
    with pytest.raises((CompileError, RuntimeError)):
        batched(flamec.ones(2, 2))


def test_a_captured_flag_is_read_at_each_call() -> None:
    enabled = flamec.tensor(True)
    compiled = flamec.compile(lambda x: x * 2 if enabled else x)
    assert compiled(filled(1.0)).tolist() == [2.0] * 3
    enabled.fill_(False)
    assert compiled(filled(1.0)).tolist() == [1.0] * 3
    enabled.fill_(True)
    assert compiled(filled(1.0)).tolist() == [2.0] * 3 and compiled.stats.traces == 2
