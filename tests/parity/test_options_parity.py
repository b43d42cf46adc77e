"""Options, dtypes and edge cases of single functions against PyTorch, gradients among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from parity_expressions import check_expression, expressions

torch = pytest.importorskip("torch")


def operands() -> dict[str, Any]:
    rng = np.random.default_rng(8)
    return {
        "x": torch.tensor(rng.standard_normal((3, 4)).astype(np.float32)),
        "v": torch.tensor(rng.standard_normal(4).astype(np.float32)),
        "z": torch.tensor(0.5),
        "i": torch.tensor(rng.integers(0, 3, (3, 4))),
        "a": torch.tensor([1.0, 4.0, 2.0, 0.0, 2.0, 5.0]),
        "j": torch.tensor(rng.integers(0, 3, 5)),
        "u": torch.tensor(np.arange(4, dtype=np.uint8)),
        "b": torch.tensor(rng.random((3, 4)) > 0.5),
    }


@pytest.mark.parametrize("expression", expressions("option"))
def test_expression(expression: str) -> None:
    check_expression(expression, operands)
