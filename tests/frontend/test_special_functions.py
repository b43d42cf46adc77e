"""``flamec.special`` against SciPy in float64, eager and compiled; derivatives against differences.

Bessel's and Airy's functions, the incomplete gamma functions, zeta, error functions, polygamma.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec.functional import chebyshev_series

scipy_special = pytest.importorskip("scipy.special")

RNG = np.random.default_rng(11)
POINTS = np.concatenate(
    [
        np.linspace(-30, 30, 401),
        [0.0, -0.0, 1e-8, -1e-5, 1e-300, 2.0, 8.0, np.nextafter(8, 9), -5.0, 100.0, 700.0, -700.0],
    ]
)
SINGLE: dict[str, Callable[..., Any]] = {
    "i0": scipy_special.i0, "i0e": scipy_special.i0e, "i1": scipy_special.i1,
    "i1e": scipy_special.i1e, "modified_bessel_i0": scipy_special.i0,
    "modified_bessel_i1": scipy_special.i1, "modified_bessel_k0": scipy_special.k0,
    "modified_bessel_k1": scipy_special.k1, "scaled_modified_bessel_k0": scipy_special.k0e,
    "scaled_modified_bessel_k1": scipy_special.k1e, "bessel_j0": scipy_special.j0,
    "bessel_j1": scipy_special.j1, "bessel_y0": scipy_special.y0, "bessel_y1": scipy_special.y1,
    "spherical_bessel_j0": lambda x: scipy_special.spherical_jn(0, x),
    "airy_ai": lambda x: scipy_special.airy(x)[0], "erfcx": scipy_special.erfcx,
    "log_ndtr": scipy_special.log_ndtr, "entr": scipy_special.entr,
}  # fmt: skip
WAVES = ("bessel_j", "bessel_y", "airy")  # exact to units of the amplitude
RIGHT = ("bessel_y", "modified_bessel_k", "scaled")  # NaN below 0, where SciPy has other values


def call(name: str) -> Callable[..., Any]:
    return getattr(flamec.special, name)  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", SINGLE)
def test_values(name: str, dtype: str) -> None:
    x = POINTS.astype(dtype)
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        wanted = SINGLE[name](wide)
        if name.startswith(RIGHT):
            wanted = np.where(wide < 0, np.nan, wanted)
        rounded = wanted.astype(dtype)
    for form in (call(name), flamec.compile(call(name), fullgraph=True)):
        found = form(flamec.tensor(x)).numpy()
        assert found.dtype == dtype
        np.testing.assert_array_equal(np.isnan(found), np.isnan(rounded))
        np.testing.assert_array_equal(np.isinf(found), np.isinf(rounded))
        usual = np.isfinite(rounded) & ((np.abs(rounded) > 1e-37) | (wanted == 0))
        size = np.abs(wanted[usual])
        if name.startswith(WAVES):
            amplitude = (1 + np.abs(wide[usual])) ** (-0.25 if name == "airy_ai" else -0.5) / 3
            size = np.where((wide[usual] < 0) | (name != "airy_ai"), size + amplitude, size)
        unit = np.finfo(dtype).eps
        growth = 1 + np.where(name in ("erfcx", "airy_ai", "log_ndtr"), np.abs(wide[usual]) ** 2, 0)
        if name.startswith("bessel"):
            growth = 1 + np.abs(wide[usual]) / 4  # SciPy's phase is rounded
        error = np.abs(found[usual].astype(np.float64) - wanted[usual])
        far = error > 12 * unit * size * growth
        assert not far.any(), (x[usual][far], found[usual][far], wanted[usual][far])


@pytest.mark.parametrize("name", SINGLE)
def test_derivatives(name: str) -> None:
    """First and second ones, against differences of fourth order of SciPy's values."""
    x = np.array([0.3, 1.7, 2.0, 2.6, 5.0, 7.9, 8.0, 8.3, 20.0])
    function, h = SINGLE[name], 2e-3
    around = np.array([function(x + k * h) for k in (-2, -1, 0, 1, 2)])
    leaf = flamec.tensor(x, requires_grad=True)
    (first,) = flamec.autograd.grad(call(name)(leaf).sum(), leaf, create_graph=True)
    (second,) = flamec.autograd.grad(first.sum(), leaf)
    size = np.abs(around).max(0)
    for found, weights in (
        (first, np.array([1, -8, 0, 8, -1]) / (12 * h)),
        (second, np.array([-1, 16, -30, 16, -1]) / (12 * h * h)),
    ):
        wanted = weights @ around
        assert (np.abs(found.detach().numpy() - wanted) < 1e-7 * (np.abs(wanted) + size)).all()


@pytest.mark.parametrize("name", ["i0", "i0e", "i1", "i1e", "bessel_j1", "spherical_bessel_j0"])
def test_derivatives_at_zero(name: str) -> None:
    x = flamec.tensor([0.0, 1e-9, 1e-3], dtype=flamec.float64, requires_grad=True)
    (found,) = flamec.autograd.grad(call(name)(x).sum(), x)
    if name == "i0e":  # which has a corner
        assert found.tolist()[0] == 0.0
    else:
        wanted = (SINGLE[name](1e-6) - SINGLE[name](-1e-6)) / 2e-6
        np.testing.assert_allclose(found.tolist()[:2], wanted, atol=1e-5)


