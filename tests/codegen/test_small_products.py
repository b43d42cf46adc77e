"""Matrix products that the generated program computes with loops of its own."""

from __future__ import annotations

import numpy as np
import pytest

import flamec

SHAPES = (
    (1, 1, 1),
    (16, 2, 50),
    (16, 50, 10),
    (7, 33, 5),
    (3, 17, 512),
    (5, 3, 600),
    (2, 20, 1100),
    (0, 3, 4),
    (3, 0, 4),
    (3, 4, 0),
)
LAYOUTS = ("plain", "transposed", "both transposed", "strided")
TOLERANCE = {"float64": 1e-13, "float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}


def operands(rows: int, columns: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(rows * 1000 + columns * 10 + depth)
    return random.standard_normal((rows, depth)), random.standard_normal((depth, columns))


def product(layout: str, x: flamec.Tensor, y: flamec.Tensor) -> flamec.Tensor:
    """The product of operands that lie in memory as ``layout`` says, made inside the program."""
    if layout == "transposed":
        y = y.t().contiguous().t()
    elif layout == "both transposed":
        x, y = x.t().contiguous().t(), y.t().contiguous().t()
    elif layout == "strided":
        x, y = flamec.cat([x, x], 1)[:, : x.shape[1]], flamec.cat([y, y, y], 0)[: y.shape[0]]
    return x @ y


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_small_products_equal_numpy(shape: tuple[int, int, int], layout: str) -> None:
    left, right = operands(*shape)
    for name, tolerance in TOLERANCE.items():
        dtype = getattr(flamec, name)
        x, y = (flamec.from_numpy(a).to(dtype) for a in (left, right))
        wanted = x.double().numpy() @ y.double().numpy()
        found = flamec.compile(lambda x, y: product(layout, x, y))(x, y)
        assert found.dtype == dtype
        scale = np.abs(x.double().numpy()) @ np.abs(y.double().numpy())
        error = np.abs(found.double().numpy() - wanted)
        assert np.all(error <= tolerance * scale + 1e-30), (name, error.max(initial=0))


@pytest.mark.parametrize("name", ["int64", "int32", "int8", "uint8"])
def test_small_integer_products_wrap(name: str) -> None:
    random = np.random.default_rng(0)
    left, right = (random.integers(0, 100, shape).astype(name) for shape in ((5, 700), (700, 3)))
    found = flamec.compile(lambda x, y: x @ y)(flamec.from_numpy(left), flamec.from_numpy(right))
    np.testing.assert_array_equal(found.numpy(), left @ right)


def test_small_products_do_not_load_the_blas() -> None:
    multiply = flamec.compile(lambda x, y: x @ y)
    multiply(flamec.ones(4, 5), flamec.ones(5, 6))
    multiply(flamec.ones(64, 64), flamec.ones(64, 64))
    small, large = multiply.programs[1].prepared.plan, multiply.programs[0].prepared.plan
    assert small is not None and large is not None
    assert not small.notes["needs_blas"] and large.notes["needs_blas"]
