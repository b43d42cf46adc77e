"""``check="nan,inf"``: the first operation and the user's line that made such a value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn
from flamec.ir.types import Device


def test_the_first_operation_is_named() -> None:
    @flamec.compile(check="nan")
    def f(x: Any) -> Any:
        y = x - 2.0
        z = y.log()  # the line
        return (z * 3.0).sum()

    assert f(flamec.tensor([3.0, 4.0])).item() == pytest.approx(3 * np.log(2.0), rel=1e-6)
    with pytest.raises(FloatingPointError) as error:
        f(flamec.tensor([3.0, 1.0, 2.0]))
    message = str(error.value)
    assert message.startswith("log made the first nan: 1 of 3 elements, one at [1] of its [3]")
    assert "float32[3] of -1 to 1" in message
    line = f.function.__code__.co_firstlineno + 3
    assert message.endswith(f"test_checked_values.py:{line})")


@pytest.mark.parametrize(
    ("check", "values", "named"),
    [
        ("inf", [0.0], "log"),
        ("nan", [0.0], "sub"),
        ("nan,inf", [0.0], "log"),
        ("inf", [-1.0], None),
    ],
)
def test_kinds(check: str, values: list[float], named: str | None) -> None:
    @flamec.compile(check=check)
    def f(x: Any) -> Any:
        y = x.log()
        return y - y

    if named is None:
        assert np.isnan(f(flamec.tensor(values)).numpy()).all()
        return
    with pytest.raises(FloatingPointError, match=f"^{named} made the first"):
        f(flamec.tensor(values))


def test_what_the_program_says_is_no_mistake() -> None:
    @flamec.compile(check="nan,inf")
    def masked(x: Any) -> Any:
        return x.masked_fill(x < 0, float("-inf")).softmax(0)

    found = masked(flamec.tensor([1.0, -1.0, 2.0])).numpy()
    assert found[1] == 0.0 and np.isfinite(found).all()
    assert np.isinf(flamec.compile(lambda x: x + 1, check="inf")(flamec.tensor([np.inf])).numpy())


def test_the_backward_pass_is_looked_at_and_nothing_is_written() -> None:
    weight = nn.Parameter(flamec.tensor([0.0, 1.0]))
    optimizer = flamec.optim.SGD([weight], 0.1)

    @flamec.compile(check="nan,inf")
    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (weight * x).sqrt().sum()
        loss.backward()
        optimizer.step()
        return loss

    before = weight.detach().numpy().copy()
    line = step.function.__code__.co_firstlineno + 3
    with pytest.raises(FloatingPointError, match=rf"made the first inf.*values.py:{line}\)$"):
        step(flamec.ones(2))
    np.testing.assert_array_equal(weight.detach().numpy(), before)


def test_gradients_through_a_checked_function() -> None:
    f = flamec.compile(lambda x: x.sqrt().sum(), check="nan,inf")
    x = flamec.tensor([4.0, 1.0], requires_grad=True)
    f(x).backward()
    np.testing.assert_allclose(x.grad.numpy(), [0.25, 0.5])
    y = flamec.tensor([0.0, 1.0], requires_grad=True)
    result = f(y)
    with pytest.raises(FloatingPointError, match="made the first inf"):
        result.backward()


def test_sixteen_bits_and_sizes() -> None:
    f = flamec.compile(lambda x: x * x, check="inf", dynamic=True)
    for n in (1, 5, 0):
        assert f(flamec.ones(n, dtype=flamec.bfloat16)).shape == (n,)
    assert np.isfinite(f(flamec.full((3,), 200.0, dtype=flamec.float16)).float().numpy()).all()
    with pytest.raises(FloatingPointError, match="float16"):
        f(flamec.full((3,), 300.0, dtype=flamec.float16))


def test_values_on_a_gpu(gpu: Device) -> None:
    weight = flamec.zeros(3, device=gpu)

    @flamec.compile(check="nan")
    def f(x: Any) -> Any:
        weight.add_(x)
        return x.sqrt()

    np.testing.assert_allclose(f(flamec.full((3,), 4.0, device=gpu)).cpu().numpy(), 2.0)
    np.testing.assert_allclose(weight.cpu().numpy(), 4.0)
    with pytest.raises(FloatingPointError, match="sqrt made the first nan"):
        f(flamec.full((3,), -1.0, device=gpu))
    np.testing.assert_allclose(weight.cpu().numpy(), 4.0)


def test_other_values_are_refused() -> None:
    with pytest.raises(ValueError, match="check must be 'nan', 'inf' or 'nan,inf'"):
        flamec.compile(lambda x: x, check="zero")


def test_operations_inside_of_loops_and_branches_are_named() -> None:
    def step(x: Any) -> Any:
        y = flamec.cond(x[0] > 2, lambda x: (x - 4).log(), lambda x: x + 1, (x,))
        return (y,)

    def f(x: Any) -> Any:
        (y,) = flamec.while_loop(lambda x: x.sum() < 5, step, (x,))
        return flamec.scan(lambda c, v: (c + v.sqrt(), c), flamec.zeros(()), y)[0]

    compiled = flamec.compile(f, check="nan,inf")
    assert compiled(flamec.tensor([1.0, 4.0])).item() == pytest.approx(3.0)
    for values, named in (([2.5, 0.0], "log"), ([-1.0, 9.0], "sqrt")):
        with pytest.raises(FloatingPointError, match=f"^{named} made the first nan.*values.py"):
            compiled(flamec.tensor(values))
