"""Creation and sampling against PyTorch: arguments, dtypes, shapes, errors; defined values."""

from __future__ import annotations

from typing import Any

import pytest
from parity_expressions import check_expression, expressions

torch = pytest.importorskip("torch")


def small_tensors() -> dict[str, Any]:
    return {
        "x": torch.arange(6.0).reshape(2, 3),
        "i": torch.arange(6).reshape(2, 3),
        "z": torch.tensor(3.0),
    }


@pytest.mark.parametrize("expression", expressions("creation"))
@pytest.mark.filterwarnings("ignore")
def test_expression(expression: str) -> None:
    check_expression(expression, small_tensors, 2)
