"""Bessel functions of the orders 0 and 1, and Airy's function.

In: tensors of any shape; integers become the default dtype. Out: the same shape, computed in the
operand's dtype (float32 for 16 bits), within a few units in the last place of the value or, of what
oscillates, of its amplitude. Near the origin and far from it they are Chebyshev series
(``chebyshev_series.py``) times the function's leading behaviour: C. W. Clenshaw, "Chebyshev series
for mathematical functions", NPL Mathematical Tables 5 (1962). Derivatives: DLMF 10.6 and 10.29.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from flamec.functional import chebyshev_series as series
from flamec.functional.chebyshev_series import chebyshev_sum
from flamec.functional.elementwise import where
from flamec.functional.known_slope import declare
from flamec.tensor import Tensor

__all__ = [
    "airy_ai", "bessel_j0", "bessel_j1", "bessel_y0", "bessel_y1", "i0", "i0e", "i1", "i1e",
    "modified_bessel_i0", "modified_bessel_i1", "modified_bessel_k0", "modified_bessel_k1",
    "scaled_modified_bessel_k0", "scaled_modified_bessel_k1", "spherical_bessel_j0",
]  # fmt: skip

Part = Callable[[Tensor], Tensor]
Coefficients = tuple[float, ...]


def _pieces(x: Tensor, border: float, near: Part, far: Part) -> Tensor:
    """``near`` up to the border and ``far`` above it; neither sees what is the other's."""
    inside = x <= border
    return where(inside, near(where(inside, x, border)), far(where(inside, border, x)))


def _odd_pieces(x: Tensor, border: float, near: Part, far: Part) -> Tensor:
    """As ``_pieces``, of an odd function: ``far`` is given sizes alone."""
    size = x.abs()
    inside = size <= border
    beyond = far(where(inside, border, size))
    return where(inside, near(where(inside, x, 0.0)), where(x < 0, -beyond, beyond))


def _near(x: Tensor, coefficients: Coefficients, border: float) -> Tensor:
    return chebyshev_sum(coefficients, x * (2 / border) - 1)


def _far(x: Tensor, coefficients: Coefficients, border: float) -> Tensor:
    return chebyshev_sum(coefficients, 2 * border / x - 1)


def _over(y: Tensor, x: Tensor, limit: float) -> Tensor:
    """``y / x``; ``limit``, from which it differs by multiples of x², where x is 0 or almost."""
    zero = x * x == 0
    return where(zero, limit, y / where(zero, 1.0, x))


# modified functions of the first kind ------------------------------------------------------------
def _i0e(x: Tensor) -> Tensor:
    return _pieces(
        x.abs(),
        8.0,
        lambda size: _near(size, series.I0_NEAR, 8.0),
        lambda size: _far(size, series.I0_FAR, 8.0) * size.rsqrt(),
    )


def _i1e(x: Tensor) -> Tensor:
    return _odd_pieces(
        x,
        8.0,
        lambda x: _near(x.abs(), series.I1_NEAR, 8.0) * x,
        lambda size: _far(size, series.I1_FAR, 8.0) * size.rsqrt(),
    )


def _grown(scaled: Tensor, x: Tensor) -> Tensor:
    """``scaled * exp(|x|)``, of which exp(|x|) alone may be too large."""
    half = (x.abs() * 0.5).exp()
    return where(x.isinf(), x, scaled * half * half)


def _i0(x: Tensor) -> Tensor:
    return _grown(_i0e(x), x).abs()


def _i1(x: Tensor) -> Tensor:
    return _grown(_i1e(x), x)


