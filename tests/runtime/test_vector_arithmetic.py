"""Integers, comparisons, casts, memory and lane reductions of the vector header, against NumPy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from fenced import Fenced
from vector_harness import FLOATS, INTEGERS, LANES, MEMORY, RELATIONS, VectorLibrary

FLOAT_VALUES = [0.0, -0.0, 1, -1, 2.5, -2.5, 3, -3, 7.25, 1e-40, 1e30, np.inf, -np.inf, np.nan]


def integers(lane: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of edge values, and random pairs of small and of all sizes."""
    limits = np.iinfo(LANES[lane])
    edges = np.array([0, 1, 2, 3, 7, 8, limits.min, limits.min + 1, limits.max], LANES[lane])
    if limits.min < 0:
        edges = np.concatenate([edges, np.array([-1, -2, -3, -8], LANES[lane])])
    rng = np.random.default_rng(seed)
    low = max(limits.min, -20)
    x, y = (rng.integers(low, 20, 300).astype(LANES[lane]) for _ in range(2))
    u, v = (
        rng.integers(limits.min, limits.max, 300, endpoint=True, dtype=LANES[lane])
        for _ in range(2)
    )
    a, b = (grid.ravel() for grid in np.meshgrid(edges, edges))
    return np.concatenate([x, u, a]), np.concatenate([y, v, b])


def pairs(lane: str) -> tuple[np.ndarray, np.ndarray]:
    if lane in INTEGERS:
        return integers(lane)
    values = np.array([0, 1] if lane == "b" else FLOAT_VALUES, LANES[lane])
    x, y = (grid.ravel() for grid in np.meshgrid(values, values))
    return np.ascontiguousarray(x), np.ascontiguousarray(y)


def assert_same(got: np.ndarray, expected: np.ndarray) -> None:
    """Equal, NaN included, zeros with their sign."""
    np.testing.assert_array_equal(got, expected)
    if expected.dtype.kind == "f":
        known = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(got)[known], np.signbit(expected)[known])


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("name", RELATIONS)
def test_comparisons(vectors: VectorLibrary, name: str, lane: str) -> None:
    x, y = pairs(lane)
    numpy_name = {
        "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater",
        "ge": "greater_equal",
    }[name]  # fmt: skip
    assert_same(vectors.binary(name, lane, x, y), getattr(np, numpy_name)(x, y))


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_extremes_propagate_nan(vectors: VectorLibrary, name: str, lane: str) -> None:
    x, y = pairs(lane)
    np.testing.assert_array_equal(vectors.binary(name, lane, x, y), getattr(np, name)(x, y))


@pytest.mark.parametrize("lane", FLOATS)
@pytest.mark.parametrize("name", ["copysign", "nextafter", "fmod", "remainder", "floor_divide"])
def test_exact_float_functions(vectors: VectorLibrary, name: str, lane: str) -> None:
    x, y = pairs(lane)
    rng = np.random.default_rng(2)
    x = np.concatenate([x, (rng.standard_normal(2000) * 100).astype(x.dtype)])
    y = np.concatenate([y, rng.standard_normal(2000).astype(x.dtype)])
    with np.errstate(all="ignore"):
        assert_same(vectors.binary(name, lane, x, y), getattr(np, name)(x, y))


@pytest.mark.parametrize("lane", FLOATS)
def test_power_and_angle(vectors: VectorLibrary, lane: str) -> None:
    x, y = pairs(lane)
    with np.errstate(all="ignore"):
        for name, function in (("pow", np.power), ("atan2", np.arctan2)):
            expected = function(x.astype(np.float64), y.astype(np.float64)).astype(x.dtype)
            np.testing.assert_allclose(vectors.binary(name, lane, x, y), expected, rtol=3e-7)


@pytest.mark.parametrize("lane", INTEGERS)
@pytest.mark.parametrize("name", ["fmod", "remainder", "floor_divide", "gcd"])
def test_integer_division(vectors: VectorLibrary, name: str, lane: str) -> None:
    x, y = integers(lane)
    with np.errstate(all="ignore"):
        assert_same(vectors.binary(name, lane, x, y), getattr(np, name)(x, y))


@pytest.mark.parametrize("lane", INTEGERS)
def test_integer_shifts(vectors: VectorLibrary, lane: str) -> None:
    x, y = integers(lane)
    assert_same(vectors.binary("shift_left", lane, x, y), np.left_shift(x, y))
    assert_same(vectors.binary("shift_right", lane, x, y), np.right_shift(x, y))


