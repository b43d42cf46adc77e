"""Matrix products against PyTorch: ranks, batches, dtypes, shape errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from parity_expressions import check_expression, expressions

torch = pytest.importorskip("torch")

SHAPES = (
    (), (1,), (3,), (2, 3), (3, 2), (3, 0), (0, 3), (4, 2, 3), (4, 3, 2), (1, 3, 2), (5, 1, 2, 3),
)  # fmt: skip


def filled(shape: tuple[int, ...], seed: int, dtype: str = "float32") -> Any:
    array = np.random.default_rng(seed).integers(-3, 4, shape)
    return torch.tensor(array).to(getattr(torch, dtype))


@pytest.mark.parametrize("name", ["matmul", "mm", "bmm", "mv", "dot", "inner", "outer", "kron"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int64", "bool"])
def test_products_of_all_shapes(name: str, dtype: str) -> None:
    shapes = [s for s in SHAPES if dtype != "bool" or 0 not in s]  # PyTorch's empty ones work
    for left in shapes:
        for right in shapes:

            def names(left: Any = left, right: Any = right) -> dict[str, Any]:
                return {"a": filled(left, 0, dtype), "b": filled(right, 1, dtype)}

            check_expression(f"torch.{name}(a, b)", names)
    check_expression(
        f"torch.{name}(a, b)", lambda: {"a": filled((3, 3), 0, dtype), "b": torch.ones(3, 3)}
    )


def test_products_of_views() -> None:
    def names() -> dict[str, Any]:
        return {"a": filled((4, 6), 0).t()[::2], "b": filled((3, 4), 1).t()}

    check_expression("a @ b", names)
    check_expression("torch.mm(a, b).t() @ a", names)


def small_tensors() -> dict[str, Any]:
    return {
        "o": torch.ones,
        "x": torch.arange(6.0).reshape(2, 3),
        "i": torch.arange(6).reshape(2, 3),
        "z": torch.tensor(3.0),
        "v": torch.arange(3.0),
        "b": torch.ones(2, 2, dtype=torch.bool),
    }


@pytest.mark.parametrize("expression", expressions("matrix"))
@pytest.mark.filterwarnings("ignore")
def test_expression(expression: str) -> None:
    expression = expression.replace("o(", "torch.ones(").replace("dtorch.ones", "do")
    check_expression(expression, small_tensors, 2)
