"""Elementwise functions against PyTorch: arguments, dtypes, special values, error cases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from parity_expressions import check_expression, expressions

torch = pytest.importorskip("torch")

DTYPES = (
    "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64",
)  # fmt: skip

UNARY = [
    "abs",
    "absolute",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "bitwise_not",
    "ceil",
    "cos",
    "cosh",
    "deg2rad",
    "digamma",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "exp2",
    "expm1",
    "fix",
    "floor",
    "frac",
    "isfinite",
    "isinf",
    "isnan",
    "isneginf",
    "isposinf",
    "isreal",
    "lgamma",
    "log",
    "log10",
    "log1p",
    "log2",
    "logical_not",
    "logit",
    "nan_to_num",
    "neg",
    "negative",
    "positive",
    "rad2deg",
    "reciprocal",
    "round",
    "rsqrt",
    "sgn",
    "sigmoid",
    "sign",
    "signbit",
    "sin",
    "sinc",
    "sinh",
    "sqrt",
    "square",
    "tan",
    "tanh",
    "trunc",
]

BINARY = [
    "add",
    "sub",
    "mul",
    "div",
    "true_divide",
    "floor_divide",
    "remainder",
    "fmod",
    "pow",
    "float_power",
    "maximum",
    "minimum",
    "fmax",
    "fmin",
    "atan2",
    "hypot",
    "copysign",
    "ldexp",
    "xlogy",
    "logaddexp",
    "logaddexp2",
    "heaviside",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "isclose",
    "logical_and",
    "logical_or",
    "logical_xor",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "gcd",
    "lcm",
]

# beyond the accuracy of float32 for large arguments and near poles
LOOSE = {"digamma": 50, "lgamma": 50, "tan": 20, "erfinv": 20, "logit": 20, "acosh": 5, "sinh": 5}


def values_of(dtype: str, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if dtype == "bool":
        return generator.integers(0, 2, 16).astype(bool)
    if "int" in dtype:
        low = 0 if dtype == "uint8" else -9
        return generator.integers(low, 9, 16)
    special = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0]
    return np.array([*special, *generator.uniform(-3, 3, 6)])


def tensor_of(dtype: str, seed: int) -> Any:
    return torch.tensor(values_of(dtype, seed)).to(getattr(torch, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str, dtype: str) -> None:
    x = tensor_of(dtype, 0)
    names = {"x": x, "e": x[:0], "z": x[5], "n": torch.stack([x, x])[:, ::2].t()}
    for operand in names:
        check_expression(f"torch.{name}({operand})", lambda: names, LOOSE.get(name, 1))
    check_expression(f"x.{name}()", lambda: names, LOOSE.get(name, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", UNARY)
def test_unary_in_place(name: str, dtype: str) -> None:
    if not hasattr(torch.Tensor, f"{name}_"):
        pytest.skip("PyTorch has no in-place form")
    check_expression(f"x.{name}_()", lambda: {"x": tensor_of(dtype, 0)}, LOOSE.get(name, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BINARY)
def test_binary(name: str, dtype: str) -> None:
    def names() -> dict[str, Any]:
        x, y = tensor_of(dtype, 0), tensor_of(dtype, 1)
        if dtype not in ("bool",) and "int" in dtype and "div" in name + "remainder fmod":
            y = torch.where(y == 0, torch.ones_like(y), y)
        order = np.random.default_rng(2).permutation(16)
        y = y[torch.from_numpy(order)]
        return {"x": x, "y": y, "c": y[:8].reshape(8, 1), "z": y[7], "e": x[:0]}

    for other in ("y", "c", "z", "2", "2.5", "True"):
        check_expression(f"torch.{name}(x, {other})", names)
    check_expression(f"torch.{name}(e, z)", names)
    check_expression(f"torch.{name}(e, c[:, :0])", names)
    check_expression(f"torch.{name}(z, z)", names)
    check_expression(f"torch.{name}(x, c[:3, 0])", names)
    check_expression(f"torch.{name}(2, x)", names)
    if hasattr(torch.Tensor, f"{name}_"):
        check_expression(f"x.{name}_(y)", names)
        check_expression(f"x.{name}_(c)", names)


OPERATORS = ("+", "-", "*", "/", "//", "%", "**", "&", "|", "^", "<<", ">>")


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators(operator: str) -> None:
    for dtype in ("bool", "uint8", "int64", "float32", "float16"):

        def names(dtype: str = dtype) -> dict[str, Any]:
            x = torch.tensor([1, 2, 3, 1]).to(getattr(torch, dtype))
            return {"x": x, "y": x.flip(0), "f": torch.ones(4)}

        for text in (f"x {operator} y", f"x {operator} 2", f"2 {operator} x", f"x {operator} f"):
            check_expression(text, names)
        check_expression(f"x {operator} 1.5", names)
        check_expression(f"1.5 {operator} x", names)
        check_expression(f"x {operator} 'a'", names)
        check_expression(f"None {operator} x", names)
        check_expression(f"exec('x {operator}= y') or x", names)
        check_expression(f"exec('x {operator}= 2') or x", names)


def small_tensors() -> dict[str, Any]:
    return {
        "x": torch.arange(6.0).reshape(2, 3),
        "i": torch.arange(6).reshape(2, 3),
        "z": torch.tensor(3.0),
        "b": torch.tensor([True, False]),
        "h": torch.arange(3.0).half(),
        "d": torch.arange(3.0).double(),
        "f": torch.arange(3.0),
        "u": torch.ones(2, dtype=torch.uint8),
    }


@pytest.mark.parametrize("expression", expressions("elementwise"))
@pytest.mark.filterwarnings("ignore")
def test_expression(expression: str) -> None:
    check_expression(expression, small_tensors)
