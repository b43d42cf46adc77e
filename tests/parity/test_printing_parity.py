"""The text of tensors against PyTorch's, character by character."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")


def text(x: Any) -> str:
    """The text without the module's name, whose length may move the dtype to its own line."""
    plain = repr(x).replace("torch.", "").replace("flamec.", "")
    return re.sub(r",\n +dtype", ", dtype", plain)


def both(array: np.ndarray, dtype: str | None = None) -> tuple[Any, Any]:
    ours, theirs = flamec.tensor(array), torch.tensor(array)
    if dtype is not None:
        ours, theirs = ours.to(getattr(flamec, dtype)), theirs.to(getattr(torch, dtype))
    return ours, theirs


def assert_same_text(array: np.ndarray, dtype: str | None = None) -> None:
    ours, theirs = both(array, dtype)
    assert text(ours) == text(theirs)


def random_arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(20260101)
    arrays = []
    shapes = [(), (1,), (3,), (40,), (2, 3), (5, 30), (2, 3, 4), (1, 2, 1, 3), (0,), (2, 0), (7, 9)]
    for _ in range(40):
        shape = shapes[rng.integers(len(shapes))]
        values = rng.standard_normal(shape) * 10.0 ** rng.integers(-7, 10)
        match rng.integers(6):
            case 0:
                values = np.round(values)
            case 1:
                values = np.where(rng.random(shape) < 0.3, np.nan, values)
            case 2:
                values = np.where(rng.random(shape) < 0.3, -np.inf, np.abs(values))
            case 3:
                values = np.where(rng.random(shape) < 0.5, 0.0, values)
        arrays.append(np.asarray(values))
    return arrays


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_random_floats(dtype: str) -> None:
    for array in random_arrays():
        with np.errstate(over="ignore"):
            assert_same_text(array, dtype)


@pytest.mark.parametrize("dtype", ["int64", "int32", "int16", "int8", "uint8", "bool"])
def test_random_integers(dtype: str) -> None:
    rng = np.random.default_rng(7)
    for shape in [(), (1,), (25,), (3, 4), (2, 2, 2), (0, 3), (1, 40)]:
        low = 0 if dtype in ("uint8", "bool") else -100
        assert_same_text(rng.integers(low, 100, shape), dtype)


@pytest.mark.parametrize(
    "values",
    [
        [0.0],
        [-0.0, 0.0],
        [np.nan],
        [np.nan, 1.0],
        [np.inf, -np.inf],
        [1.0, np.inf],
        [1.0, 2.0, 1000.0],
        [1.0, 1001.0],
        [0.1, 100.1],
        [0.1, 100.2],
        [1e8, 1e8],
        [2e8],
        [1e-4],
        [9.9e-5],
        [123456.0],
        [0.00001, 1.0],
        [1e30, 1.0, np.nan],
        [-1.5, 22.25, 333.125],
        [5e-324],
    ],
)
def test_format_thresholds(values: list[float]) -> None:
    assert_same_text(np.array(values))
    assert_same_text(np.array(values, np.float32))
    for value in values:
        assert_same_text(np.array(value))


@pytest.mark.parametrize(
    "shape",
    [
        (1000,),
        (1001,),
        (2000,),
        (50, 50),
        (7, 200),
        (200, 7),
        (11, 11, 11),
        (2, 3, 400),
        (6, 1, 300),
    ],
)
def test_summaries(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    assert_same_text(array)
    assert_same_text(array / 7)
    assert_same_text(array * 1e3 - 5.5)
    assert_same_text(array % 2 == 0)


def test_suffixes() -> None:
    ours, theirs = both(np.ones((2, 3)), "float32")
    assert text(ours.requires_grad_()) == text(theirs.requires_grad_())
    for n in range(1, 16):
        ours, theirs = both(np.full(n, 0.123456))
        assert text(ours.requires_grad_()) == text(theirs.requires_grad_())
    assert repr(flamec.ones(2, requires_grad=True) * 2).endswith("grad_fn=<mul>)")


def test_default_dtype_decides_which_dtype_is_shown() -> None:
    flamec.set_default_dtype(flamec.float64)
    torch.set_default_dtype(torch.float64)
    try:
        assert_same_text(np.ones(2))
        assert_same_text(np.ones(2, np.float32))
        assert_same_text(np.ones(0, np.float32))
    finally:
        flamec.set_default_dtype(flamec.float32)
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "options",
    [
        {"precision": 2},
        {"sci_mode": True},
        {"sci_mode": False},
        {"edgeitems": 1, "threshold": 5},
        {"linewidth": 30},
        {"profile": "short"},
        {"profile": "full"},
    ],
)
def test_print_options(options: dict[str, Any]) -> None:
    flamec.set_printoptions(**options)
    torch.set_printoptions(**options)
    try:
        for array in random_arrays():
            assert_same_text(array)
        assert_same_text(np.arange(1200) / 3)
    finally:
        flamec.set_printoptions(profile="default", linewidth=80)
        torch.set_printoptions(profile="default", linewidth=80)


def test_views_and_names() -> None:
    ours, theirs = both(np.arange(12.0).reshape(3, 4))
    assert text(ours.T[1:, ::2]) == text(theirs.T[1:, ::2])
    assert str(ours) == repr(ours)
    assert f"{ours}" == str(ours)
    assert f"{ours[1, 2]:.3f}" == f"{theirs[1, 2]:.3f}"
    assert str(ours.shape) == "flamec.Size([3, 4])"


@pytest.mark.parametrize("profile", ["default", "short", "full"])
def test_a_profile_says_all_options(profile: str) -> None:
    try:
        for package in (flamec, torch):
            package.set_printoptions(precision=1, edgeitems=1, linewidth=20, sci_mode=True)
            package.set_printoptions(profile=profile)
        values = np.arange(40.0, dtype=np.float32) / 7
        assert str(flamec.tensor(values)) == str(torch.tensor(values))
    finally:
        flamec.set_printoptions(profile="default", linewidth=80)
        torch.set_printoptions(profile="default", linewidth=80)
