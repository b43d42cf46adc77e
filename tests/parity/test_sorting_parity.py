"""Sorting, searching and statistics of order against PyTorch, errors included."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from parity_expressions import check_expression, expressions

torch = pytest.importorskip("torch")


def operands() -> dict[str, Any]:
    """x: numbers, p: not contiguous, n: with NaN and infinities, nn: a column of NaN, i: ties."""
    rng = np.random.default_rng(5)
    x = torch.tensor(rng.uniform(-2, 2, (4, 6)).astype(np.float32))
    n = x.clone()
    n[0, 1] = n[2, 3] = n[2, 5] = math.nan
    n[1] = torch.tensor([math.inf, -math.inf, 1, 2, -math.inf, math.inf])
    nn = n.clone()
    nn[:, 2] = math.nan
    return {
        "x": x,
        "p": x.reshape(2, 3, 4).permute(2, 0, 1),
        "n": n,
        "nn": nn,
        "i": torch.tensor(rng.integers(-2, 3, (4, 6))),
        "b": torch.tensor(rng.integers(0, 2, (4, 6)).astype(bool)),
        "h": torch.tensor(rng.integers(-4, 5, (4, 6))).half() / 2,
        "z": torch.tensor(0.5),
        "e": torch.ones(3, 0),
        "s": torch.tensor([-1.5, -0.5, 0.0, 0.0, 0.25, 1.0, 1.0, 1.75]),
        "q": torch.tensor([0.0, 0.1, 0.5, 0.7, 1.0]),
    }


@pytest.mark.parametrize("expression", expressions("sorting"))
def test_expression(expression: str) -> None:
    check_expression(expression, operands)