i0 = declare(
    "i0", "The modified Bessel function of the first kind of order 0.", _i0, lambda x, y: _i1(x)
)
i0e = declare("i0e", "``exp(-|x|) i0(x)``.", _i0e, lambda x, y: _i1e(x) - x.sign() * y)
i1 = declare(
    "i1",
    "The modified Bessel function of the first kind of order 1.",
    _i1,
    lambda x, y: _i0(x) - _over(y, x, 0.5),
)
i1e = declare(
    "i1e",
    "``exp(-|x|) i1(x)``.",
    _i1e,
    lambda x, y: _i0e(x) - x.sign() * y - _over(y, x, 0.5),
)
modified_bessel_i0 = declare("modified_bessel_i0", "``i0``.", _i0, lambda x, y: _i1(x))
modified_bessel_i1 = declare(
    "modified_bessel_i1", "``i1``.", _i1, lambda x, y: _i0(x) - _over(y, x, 0.5)
)


# modified functions of the second kind -----------------------------------------------------------
def _k_near(x: Tensor, order: int) -> Tensor:
    square = x * x
    logarithm = (x * 0.5).log()
    if order == 0:
        return _near(square, series.K0_NEAR, 4.0) - logarithm * _i0(x)
    zero = x == 0
    logarithm = where(zero, 0.0, logarithm)
    y = _near(square, series.K1_NEAR, 4.0) / where(zero, 1.0, x) + logarithm * _i1(x)
    return where(zero, math.inf, y)


def _k(order: int, scaled: bool) -> Part:
    far_series = series.K1_FAR if order else series.K0_FAR

    def near(x: Tensor) -> Tensor:
        return _k_near(x, order) * x.exp() if scaled else _k_near(x, order)

    def far(x: Tensor) -> Tensor:
        y = _far(x, far_series, 2.0) * x.rsqrt()
        return y if scaled else y * (-x).exp()

    return lambda x: _pieces(where(x < 0, math.nan, x), 2.0, near, far)


_k0, _k1, _k0e, _k1e = _k(0, False), _k(1, False), _k(0, True), _k(1, True)

modified_bessel_k0 = declare(
    "modified_bessel_k0",
    "The modified Bessel function of the second kind of order 0; NaN below 0.",
    _k0,
    lambda x, y: -_k1(x),
)
modified_bessel_k1 = declare(
    "modified_bessel_k1",
    "The modified Bessel function of the second kind of order 1; NaN below 0.",
    _k1,
    lambda x, y: -_k0(x) - y / x,
)
scaled_modified_bessel_k0 = declare(
    "scaled_modified_bessel_k0",
    "``exp(x) modified_bessel_k0(x)``.",
    _k0e,
    lambda x, y: y - _k1e(x),
)
scaled_modified_bessel_k1 = declare(
    "scaled_modified_bessel_k1",
    "``exp(x) modified_bessel_k1(x)``.",
    _k1e,
    lambda x, y: y - _k0e(x) - y / x,
)


# functions of the first and second kind -----------------------------------------------------------
_FAR = {0: (series.P0_FAR, series.Q0_FAR), 1: (series.P1_FAR, series.Q1_FAR)}
_TWO_OVER_PI = 2 / math.pi


def _wave(x: Tensor, order: int, later: bool) -> Tensor:
    """The function of the first kind far from 0, or, a quarter of a period later, of the second."""
    p, q = (_near((8 / x).square(), c, 1.0) for c in _FAR[order])
    q = q / x
    # by the sum of angles, because x - pi/4 would be rounded
    angle = (2 * order + 1) * math.pi / 4
    sine, cosine = x.sin(), x.cos()
    first = cosine * math.cos(angle) + sine * math.sin(angle)
    second = sine * math.cos(angle) - cosine * math.sin(angle)
    wave = p * second + q * first if later else p * first - q * second
    return wave * (x * (math.pi / 2)).rsqrt()


def _j0(x: Tensor) -> Tensor:
    return _pieces(
        x.abs(), 8.0, lambda x: _near(x * x, series.J0_NEAR, 64.0), lambda x: _wave(x, 0, False)
    )


def _j1_near(x: Tensor) -> Tensor:
    return _near(x * x, series.J1_NEAR, 64.0) * x


def _j1(x: Tensor) -> Tensor:
    return _odd_pieces(x, 8.0, _j1_near, lambda size: _wave(size, 1, False))


