"""Accuracy and special values of the vector header's functions, against NumPy and SciPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import special
from vector_harness import FLOAT_UNARY, VectorLibrary

SPECIAL = np.array(
    [
        *(0.0, -0.0, 1, -1, 0.5, -0.5, 2, -2, 3, -3, 100, -100, 2.0**-149, -(2.0**-149)),
        *(1e-40, -1e-40, 2.0**-126, np.nan, 1e30, -1e30, np.inf, -np.inf),
    ],
    np.float64,
)
REFERENCE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **{name: getattr(np, name) for name in FLOAT_UNARY if hasattr(np, name)},
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "round": np.rint,
    "erf": special.erf,
    "erfc": special.erfc,
    "erfinv": special.erfinv,
    "lgamma": special.gammaln,
    "digamma": special.digamma,
    "polygamma1": lambda x: special.polygamma(1, x),
    "sigmoid": special.expit,
}
# Largest error in units in the last place, float32.
BOUND = dict.fromkeys(FLOAT_UNARY, 1.0) | {
    **dict.fromkeys(("abs", "sign", "floor", "ceil", "round", "trunc"), 0.0),
    **dict.fromkeys(("sqrt", "erfinv", "digamma", "polygamma1"), 0.51),
    **dict.fromkeys(("rsqrt", "tanh", "expm1", "sin", "cos", "tan"), 1.6),
    **dict.fromkeys(("asin", "acos", "log2"), 1.6),
    **dict.fromkeys(("sinh", "cosh", "asinh", "acosh", "atanh", "sigmoid"), 2.5),
    **dict.fromkeys(("erfc", "lgamma"), 6.0),
    "log10": 2.1,
    "erf": 1.3,
}


def samples(seed: int = 0) -> np.ndarray:
    """Both signs of every float32 exponent with random digits, and denser numbers near 0."""
    rng = np.random.default_rng(seed)
    exponent = np.repeat(np.arange(255, dtype=np.uint32), 100)
    bits = (exponent << 23) | rng.integers(0, 1 << 23, exponent.size, dtype=np.uint32)
    spread = bits.view(np.float32)
    dense = [rng.uniform(-r, r, 20000).astype(np.float32) for r in (1.5, 12, 110)]
    return np.concatenate([spread, -spread, *dense])


def ulps(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Errors in units in the last place of ``got``'s type; NaN and infinities must agree."""
    limits = np.finfo(got.dtype)
    with np.errstate(all="ignore"):
        expected = exact.astype(got.dtype)
        last = np.nextafter(limits.max, limits.tiny)
        spacing = np.spacing(np.clip(np.abs(expected), limits.tiny, last))
        error = np.abs(got.astype(exact.dtype) - exact) / spacing
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    at_edge = np.abs(exact) >= limits.max * (1 - 1e-6)  # rounds to infinity or not quite
    error = np.where(np.isfinite(expected) & np.isfinite(got), error, 0)
    return np.where((error > 0) | same | at_edge, error, np.inf)


@pytest.mark.parametrize("name", FLOAT_UNARY)
def test_float32_error_is_bounded_over_all_exponents(vectors: VectorLibrary, name: str) -> None:
    x = samples()
    if name == "lgamma":  # next to its zeros an absolute bound is all libm promises
        x = x[x > 2.5]
    if name in ("digamma", "polygamma1"):  # the series' remainder is absolute near their zeros
        x = x[(x > 1.5) | (np.abs(x) < 1)]
    with np.errstate(all="ignore"):
        exact = np.asarray(REFERENCE[name](x.astype(np.float64)))
    error = ulps(vectors.unary(name, "f32", x), exact)
    worst = int(np.argmax(error))
    assert error[worst] <= BOUND[name], f"{error[worst]:.3f} ulp at {x[worst]!r}"


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "sigmoid", "erf", "expm1", "log1p"])
def test_float64_error_is_bounded(vectors: VectorLibrary, name: str) -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate(
        [rng.uniform(-r, r, 4000) for r in (1e-300, 1e-5, 1, 30, 745)]
        + [np.ldexp(rng.uniform(1, 2, 2000), rng.integers(-1074, 1023, 2000))]
    )
    wide = x.astype(np.longdouble)
    with np.errstate(all="ignore"):
        exact = {
            "sigmoid": lambda: np.where(wide < 0, np.exp(wide), 1) / (1 + np.exp(-np.abs(wide))),
            "erf": lambda: special.erf(x).astype(np.longdouble),
        }.get(name, lambda: getattr(np, name)(wide))()
    error = ulps(vectors.unary(name, "f64", x), exact)
    worst = int(np.argmax(error))
    assert error[worst] <= {"exp": 1, "log": 1}.get(name, 2.5), f"{error[worst]} at {x[worst]!r}"


@pytest.mark.parametrize("lane", ["f32", "f64"])
@pytest.mark.parametrize("name", FLOAT_UNARY)
def test_special_values_are_numpys(vectors: VectorLibrary, name: str, lane: str) -> None:
    x = SPECIAL.astype(np.float32 if lane == "f32" else np.float64)
    if name in ("lgamma", "polygamma1", "digamma"):
        x = x[x != -np.inf]  # SciPy and C differ there
    got = vectors.unary(name, lane, x)
    with np.errstate(all="ignore"):
        expected = np.asarray(REFERENCE[name](x.astype(np.float64))).astype(x.dtype)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(expected))
    known = ~np.isnan(expected)
    assert ((got == 0) == (expected == 0))[known].all()
    if name not in ("erfinv", "digamma", "lgamma"):  # SciPy loses the sign of zero
        np.testing.assert_array_equal(np.signbit(got[known]), np.signbit(expected[known]))


def test_large_angles(vectors: VectorLibrary) -> None:
    x = np.array([2.0**15, 32769.5, 1e6, 1e10, 3.4e38, -1e20, 102943.7, 51471.85], np.float32)
    for name in ("sin", "cos"):
        error = ulps(vectors.unary(name, "f32", x), getattr(np, name)(x.astype(np.float64)))
        assert error.max() <= 1.6


def test_angles_next_to_multiples_of_a_quarter_turn(vectors: VectorLibrary) -> None:
    multiples = (np.arange(1, 20000) * (np.pi / 2)).astype(np.float32)
    x = np.concatenate([multiples, np.nextafter(multiples, np.float32(0))])
    for name in ("sin", "cos"):
        exact = getattr(np, name)(x.astype(np.longdouble))
        assert ulps(vectors.unary(name, "f32", x), exact).max() <= 1.6


def test_sigmoid_keeps_digits_in_both_tails(vectors: VectorLibrary) -> None:
    x = np.linspace(-103, -80, 1001, dtype=np.float32)
    exact = special.expit(x.astype(np.longdouble))
    assert ulps(vectors.unary("sigmoid", "f32", x), exact).max() <= 2.5
    assert (vectors.unary("sigmoid", "f32", -x) == 1).all()
