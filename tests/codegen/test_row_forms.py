"""Rows of symbolic length have loops for each form of row: values at and around every border.

The oracle is NumPy in float64; a program made for the length gives the same bits.
"""

from __future__ import annotations

import numpy as np
import pytest

import flamec
from flamec.nn import functional as F
from tests.symbolic_programs import symbolic_program

LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 100, 255, 256, 257, 512, 1023, 1024, 1025, 3001)


def folded(x):
    """Passes with one and with several accumulators, sums and folds that lose nothing."""
    scaled = (x * 2 + 1).abs()
    return (
        F.softmax(x * 2, -1), x.sum(-1), x.amax(-1), F.layer_norm(x, x.shape[-1:]),
        (scaled.sqrt() * scaled + scaled.exp().log() - x).sum(-1), x.argmin(-1), x.sum(0),
    )  # fmt: skip


def expected(x: np.ndarray) -> tuple[np.ndarray, ...]:
    x = x.astype(np.float64)
    with np.errstate(all="ignore"):
        e = np.exp(2 * x - 2 * x.max(-1, keepdims=True))
        centred = x - x.mean(-1, keepdims=True)
        scaled = np.abs(x * 2 + 1)
        return (
            e / e.sum(-1, keepdims=True), x.sum(-1), x.max(-1),
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5),
            (scaled**1.5 + scaled - x).sum(-1), x.argmin(-1), x.sum(0),
        )  # fmt: skip


@pytest.fixture(scope="module")
def program():
    return symbolic_program(folded)


def numbers(rows: int, length: int) -> np.ndarray:
    return np.random.default_rng(length).standard_normal((rows, length), np.float32)


@pytest.mark.parametrize("length", LENGTHS)
def test_values_at_every_length(program, length: int) -> None:
    for rows in (1, 6):
        x = numbers(rows, length)
        for found, exact in zip(program(flamec.from_numpy(x)), expected(x), strict=True):
            np.testing.assert_allclose(found.numpy(), exact, rtol=3e-5, atol=3e-5)
    assert program.stats.traces == 2


@pytest.mark.parametrize("length", [3, 17, 1000, 3001])
def test_bits_are_those_of_a_program_for_the_length(program, length: int) -> None:
    x = flamec.from_numpy(numbers(6, length))
    alone = flamec.compile(folded, backend="c", dynamic=False)(x)
    for position, (found, wanted) in enumerate(zip(program(x), alone, strict=True)):
        if position < 6:  # a sum over rows may have other loops, so another order
            np.testing.assert_array_equal(found.numpy(), wanted.numpy(), str(position))


@pytest.mark.parametrize("length", [3, 20, 100, 300, 2000])
def test_nan_and_infinity_in_any_place(program, length: int) -> None:
    for value in (np.nan, np.inf, -np.inf):
        for at in (0, length // 2, length - 1):
            x = numbers(3, length)
            x[1, at] = value
            for found, wanted in zip(program(flamec.from_numpy(x)), expected(x), strict=True):
                np.testing.assert_allclose(found.numpy(), wanted, rtol=3e-5, atol=3e-5)


def test_lengths_that_are_sums_of_sizes() -> None:
    function = flamec.compile(lambda x: (F.softmax(x[:, 3:], -1), x[:, 3:].sum(-1)), backend="c")
    for length in (5, 7, 3, 4, 18, 19, 20, 34, 35, 100, 259, 300, 2000):
        x = numbers(4, length)
        shares, total = function(flamec.from_numpy(x))
        np.testing.assert_allclose(total.numpy(), x[:, 3:].sum(-1), rtol=1e-4, atol=1e-4)
        if length > 3:
            exact, *_ = expected(x[:, 3:] / 2)
            np.testing.assert_allclose(shares.numpy(), exact, rtol=3e-5, atol=3e-6)
    assert function.stats.traces == 2


def test_rows_without_elements() -> None:
    function = flamec.compile(lambda x: (x.sum(-1), F.softmax(x, -1)), backend="c")
    for shape in ((3, 5), (4, 7), (2, 0), (0, 4), (0, 0), (5, 1)):
        total, shares = function(flamec.ones(*shape))
        np.testing.assert_array_equal(total.numpy(), np.full(shape[0], shape[1], np.float32))
        assert shares.shape == shape
    assert function.stats.traces == 2
