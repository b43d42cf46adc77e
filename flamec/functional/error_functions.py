"""Functions about the normal distribution and entropy that need care in the tails.

Definitions: NIST Digital Library of Mathematical Functions (dlmf.nist.gov), 7.
"""

from __future__ import annotations

import math

from flamec.functional.chebyshev_series import ERFCX, chebyshev_sum
from flamec.functional.elementwise import where
from flamec.functional.known_slope import declare
from flamec.functional.unary import erfc, log1p
from flamec.tensor import Tensor

__all__ = ["entr", "erfcx", "log_ndtr"]

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


log_ndtr = declare(
    "log_ndtr",
    "The logarithm of ``ndtr``, also where that is too small.",
    _log_ndtr,
    lambda x, y: math.sqrt(2 / math.pi) / erfcx(x * -_ROOT_HALF),
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