def test_incomplete_gamma_functions_have_both_derivatives() -> None:
    a, x = np.array([0.3, 2.0, 50.0, 4.0, 0.8]), np.array([0.5, 1.0, 60.0, 2.0, 3.0])
    h = 1e-3
    for name in ("gammainc", "gammaincc"):
        function = getattr(scipy_special, name)
        leaves = [flamec.tensor(v, requires_grad=True) for v in (a, x)]
        found = flamec.autograd.grad(call(name)(*leaves).sum(), leaves)
        for k in range(2):
            steps = [(a + j * h * (k == 0), x + j * h * (k == 1)) for j in (-2, -1, 1, 2)]
            low2, low, high, high2 = (function(*step) for step in steps)
            wanted = (low2 - 8 * low + 8 * high - high2) / (12 * h)
            np.testing.assert_allclose(found[k].numpy(), wanted, rtol=1e-6, atol=1e-10)
    a = flamec.tensor([0.5, 3.0], requires_grad=True)
    (slope,) = flamec.autograd.grad(flamec.special.gammainc(a, flamec.zeros(2)).sum(), a)
    assert slope.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", ["j0_near", "k1_far", "erfcx"])
def test_series_are_of_what_their_file_says(name: str) -> None:
    mp = pytest.importorskip("mpmath")
    exact = {
        "j0_near": lambda t: mp.besselj(0, mp.sqrt(32 * (t + 1))),
        "k1_far": lambda t: mp.exp(4 / (t + 1)) * mp.sqrt(4 / (t + 1)) * mp.besselk(1, 4 / (t + 1)),
        "erfcx": lambda t: (
            (1 + 7.5 * (1 + t) / (1 - t))
            * mp.exp((mp.mpf(3.75) * (1 + t) / (1 - t)) ** 2)
            * mp.erfc(mp.mpf(3.75) * (1 + t) / (1 - t))
        ),
    }[name]
    coefficients = getattr(chebyshev_series, name.upper())
    with mp.workdps(40):
        for t in map(mp.mpf, (-0.9, -0.3, 0.2, 0.7, 0.95)):
            total = sum(mp.mpf(c) * mp.chebyt(k, t) for k, c in enumerate(coefficients))
            assert abs(total - exact(t)) < 3e-16


def test_incomplete_gamma_functions() -> None:
    a = np.exp(RNG.uniform(-6, 10, 3000))
    x = a * np.exp(RNG.standard_normal(3000) / np.sqrt(a + 0.1) * 2)
    for name in ("gammainc", "gammaincc"):
        wanted = getattr(scipy_special, name)(a, x)
        found = call(name)(flamec.tensor(a), flamec.tensor(x)).numpy()
        usual = wanted > 1e-290
        np.testing.assert_allclose(found[usual], wanted[usual], rtol=1e-11)


def test_zeta() -> None:
    x = np.array([1.1, 2, 3, 5.5, 20, 60])
    q = np.array([1, 0.3, 2, 4, 7, 0.5])
    leaves = [flamec.tensor(v, requires_grad=True) for v in (x, q)]
    value = flamec.special.zeta(*leaves)
    np.testing.assert_allclose(value.detach().numpy(), scipy_special.zeta(x, q), rtol=1e-13)
    found = flamec.autograd.grad(value.sum(), leaves)
    h = 1e-4
    for k in range(2):
        low, high = (
            scipy_special.zeta(x + s * h * (k == 0), q + s * h * (k == 1)) for s in (-1, 1)
        )
        np.testing.assert_allclose(found[k].numpy(), (high - low) / (2 * h), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_polygamma_of_negative_numbers(n: int) -> None:
    x = np.array([-0.01, -0.3, -0.5, -0.999, -1.25, -4.6, -20.5, -300.3])
    found = flamec.special.polygamma(n, flamec.tensor(x)).numpy()
    k = np.arange(3000.0)[:, None]  # DLMF 5.15.1; the rest by SciPy
    wanted = (1 / (x + k) ** (n + 1)).sum(0) * scipy_special.factorial(n)
    wanted = wanted * (1 if n % 2 else -1) + scipy_special.polygamma(n, x + 3000)
    term = scipy_special.factorial(n) / np.abs(x - np.rint(x)) ** (n + 1)  # the largest of the sum
    np.testing.assert_array_less(np.abs(found - wanted), 1e-12 * np.abs(wanted) + 1e-15 * term)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_derivatives_of_polygamma_are_polygamma(n: int) -> None:
    x = flamec.tensor([0.2, 1.5, 9.0, -0.3, -2.6], dtype=flamec.float64, requires_grad=True)
    first = flamec.func.grad(lambda x: flamec.polygamma(n, x).sum())
    second = flamec.func.grad(lambda x: first(x).sum())
    for k, derivative in ((1, first), (2, second)):
        wanted = flamec.polygamma(n + k, x.detach()).numpy()
        np.testing.assert_allclose(derivative(x).detach().numpy(), wanted, rtol=1e-9)