def _y0(x: Tensor) -> Tensor:
    def near(x: Tensor) -> Tensor:
        j0 = _near(x * x, series.J0_NEAR, 64.0)
        return _near(x * x, series.Y0_NEAR, 64.0) + x.log() * j0 * _TWO_OVER_PI

    return _pieces(x, 8.0, near, lambda x: _wave(x, 0, True))


def _y1(x: Tensor) -> Tensor:
    def near(x: Tensor) -> Tensor:
        zero = x == 0
        z = where(zero, 1.0, x)
        singular = (z.log() * _j1_near(z) - 1 / z) * _TWO_OVER_PI
        return where(zero, -math.inf, _near(z * z, series.Y1_NEAR, 64.0) * z + singular)

    return _pieces(x, 8.0, near, lambda x: _wave(x, 1, True))


bessel_j0 = declare(
    "bessel_j0",
    "The Bessel function of the first kind of order 0.",
    _j0,
    lambda x, y: -_j1(x),
)
bessel_j1 = declare(
    "bessel_j1",
    "The Bessel function of the first kind of order 1.",
    _j1,
    lambda x, y: _j0(x) - _over(y, x, 0.5),
)
bessel_y0 = declare(
    "bessel_y0",
    "The Bessel function of the second kind of order 0; NaN below 0.",
    _y0,
    lambda x, y: -_y1(x),
)
bessel_y1 = declare(
    "bessel_y1",
    "The Bessel function of the second kind of order 1; NaN below 0.",
    _y1,
    lambda x, y: _y0(x) - y / x,
)


def _spherical_j0(x: Tensor) -> Tensor:
    infinite = x.isinf()
    x = where(infinite, 1.0, x)
    return where(infinite, 0.0, _over(x.sin(), x, 1.0))


def _spherical_slope(x: Tensor, y: Tensor) -> Tensor:
    """(cos x - y) / x; where that cancels, its series (DLMF 10.53.1)."""
    close = x.abs() < 0.5
    z = where(close, x, 0.5)
    square, total = z * z, z * 0 + 1
    for k in range(6, 0, -1):
        total = 1 - square * total / (2 * k * (2 * k + 3))
    return where(close, z * total / -3, (x.cos() - y) / where(close, 0.5, x))


spherical_bessel_j0 = declare(
    "spherical_bessel_j0", "sin(x) / x; 1 at 0.", _spherical_j0, _spherical_slope
)

# Airy's function ---------------------------------------------------------------------------------
_LEFT, _RIGHT = -5.0, 2.0


def _exponent(x: Tensor) -> Tensor:
    return x * x.sqrt() * (2 / 3)


def _airy_right(x: Tensor) -> Tensor:
    z = _exponent(x)
    scaled = _far(z, series.AIRY_RIGHT, 2 / 3 * _RIGHT**1.5) * (0.5 / math.sqrt(math.pi))
    return scaled * (-z).exp() * x.sqrt().rsqrt()


def _airy_left(x: Tensor) -> Tensor:
    z = _exponent(-x)
    square = (2 / 3 * (-_LEFT) ** 1.5 / z).square()
    c = _near(square, series.AIRY_LEFT_COSINE, 1.0)
    s = _near(square, series.AIRY_LEFT_SINE, 1.0) / z
    sine, cosine = z.sin(), z.cos()
    wave = c * (cosine + sine) + s * (sine - cosine)  # sine and cosine of z - pi/4
    return wave * (-x).sqrt().rsqrt() * math.sqrt(0.5 / math.pi)


def _airy(x: Tensor) -> Tensor:
    def middle(x: Tensor) -> Tensor:
        return _near(x - _LEFT, series.AIRY_MIDDLE, _RIGHT - _LEFT)

    left = x < _LEFT
    rest = _pieces(where(left, 0.0, x), _RIGHT, middle, _airy_right)
    return where(left, _airy_left(where(left, x, _LEFT)), rest)


airy_ai = declare("airy_ai", "Airy's function Ai.", _airy)
