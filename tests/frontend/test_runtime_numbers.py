"""Python numbers that vary from call to call: one program, Python's arithmetic and promotion."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "times": lambda x, s, k: x * s,
    "zero_dimensional": lambda x, s, k: x.sum() * s,
    "half": lambda x, s, k: x.half() * s,
    "integers": lambda x, s, k: x.int() * k,
    "integers_become_floats": lambda x, s, k: x.int() * s,
    "python_arithmetic": lambda x, s, k: x * ((s + 1) * 2 - k / 3) ** 2,
    "integer_arithmetic": lambda x, s, k: x * (k // 2 + k % 3 - -k),
    "reflected": lambda x, s, k: (1 - s) * x + 2 / s + abs(-s),
    "precise": lambda x, s, k: x * (1 - 0.999999999**k),
    "bounds": lambda x, s, k: x.clamp(-s, s),
    "arguments": lambda x, s, k: flamec.add(x, x, alpha=s) + flamec.lerp(x, x + 1, s / 10),
    "filled": lambda x, s, k: flamec.full((2,), s) + flamec.full_like(x, s).sum(),
    "tensors": lambda x, s, k: (flamec.tensor(s), flamec.tensor([s, 1]), flamec.as_tensor(s + k)),
    "where": lambda x, s, k: flamec.where(x > 0, s, 0.5),
    "shadowed": lambda x, s, k: _shadowed(x, s),
    "returned": lambda x, s, k: (x, s * 2),
    "value_used": lambda x, s, k: x * (2 if s > 1.6 else 3),
    "math": lambda x, s, k: x * math.sqrt(s),
}


def _shadowed(x: Any, s: Any) -> Any:
    before = s
    s += 1
    return x * s - before


def _flat(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numbers_that_vary(name: str) -> None:
    function = FUNCTIONS[name]
    compiled = flamec.compile(function)
    x = flamec.tensor([1.5, -2.0])
    for s, k in ((1.5, 4), (1.25, 5), (2.75, 8), (3.5, 11)):
        for found, wanted in zip(_flat(compiled(x, s, k)), _flat(function(x, s, k)), strict=True):
            assert type(found) is type(wanted)
            if isinstance(wanted, flamec.Tensor):
                assert found.dtype is wanted.dtype and found.shape == wanted.shape
                np.testing.assert_allclose(found.tolist(), wanted.tolist(), rtol=1e-6)
            else:
                assert found == wanted
    if name not in ("returned", "value_used", "math"):
        assert compiled.stats.traces == 2


UNARY_MATH = (
    *("sqrt", "exp", "expm1", "log", "log2", "log10", "log1p", "fabs", "sin", "cos", "tan"),
    *("atan", "sinh", "cosh", "tanh", "erf", "erfc", "degrees", "radians", "floor", "ceil"),
)


def test_math_of_what_item_gives_is_part_of_the_program() -> None:
    def numbers(x: Any) -> Any:
        v = x.sum().item()
        more = math.pow(v, 1.5), math.log(v, 2), math.log(v, v + 1), math.asin(v / 9)
        return [getattr(math, name)(v) for name in UNARY_MATH] + [*more, math.trunc(-v)]

    compiled = flamec.compile(numbers, backend="evaluate")
    for k in range(4):
        x = flamec.full((3,), 0.3 + 0.7 * k)
        found, expected = compiled(x), numbers(x)
        assert [type(v) for v in found] == [type(v) for v in expected]
        np.testing.assert_allclose(found, expected, rtol=1e-15)
    assert compiled.stats.python_runs == 0 and compiled.stats.traces == 1


def test_math_of_what_item_gives_fails_as_in_eager_mode() -> None:
    """Also where the function handles that; the program for ordinary values stays."""

    def perplexity(x: Any) -> Any:
        try:
            return math.exp(x.sum().item())
        except OverflowError:
            return math.inf

    for function, values in (
        (perplexity, (1.0, 2.0, 800.0, 3.0, -900.0, -math.inf, math.inf)),
        (lambda x: x * math.log(x.sum().item()), (1.0, 2.0, 0.0, 3.0, math.inf, math.nan)),
        (lambda x: x[: math.floor(x.sum().item())], (1.0, 2.0, math.inf, math.nan, 1.0)),
    ):
        compiled = flamec.compile(function, backend="evaluate")
        for value in values:
            x = flamec.tensor([value, 0.0])
            try:
                expected = function(x)
            except (ValueError, OverflowError) as error:
                with pytest.raises(type(error), match=str(error)):
                    compiled(x)
                continue
            np.testing.assert_allclose(compiled(x), expected, rtol=1e-6, equal_nan=True)
        assert compiled.stats.python_runs == 0


def test_a_number_that_is_zero_divides_nothing() -> None:
    for function in (lambda n: 1 / n.item(), lambda n: 7 // n.item(), lambda n: 7 % n.item()):
        compiled = flamec.compile(function, backend="evaluate")
        assert compiled(flamec.tensor(2)) == function(flamec.tensor(2))
        for way in (function, compiled):
            with pytest.raises(ZeroDivisionError):
                way(flamec.tensor(0))