@pytest.mark.parametrize("lane", INTEGERS)
def test_integer_power(vectors: VectorLibrary, lane: str) -> None:
    x, y = integers(lane)
    small = (y >= 0) & (y < 70)
    assert_same(vectors.binary("pow", lane, x[small], y[small]), np.power(x[small], y[small]))
    if lane != "u8":
        bases = np.array([0, 1, -1, -1, 2, -2, 5], LANES[lane])
        exponents = np.array([-1, -3, -3, -4, -1, -1, -2], LANES[lane])
        got = vectors.binary("pow", lane, bases, exponents)
        np.testing.assert_array_equal(got, [0, 1, -1, 1, 0, 0, 0])


@pytest.mark.parametrize("lane", INTEGERS)
def test_integer_signs_and_rounding(vectors: VectorLibrary, lane: str) -> None:
    x, _ = integers(lane)
    assert_same(vectors.unary("abs", lane, x), np.abs(x))
    assert_same(vectors.unary("sign", lane, x), np.sign(x))
    assert_same(vectors.unary("signbit", lane, x), x < 0)
    for name in ("floor", "ceil", "round", "trunc"):
        assert_same(vectors.unary(name, lane, x), x)


@pytest.mark.parametrize("lane", FLOATS)
def test_sign_bits(vectors: VectorLibrary, lane: str) -> None:
    x = np.array(FLOAT_VALUES, LANES[lane])
    assert_same(vectors.unary("signbit", lane, x), np.signbit(x))


@pytest.mark.parametrize("lane", FLOATS)
def test_rounding(vectors: VectorLibrary, lane: str) -> None:
    halves = np.arange(-40, 40, dtype=LANES[lane]) / 4
    huge = np.array([2.0**22 + 0.5, 2.0**23 + 1, -(2.0**23) - 1, 2.0**52 + 1, 0.49999997, 2.0**60])
    x = np.concatenate([halves, huge.astype(LANES[lane]), np.array(FLOAT_VALUES, LANES[lane])])
    for name, function in (
        ("round", np.rint), ("floor", np.floor), ("ceil", np.ceil), ("trunc", np.trunc)
    ):  # fmt: skip
        assert_same(vectors.unary(name, lane, x), function(x))


@pytest.mark.parametrize("lane", LANES)
def test_selection(vectors: VectorLibrary, lane: str) -> None:
    x, y = pairs(lane)
    mask = np.random.default_rng(3).random(x.size) < 0.5
    assert_same(vectors.call(f"sel_{lane}", LANES[lane], mask, x, y), np.where(mask, x, y))


@pytest.mark.parametrize("source", LANES)
@pytest.mark.parametrize("target", LANES)
def test_casts(vectors: VectorLibrary, source: str, target: str) -> None:
    x, _ = pairs(source)
    if source in FLOATS:
        rng = np.random.default_rng(4)
        edges = [127, 128, 255, 256, -128, -129, 2.0**31, -(2.0**31), 2.0**31 - 128, 2.0**63]
        x = np.concatenate([x, rng.uniform(-300, 300, 200), edges, [-(2.0**63), 1e19]])
        x = x.astype(LANES[source])
    if source in FLOATS and target in INTEGERS:
        # x86's conversions: to int32 for the narrower types, out of range gives the lowest
        wide = np.dtype(np.int64 if target == "i64" else np.int32)
        limit = 2.0 ** (8 * wide.itemsize - 1)
        inside = (x >= -limit) & (x < limit)
        whole = np.where(inside, x, 0).astype(wide)
        expected = np.where(inside, whole, np.iinfo(wide).min).astype(LANES[target])
    else:
        with np.errstate(all="ignore"):
            expected = x.astype(LANES[target])
    assert_same(vectors.cast(source, target, x), expected)


