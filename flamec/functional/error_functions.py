"""Functions about the normal distribution and entropy that need care in the tails.

Definitions: NIST Digital Library of Mathematical Functions (dlmf.nist.gov), 7.
"""

from __future__ import annotations

import math

from flamec.functional.chebyshev_series import ERFCX, NDTRI_FAR, NDTRI_NEAR, chebyshev_sum
from flamec.functional.elementwise import where
from flamec.functional.known_slope import declare
from flamec.functional.unary import erfc, erfinv, log1p
from flamec.tensor import Tensor

__all__ = ["entr", "erfcx", "log_ndtr", "ndtri"]

_ROOT_HALF = math.sqrt(0.5)


def _erfcx(x: Tensor) -> Tensor:
    """M. M. Shepherd and J. G. Laframboise, "Chebyshev approximation of (1 + 2x) exp(x^2) erfc x in
    0 <= x < inf", Mathematics of Computation 36 (1981); by reflection below 0."""
    size = x.abs()
    t = 1 - 7.5 / (size + 3.75)
    right = chebyshev_sum(ERFCX, t) / (1 + 2 * size)
    return where(x < 0, 2 * (x * x).exp() - right, right)


erfcx = declare(
    "erfcx",
    "``exp(x**2) * erfc(x)``, where erfc is too small, too.",
    _erfcx,
    lambda x, y: 2 * x * y - 2 / math.sqrt(math.pi),
)


def _log_ndtr(x: Tensor) -> Tensor:
    left = x < -1
    z = where(left, x, -1.0)
    tail = (_erfcx(z * -_ROOT_HALF) * 0.5).log() - z * z * 0.5
    return where(left, tail, log1p(erfc(where(left, 0.0, x) * _ROOT_HALF) * -0.5))


def _log_ndtr_slope(x: Tensor, y: Tensor) -> Tensor:
    """The density over ``ndtr``, left of -1 by erfcx, which is too large on the right."""
    left = x < -1
    z = where(left, 0.0, x)
    right = (z * z * -0.5 - where(left, 0.0, y)).exp() * math.sqrt(0.5 / math.pi)
    return where(left, math.sqrt(2 / math.pi) / erfcx(where(left, x, -1.0) * -_ROOT_HALF), right)


log_ndtr = declare(
    "log_ndtr",
    "The logarithm of ``ndtr``, also where that is too small.",
    _log_ndtr,
    _log_ndtr_slope,
)


def _ndtri(p: Tensor) -> Tensor:
    """By erfinv in the middle. In the tails by z = sqrt(-2 log p), as S. L. Moshier's Cephes does:
    what z - log(z) / z leaves out is a smooth function of 1 / z."""
    upper = p > 0.5
    q = where(upper, 1 - p, p)
    outside = (q > 0) & (q < math.exp(-2))
    z = (where(outside, q, math.exp(-2)).log() * -2).sqrt()
    w = 1 / z
    near, far = (w - 0.3125) / 0.1875, (w - 0.07525) / 0.04975
    rest = where(w > 0.125, chebyshev_sum(NDTRI_NEAR, near), chebyshev_sum(NDTRI_FAR, far))
    tail = z - (z.log() + rest) * w
    middle = erfinv(where(outside, 0.5, p) * 2 - 1) * math.sqrt(2)
    middle = where(q < 0, math.nan, middle)
    return where(outside, where(upper, tail, -tail), middle)


ndtri = declare(
    "ndtri",
    "The inverse of ``ndtr``.",
    _ndtri,
    lambda p, x: math.sqrt(2 * math.pi) * (x * x * 0.5).exp(),
)


def _entr(x: Tensor) -> Tensor:
    positive = x > 0
    z = where(positive, x, 1.0)
    other = where(x == 0, 0.0, where(x < 0, -math.inf, x))
    return where(positive, -z * z.log(), other)


entr = declare(
    "entr",
    "``-x * log(x)``; 0 at 0 and negative infinity below.",
    _entr,
    lambda x, y: -1 - x.log(),
)
