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
