"""NumPy's scalars among the arguments, which change from call to call: one program for all values,
with NumPy's arithmetic between numbers, and what a Python number is where they meet a tensor."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec

FLOATS = (0.1, 1.5, 2.5, 3.0, 0.3)
WHOLE = (1, 2, 3, 0, 1)

# name -> function, and how many programs there may be of values that are all different
CASES: dict[str, tuple[Callable[..., Any], int]] = {
    "with tensors": (lambda x, k: (x * k, k * x, x - k, k - x, x / (k + 1), x.long() * k), 2),
    "between numbers": (
        lambda x, k: (k * 3, k + 1.5, k / 7, k + np.float32(1), np.float64(2) * k, -k, k**2),
        2,
    ),
    "rounded as NumPy does": (lambda x, k: x * (k * 0.1 + 3 - k / 3), 2),
    "whole parts": (lambda x, k: (k // 2, k % 3), 2),
    "math": (lambda x, k: x * math.exp(k), 2),
    "as tensors": (lambda x, k: (flamec.tensor(k), flamec.tensor([k, 1]), flamec.as_tensor(k)), 2),
    "filled": (lambda x, k: (flamec.full_like(x, k), flamec.where(x > 1, x, k), x.clamp(max=k)), 2),
    "returned": (lambda x, k: (k, x), 2),
    "gradient": (lambda x, k: flamec.func.grad(lambda y: (y * y * k).sum())(x), 2),
    "decided": (lambda x, k: (x * k if k > 1 else x - k, k == 2), 5),
    # what only NumPy's scalars have makes one a constant
    "its value": (lambda x, k: x * k.item(), 5),
    "its dtype": (lambda x, k: x * k if k.dtype == np.float32 else x, 5),
    "functions of NumPy": (lambda x, k: x * np.sqrt(k), 5),
    "arrays of it": (lambda x, k: x * flamec.from_numpy(np.array([k, k, k])), 5),
    "its type": (lambda x, k: x * k if isinstance(k, np.floating) else x, 5),
}

SIZES: dict[str, Callable[..., Any]] = {
    "windows": lambda x, k: (x[:k] * 2, x[k:], x[k - 1]),
    "sizes": lambda x, k: (flamec.zeros(k + 1), flamec.arange(k), x.narrow(0, 0, k)),
}


def _assert_same(found: Any, wanted: Any) -> None:
    assert type(found) is type(wanted)
    if isinstance(wanted, flamec.Tensor):
        assert found.shape == wanted.shape and found.dtype is wanted.dtype
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-6)
    elif isinstance(wanted, tuple):
        for a, b in zip(found, wanted, strict=True):
            _assert_same(a, b)
    else:
        assert found == wanted


def _check(function: Callable[..., Any], values: list[Any], most: int) -> None:
    compiled = flamec.compile(function, backend="evaluate")
    for k in values:
        x = flamec.tensor([2.0, -1.0, 0.5])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of NumPy's integers
            _assert_same(compiled(x, k), function(x, k))
    assert len(compiled.programs) <= most and not compiled.stats.python_runs


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8])
@pytest.mark.parametrize("name", CASES)
def test_scalars(name: str, dtype: Any) -> None:
    function, most = CASES[name]
    values = FLOATS if issubclass(dtype, np.floating) else WHOLE
    _check(function, [dtype(v) for v in values], most)


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_places(name: str, dtype: Any) -> None:
    _check(SIZES[name], [dtype(v) for v in (1, 2, 3, 1, 2)], 2)


def test_in_c() -> None:
    compiled = flamec.compile(lambda x, k: (x * k, k * 2))
    for value in FLOATS:
        rate = np.float32(value)
        found, twice = compiled(flamec.ones(3), rate)
        assert found.tolist() == [float(rate)] * 3
        assert type(twice) is np.float32 and twice == rate * 2
    assert len(compiled.programs) == 2


def test_gradients_beside_numbers_that_vary() -> None:
    def f(x: flamec.Tensor, k: Any) -> flamec.Tensor:
        return x * (k + 1) / 3

    compiled = flamec.compile(f)
    for value in (3.25, 2.0, 4.5, 1.0):
        k = np.float32(value)
        gradients = []
        for function in (f, compiled):
            x = flamec.ones(3).requires_grad_()
            function(x, k).sum().backward()
            assert x.grad is not None
            gradients.append(x.grad.tolist())
        assert gradients[0] == gradients[1]
    assert compiled.stats.traces == 2