def half_samples() -> np.ndarray:
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 1 << 32, 100000, dtype=np.uint32)
    every = np.arange(1 << 16, dtype=np.uint32)
    ties = np.concatenate([(every << 16) | low for low in (0, 0x7FFF, 0x8000, 0x8001)])
    halves = every.astype(np.uint16).view(np.float16).astype(np.float32)
    with np.errstate(all="ignore"):
        between = (halves + np.roll(halves, 1)) / 2
    return np.concatenate([bits.view(np.float32), ties.view(np.float32), halves, between])


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_half_rounding(vectors: VectorLibrary, name: str) -> None:
    x = half_samples()
    with np.errstate(all="ignore"):
        expected = x.astype(MEMORY[name]).astype(np.float32)
    assert_same(vectors.call(f"round_{name}", np.dtype(np.float32), x), expected)


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_every_half_survives_a_load_and_a_store(vectors: VectorLibrary, name: str) -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    out = np.empty_like(every)
    for start in range(0, every.size, vectors.lanes):
        vectors.run(f"copy_{name}", every[start:], out[start:])
    expected = every.view(MEMORY[name]).astype(np.float32)
    np.testing.assert_array_equal(out.view(MEMORY[name]).astype(np.float32), expected)


@pytest.mark.parametrize("name", MEMORY)
def test_partial_loads_and_stores_touch_only_their_elements(
    vectors: VectorLibrary, name: str
) -> None:
    lanes, dtype = vectors.lanes, MEMORY[name]
    source = (np.arange(2 * lanes) % 2 if name == "bool" else np.arange(1, 2 * lanes + 1)).astype(
        dtype
    )
    for n in range(lanes + 1):
        target = np.zeros(lanes + 2, dtype)
        target[:] = 1
        vectors.run(f"copy_n_{name}", source[1:], target[1:], n)
        np.testing.assert_array_equal(target[1 : n + 1], source[1 : n + 1])
        assert target[0] == 1
        assert (target[n + 1 :] == 1).all()
        vectors.run(f"pad_{name}", source, target, n)
        np.testing.assert_array_equal(target[:n], source[:n])
        assert (target[n:lanes] == 0).all()
    vectors.run(f"copy_n_{name}", source, target, lanes + 5)
    np.testing.assert_array_equal(target[:lanes], source[:lanes])


@pytest.mark.parametrize("name", MEMORY)
def test_strided_and_gathered_elements(vectors: VectorLibrary, name: str) -> None:
    lanes, dtype = vectors.lanes, MEMORY[name]
    rng = np.random.default_rng(6)
    source = rng.integers(0, 2 if name == "bool" else 100, 3 * lanes).astype(dtype)
    target = np.zeros(2 * lanes, dtype)
    vectors.run(f"strided_{name}", source, target, 3, 2)
    np.testing.assert_array_equal(target[::2], source[::3])
    vectors.run(f"strided_{name}", source[-1:], target, -3, 2)
    np.testing.assert_array_equal(target[::2], source[::-3])
    offsets = rng.integers(0, source.size, lanes)
    out = np.zeros(lanes, dtype)
    vectors.run(f"gather_{name}", source, offsets, out)
    np.testing.assert_array_equal(out, source[offsets])
    n = lanes - 1
    offsets[n:] = 1 << 60
    vectors.run(f"gather_n_{name}", source, offsets, out, n)
    np.testing.assert_array_equal(out[:n], source[offsets[:n]])
    assert out[n] == 0
    target[:] = 0
    vectors.run(f"strided_n_{name}", source, target, 3, 2, n)
    np.testing.assert_array_equal(target[: 2 * n : 2], source[::3][:n])
    assert not target[2 * n :].any()


@pytest.mark.parametrize("name", MEMORY)
def test_lanes_inside_bounds_are_all_that_is_read(vectors: VectorLibrary, name: str) -> None:
    lanes, fenced = vectors.lanes, Fenced()
    numbers = (np.arange(lanes) % 2 if name == "bool" else np.arange(1, lanes + 1)).astype(
        MEMORY[name]
    )
    outside = np.ones(lanes, MEMORY[name])
    for first in range(lanes):
        for end in range(first + 1, lanes + 1):
            wanted = outside.copy()
            wanted[first:end] = numbers[: end - first]
            at_end = bool((first + end) % 2)
            source, out = fenced.copy(numbers[: end - first], at_end), outside.copy()
            vectors.run(f"inside_{name}", source, out, first, end)
            np.testing.assert_array_equal(out, wanted)
    nothing = fenced.copy(numbers[:0], True)
    for first, end in ((0, 0), (3, 3), (lanes, 2), (0, -1), (0, -(1 << 40)), (1 << 40, lanes)):
        out = outside.copy()
        vectors.run(f"inside_{name}", nothing, out, first, end)
        np.testing.assert_array_equal(out, outside)


