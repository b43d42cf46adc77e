"""Orders of long lines on a GPU, beside NumPy's stable sort: eager and compiled."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import flamec
from flamec.errors import OperationError

pytestmark = pytest.mark.gpu

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8")


def drawn(dtype: str, *shape: int) -> flamec.Tensor:
    """Many equal numbers; of floats also zeros of both signs, infinities and what is no number."""
    random = np.random.default_rng(0)
    if "float" not in dtype:
        width = {"int8": 7, "uint8": 8, "int16": 15, "int32": 31, "int64": 62}[dtype]
        low = 0 if dtype == "uint8" else -(1 << width)
        wide = random.integers(low, 1 << width, shape)
        few = random.integers(0, 5, shape)
        return flamec.from_numpy(np.where(random.random(shape) < 0.5, wide, few)).to(
            getattr(flamec, dtype)
        )
    x = random.standard_normal(shape)
    x = np.where(random.random(shape) < 0.5, x, np.round(x))
    for value in (np.nan, np.inf, -np.inf, -0.0, 0.0):
        x[random.random(shape) < 0.01] = value
    return flamec.from_numpy(x).to(getattr(flamec, dtype))


def order(x: flamec.Tensor, axis: int, descending: bool) -> np.ndarray:
    """What NumPy's stable sort gives; what is no number counts as largest."""
    a = x.numpy() if x.dtype != flamec.bfloat16 else x.to(flamec.float32).numpy()
    if not descending:
        return np.argsort(a, axis, kind="stable")
    flipped = np.argsort(np.flip(a, axis), axis, kind="stable")
    return a.shape[axis] - 1 - np.flip(flipped, axis)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_long_lines(dtype: str, compiled: bool) -> None:
    for shape, axis, descending in (
        ((70001,), 0, False),
        ((3, 5000), 1, True),
        ((9001, 3), 0, False),
    ):
        x = drawn(dtype, *shape)
        wanted = order(x, axis, descending)

        def call(t: Any, axis: int = axis, descending: bool = descending) -> Any:
            return tuple(t.sort(dim=axis, descending=descending, stable=True))

        values, places = (flamec.compile(call) if compiled else call)(x.to("cuda"))
        np.testing.assert_array_equal(places.cpu().numpy(), wanted)
        found, expected = values.cpu(), x.gather(axis, flamec.from_numpy(wanted))
        assert flamec.equal(found.isnan(), expected.isnan())
        number = expected.isnan().logical_not()
        assert flamec.equal(found[number], expected[number])


@pytest.mark.parametrize("name", ["sort", "topk", "kthvalue"])
def test_lines_that_are_too_long_are_refused_with_the_users_line(name: str) -> None:
    """An operation and a composite; the sizes are symbols of programs that shorter lines have."""
    x = flamec.zeros(1, dtype=flamec.uint8, device="cuda").expand(1 << 31)  # of one byte
    call = getattr(x, name)
    line = inspect.currentframe().f_lineno + 2
    with pytest.raises(OperationError) as caught:
        call() if name == "sort" else call(3)
    message = str(caught.value)
    assert "a line of 2147483648 elements is too long for a GPU, which sorts those of" in message
    assert message.count("(at ") == 1 and message.endswith(f"test_cuda_sorts.py:{line})")


def test_few_of_many() -> None:
    x = drawn("float32", 5, 70001)
    values, places = x.to("cuda").topk(300, dim=1)
    found, at = values.cpu().numpy(), places.cpu().numpy()
    wanted = np.take_along_axis(x.numpy(), order(x, 1, True)[:, :300], axis=1)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(np.take_along_axis(x.numpy(), at, axis=1), found)
    assert all(len(set(row)) == 300 for row in at)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
