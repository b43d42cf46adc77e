"""Reductions, statistics and scans against PyTorch: dims, dtypes, empty and NaN inputs, errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from parity_expressions import check_expression, expressions

torch = pytest.importorskip("torch")

DTYPES = ("bool", "uint8", "int8", "int32", "int64", "float16", "bfloat16", "float32", "float64")

REDUCTIONS = [
    "sum",
    "nansum",
    "mean",
    "nanmean",
    "prod",
    "amax",
    "amin",
    "argmax",
    "argmin",
    "all",
    "any",
    "count_nonzero",
    "var",
    "std",
    "logsumexp",
    "max",
    "min",
    "norm",
]
SCANS = ["cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "diff"]


def tensor_of(dtype: str, nan: bool = False) -> Any:
    generator = np.random.default_rng(3)
    if dtype == "bool":
        array: np.ndarray = generator.integers(0, 2, (2, 3, 4)).astype(bool)
    elif "int" in dtype:
        array = generator.integers(0 if dtype == "uint8" else -4, 5, (2, 3, 4))
    else:
        array = generator.uniform(-2, 2, (2, 3, 4))
        if nan:
            array[0, 1, 2] = array[1, 0, 0] = math.nan
            array[1, 2] = [math.inf, -math.inf, 1, 2]
    return torch.tensor(array).to(getattr(torch, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction(name: str, dtype: str) -> None:
    for nan in (False, True) if "float" in dtype else (False,):

        def names(nan: bool = nan) -> dict[str, Any]:
            x = tensor_of(dtype, nan)
            return {"x": x, "p": x.permute(2, 0, 1), "s": x[:, ::2], "z": x[0, 0, 0], "e": x[:, :0]}

        for operand in ("x", "p", "s"):
            check_expression(f"torch.{name}({operand})", names, 10)
            for dim in ("0", "1", "-1"):
                arguments = f"dim={dim}"
                check_expression(f"torch.{name}({operand}, {arguments})", names, 10)
                check_expression(f"{operand}.{name}({arguments}, keepdim=True)", names, 10)
            if name not in ("argmax", "argmin", "max", "min", "prod"):
                check_expression(f"torch.{name}({operand}, dim=(0, -1))", names, 10)
                check_expression(f"torch.{name}({operand}, dim=(2, 1), keepdim=True)", names, 10)
        for operand in ("z", "e"):
            check_expression(f"torch.{name}({operand})", names, 10)
            for dim in ("0", "-1", "1", "2", "3"):
                check_expression(f"torch.{name}({operand}, dim={dim})", names, 10)
                check_expression(f"torch.{name}({operand}, dim={dim}, keepdim=True)", names, 10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SCANS)
def test_scan(name: str, dtype: str) -> None:
    for nan in (False, True) if "float" in dtype else (False,):

        def names(nan: bool = nan) -> dict[str, Any]:
            x = tensor_of(dtype, nan)
            return {"x": x, "p": x.permute(2, 0, 1), "z": x[0, 0, 0], "e": x[:, :0]}

        for operand in ("x", "p", "z", "e"):
            for dim in ("0", "1", "-1") if operand == "e" else ("0", "1", "-1", "3"):
                check_expression(f"torch.{name}({operand}, dim={dim})", names, 20)


def small_tensors() -> dict[str, Any]:
    return {
        "x": torch.arange(6.0).reshape(2, 3),
        "i": torch.arange(6).reshape(2, 3),
        "z": torch.tensor(3.0),
        "e": torch.zeros(0, 3),
    }


@pytest.mark.parametrize("expression", expressions("reduction"))
@pytest.mark.filterwarnings("ignore")
def test_expression(expression: str) -> None:
    check_expression(expression, small_tensors, 2)