@pytest.mark.parametrize("name", MEMORY)
def test_every_second_element_is_all_that_is_touched(vectors: VectorLibrary, name: str) -> None:
    lanes, fenced, random = vectors.lanes, Fenced(), np.random.default_rng(8)
    for n in range(lanes + 1):
        numbers = random.integers(0, 2 if name == "bool" else 100, max(2 * n - 1, 0))
        for at_end in (False, True):
            source = fenced.copy(numbers.astype(MEMORY[name]), at_end)
            target = fenced.copy(np.ones_like(source), at_end)
            vectors.run(f"strided_n_{name}", source, target, 2, 2, n)
            np.testing.assert_array_equal(target[::2], source[::2])
            assert (target[1::2] == 1).all()
            if n == lanes:
                target[:] = 1
                vectors.run(f"strided_{name}", source, target, 2, 2)
                np.testing.assert_array_equal(target[::2], source[::2])
                assert (target[1::2] == 1).all()


@pytest.mark.parametrize("lane", LANES)
def test_lane_reductions(vectors: VectorLibrary, lane: str) -> None:
    rng = np.random.default_rng(7)
    for _ in range(20):
        if lane in FLOATS:
            x = (rng.standard_normal(vectors.lanes) + 2).astype(LANES[lane])
        else:
            x = rng.integers(0, 2 if lane == "b" else 100, vectors.lanes).astype(LANES[lane])
        assert vectors.fold("max", lane, x) == x.max()
        assert vectors.fold("min", lane, x) == x.min()
        if lane == "b":
            continue
        tolerance = 1e-5 if lane in FLOATS else 0
        with np.errstate(all="ignore"):
            total, product = x.sum(dtype=x.dtype), x.prod(dtype=x.dtype)
        assert vectors.fold("sum", lane, x) == pytest.approx(total, rel=tolerance)
        assert vectors.fold("prod", lane, x) == pytest.approx(product, rel=tolerance)


@pytest.mark.parametrize("lane", FLOATS)
def test_lane_extremes_propagate_nan(vectors: VectorLibrary, lane: str) -> None:
    for position in range(vectors.lanes):
        x = np.arange(vectors.lanes, dtype=LANES[lane])
        x[position] = np.nan
        assert np.isnan(vectors.fold("max", lane, x))
        assert np.isnan(vectors.fold("min", lane, x))


def test_bfloat16_of_ml_dtypes_is_the_storage(vectors: VectorLibrary) -> None:
    x = np.arange(vectors.lanes).astype(ml_dtypes.bfloat16)
    out = np.zeros_like(x)
    vectors.run("copy_bf16", x, out)
    np.testing.assert_array_equal(out, x)


def philox(
    vectors: VectorLibrary, seed: int, offset: int, start: int, n: int, form: str = "philox"
) -> np.ndarray:
    out = np.empty(n, np.int32)
    vectors.run(form, seed, offset, start, out, n)
    return out.view(np.uint32)


def test_philox_known_answers(vectors: VectorLibrary) -> None:
    assert [hex(w) for w in philox(vectors, 0, 0, 0, 4)] == [
        "0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"
    ]  # fmt: skip


def test_philox_words_do_not_depend_on_how_they_are_asked_for(vectors: VectorLibrary) -> None:
    seed, offset = 0x123456789ABCDEF, 0xFFFFFFFE
    whole = philox(vectors, seed, offset, 0, 600)
    for start in (0, 1, 2, 3, 5, 8):
        for form, count in (("philox", 60), ("philox_run", 60), ("philox_run", 590)):
            words = philox(vectors, seed, offset, start, count, form)
            np.testing.assert_array_equal(words, whole[start : start + count])
    np.testing.assert_array_equal(philox(vectors, seed, offset + 2, 0, 40), whole[8:48])
    assert (philox(vectors, seed + 1, offset, 0, 600) != whole).any()


def test_iota(vectors: VectorLibrary) -> None:
    wide, narrow = np.zeros(vectors.lanes, np.int64), np.zeros(vectors.lanes, np.int32)
    vectors.run("iota", -3, wide, narrow)
    np.testing.assert_array_equal(wide, np.arange(vectors.lanes) - 3)
    np.testing.assert_array_equal(narrow, wide)