@pytest.mark.parametrize("count", [1, 100, 1000])
def test_few_of_long_lines(dtype: str, count: int) -> None:
    """The first of equal elements, wherever those that are kept have been written."""
    x = drawn(dtype, 3, 300001)
    for largest in (True, False):
        wanted = order(x, 1, largest)[:, :count]
        for call in (flamec.topk, flamec.compile(flamec.topk)):
            values, places = call(x.to("cuda"), count, 1, largest)
            np.testing.assert_array_equal(places.cpu().numpy(), wanted)
            found, expected = values.cpu(), x.gather(1, flamec.from_numpy(wanted))
            assert flamec.equal(found.isnan(), expected.isnan())
            number = expected.isnan().logical_not()
            assert flamec.equal(found[number], expected[number])


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("digits", [0, 1, 3, 4, 5, 8])
def test_elements_that_are_near_each_other(dtype: str, digits: int) -> None:
    """Distances from the least element have so many bytes, as far as the type has."""
    limits = np.iinfo(dtype)
    width = min(digits, limits.bits // 8)
    least = limits.min if width == limits.bits // 8 else -77
    random = np.random.default_rng(digits)
    a = random.integers(least, least + 256**width - 1, (2, 20001), dtype, endpoint=True)
    x = flamec.from_numpy(a)
    for descending in (False, True):
        values, places = x.to("cuda").sort(dim=1, descending=descending, stable=True)
        wanted = order(x, 1, descending)
        np.testing.assert_array_equal(places.cpu().numpy(), wanted)
        np.testing.assert_array_equal(values.cpu().numpy(), np.take_along_axis(a, wanted, 1))


@pytest.mark.parametrize("dtype", ["int64", "float64"])
def test_many_wide_keys(dtype: str) -> None:
    """Those that few others share their upper digits with, and those that many do."""
    random = np.random.default_rng(0)
    for groups in (1 << 22, 1000):
        group = random.standard_normal(groups)[random.integers(0, groups, 1 << 23)]
        lower = random.integers(0, 3, 1 << 23)
        if dtype == "float64":
            a = group * (1 + lower * 2.0**-45)
        else:
            a = (group * 2.0**30).astype(np.int64) * (1 << 32) + lower
        x = flamec.from_numpy(a)
        for descending in (False, True):
            values, places = x.to("cuda").sort(descending=descending, stable=True)
            wanted = order(x, 0, descending)
            np.testing.assert_array_equal(places.cpu().numpy(), wanted)
            np.testing.assert_array_equal(values.cpu().numpy(), a[wanted])


def test_a_few_groups_of_many_that_are_too_large() -> None:
    """Some blocks find that all digits must be gone through while others are at work."""
    random = np.random.default_rng(0)
    a = np.repeat(random.integers(0, 1 << 62, 84001), 100)
    for _ in range(3):
        values = flamec.from_numpy(a).to("cuda").sort().values
        np.testing.assert_array_equal(values.cpu().numpy(), np.sort(a, kind="stable"))


def test_one_program_for_lines_of_every_length() -> None:
    program = flamec.compile(lambda t: t.argsort(stable=True), dynamic=True)
    for size in (2, 3000, 2047, 2048, 2049, 40000, 5):
        x = drawn("float32", size)
        np.testing.assert_array_equal(program(x.to("cuda")).cpu().numpy(), order(x, 0, False))


def test_different_values_of_many() -> None:
    numbers = np.random.default_rng(1).integers(0, 1000, 300000)
    found = flamec.from_numpy(numbers).to("cuda").unique(return_inverse=True, return_counts=True)
    wanted = np.unique(numbers, return_inverse=True, return_counts=True)
    for have, want in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(have.cpu().numpy(), want)


@pytest.mark.parametrize("name", ["cummax", "cummin"])
def test_running_extremes_of_long_lines(name: str) -> None:
    x = drawn("float32", 2, 100001)
    wanted = tuple(getattr(x, name)(1))
    for program in (getattr(flamec, name), flamec.compile(getattr(flamec, name))):
        for found, want in zip(program(x.to("cuda"), 1), wanted, strict=True):
            np.testing.assert_array_equal(found.cpu().numpy(), want.numpy())
