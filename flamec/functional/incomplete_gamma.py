"""The incomplete gamma functions P and Q, and how gamma numbers follow their concentration.

Both are integrals over a tail of the density, taken relative to the density at its end, with the
logarithm as the variable: of the tail on the side of x where it is the smaller one, so that nothing
cancels. Lower tails of concentrations below 1 are led back to those larger by 1 (DLMF 8.8.5),
because they are too wide. float64 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from flamec.functional.arguments import public
from flamec.functional.elementwise import maximum, where
from flamec.functional.known_slope import with_slopes
from flamec.functional.promotion import (
    convert_operands,
    float_dtype,
    require_tensor,
    result_dtype,
)
from flamec.functional.quadrature import half_line
from flamec.functional.shape import broadcast_tensors
from flamec.functional.unary import digamma, expm1, lgamma, log1p
from flamec.fusing import fused
from flamec.ir.types import float64
from flamec.state import no_grad
from flamec.tensor import Tensor

__all__ = ["igamma", "igammac"]

# of the logarithm of the gamma function, DLMF 5.11.1: B_2k / (2k (2k - 1)), highest power first
_STIRLING = (-691 / 360360, 1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12)


@fused()
def gamma_slope(concentration: Tensor, logarithm: Tensor) -> Tensor:
    """How the logarithm of a gamma number moves with its concentration, at its quantile.

    Both float64 and of one shape. -(dP/dc) / (dP/d log x): an integral of the difference of
    log(t) from its mean, which is the digamma function.
    """
    small = concentration < 1
    c = where(small, concentration + 1, concentration)
    x = logarithm.exp()
    above = digamma(c) - logarithm  # how far the mean logarithm lies above the number's
    low = above > 0
    with no_grad():
        width = 1 / maximum(x.sqrt(), (c - x).abs())
        place, weight = half_line(c, 64)
        away = where(low, -width, width) * place  # log(t / x)
        weight = weight * width
    terms = (above - away).abs() * (c * away - x * expm1(away)).exp()
    slope = (terms * weight).sum(0)
    return where(small, (x * slope + above) / concentration, slope)


def _log_weight(c: Tensor, x: Tensor) -> Tensor:
    """log(x^c exp(-x) / gamma(c)), of large c by Stirling's series, as its terms are large then."""
    large = c > 10
    d = where(large, c, 10.0)
    inverse = 1 / d
    square = inverse * inverse
    rest: Any = _STIRLING[0]
    for coefficient in _STIRLING[1:]:
        rest = rest * square + coefficient
    off = where(large, x - d, 0.0) / d
    stirling = d * (log1p(off) - off) + 0.5 * (d * (0.5 / math.pi)).log() - rest * inverse
    return where(large, stirling, c * x.log() - x - lgamma(c))


def _both_tails(a: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """P(a, x) and Q(a, x), the smaller one by its integral (``half_line``, 128 places)."""
    low = x < where(a < 1, a + 1, a)
    small = low & (a < 1)
    c = where(small, a + 1, a)
    width = 1 / maximum(x.sqrt(), (c - x).abs())
    place, weight = half_line(c, 128)
    away = where(low, -width, width) * place
    integral = ((c * away - x * expm1(away)).exp() * weight).sum(0) * width
    tail = integral * _log_weight(c, x).exp()
    p, q = where(low, tail, 1 - tail), where(low, 1 - tail, tail)
    # P(a, x) is P(a + 1, x) + exp(step)
    step = where(small, a * x.log() - x - lgamma(a + 1), 0.0)
    p, q = where(small, p + step.exp(), p), where(small, -expm1(step) - p, q)
    valid = (a >= 0) & (x >= 0) & ((a > 0) | (x > 0)) & ~(a.isinf() & x.isinf())
    full = (a == 0) | x.isinf()
    none = (x == 0) | a.isinf()
    p = where(full, 1.0, where(none, 0.0, p))
    q = where(full, 0.0, where(none, 1.0, q))
    return where(valid, p, math.nan), where(valid, q, math.nan)


def _by_x(a: Tensor, x: Tensor, y: Tensor) -> Tensor:
    zero = x == 0
    z = where(zero, 1.0, x)
    limit = where(a > 1, 0.0, where(a == 1, 1.0, math.inf))
    return where(zero, limit, (_log_weight(a, z) - z.log()).exp())


def _by_a(a: Tensor, x: Tensor, y: Tensor) -> Tensor:
    zero = x == 0
    z = where(zero, 1.0, x)
    return where(zero, 0.0, -gamma_slope(a, z.log()) * _log_weight(a, z).exp())


def _lower(a: Tensor, x: Tensor) -> Tensor:
    return _both_tails(a, x)[0]


def _upper(a: Tensor, x: Tensor) -> Tensor:
    return _both_tails(a, x)[1]


def _negative(slope: Any) -> Any:
    return lambda a, x, y: -slope(a, x, y)


def _function(name: str, doc: str, value: Any, slopes: Any) -> Callable[..., Tensor]:
    def function(input: Tensor, other: Tensor) -> Tensor:
        require_tensor(name, "input", input)
        require_tensor(name, "other", other)
        dtype = float_dtype(result_dtype(input, other))
        operands = broadcast_tensors(*convert_operands((input, other), float64))
        return with_slopes(value, slopes, *operands).to(dtype)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return public(fused()(function))


_P = """P(input, other): the integral of the gamma density from 0 to ``other`` (DLMF 8.2.4).

    Tensors that are broadcast; computed in float64. NaN for negative arguments and for P(0, 0).
    It has derivatives by both.
    """
_Q = """Q(input, other) = 1 - P: the integral from ``other`` on; see ``gammainc``."""
_P_SLOPES, _Q_SLOPES = (_by_a, _by_x), (_negative(_by_a), _negative(_by_x))

igamma = _function("igamma", _P, _lower, _P_SLOPES)
igammac = _function("igammac", _Q, _upper, _Q_SLOPES)
gammainc = _function("gammainc", _P, _lower, _P_SLOPES)
gammaincc = _function("gammaincc", _Q, _upper, _Q_SLOPES)
