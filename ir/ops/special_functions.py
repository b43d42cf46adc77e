"""Special functions that NumPy lacks: erf, erfc, erfinv, log-gamma and its derivatives.

In: arrays of float32 or float64. Out: the same shape and dtype, computed in
float64, within a few units in the last place (float64: about 1e-15 relative,
next to a zero of lgamma or digamma absolute).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_BLOCK = 1 << 13  # elements evaluated at a time, so that temporaries stay in the cache


def _blockwise(function: Callable[[Array], Array]) -> Callable[[NDArray], NDArray]:
    """Evaluate in float64, block by block, and convert back to the argument's dtype."""

    def evaluate(x: NDArray) -> NDArray:
        flat = np.ravel(x)
        result = np.empty(flat.shape, flat.dtype)
        with np.errstate(all="ignore"):
            for start in range(0, flat.size, _BLOCK):
                block = slice(start, start + _BLOCK)
                result[block] = function(flat[block].astype(np.float64))
        return result.reshape(np.shape(x))

    evaluate.__name__ = function.__name__
    evaluate.__doc__ = function.__doc__
    return evaluate


def _polynomial(x: Array, coefficients: tuple[float, ...]) -> Array:
    """Horner's scheme, highest power first."""
    result = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        result *= x
        result += coefficient
    return result


# Rational approximations of erf and erfc: S. L. Moshier, Cephes Mathematical Library, ndtr.c.
# erf(x) = x T(x^2)/U(x^2) below 1; erfc(x) = exp(-x^2) P(x)/Q(x) below 8 and R(x)/S(x) above.
_ERF_T = (
    9.60497373987051638749e0,
    9.00260197203842689217e1,
    2.23200534594684319226e3,
    7.00332514112805075473e3,
    5.55923013010394962768e4,
)
_ERF_U = (
    1.0,
    3.35617141647503099647e1,
    5.21357949780152679795e2,
    4.59432382970980127987e3,
    2.26290000613890934246e4,
    4.92673942608635921086e4,
)
_ERFC_P = (
    2.46196981473530512524e-10,
    5.64189564831068821977e-1,
    7.46321056442269912687e0,
    4.86371970985681366614e1,
    1.96520832956077098242e2,
    5.26445194995477358631e2,
    9.34528527171957607540e2,
    1.02755188689515710272e3,
    5.57535335369399327526e2,
)
_ERFC_Q = (
    1.0,
    1.32281951154744992508e1,
    8.67072140885989742329e1,
    3.54937778887819891062e2,
    9.75708501743205489753e2,
    1.82390916687909736289e3,
    2.24633760818710981792e3,
    1.65666309194161350182e3,
    5.57535340817727675546e2,
)
_ERFC_R = (
    5.64189583547755073984e-1,
    1.27536670759978104416e0,
    5.01905042251180477414e0,
    6.16021097993053585195e0,
    7.40974269950448939160e0,
    2.97886665372100240670e0,
)
_ERFC_S = (
    1.0,
    2.26052863220117276590e0,
    9.39603524938001434673e0,
    1.20489539808096656605e1,
    1.70814450747565897222e1,
    9.60896809063285878198e0,
    3.36907645100081516050e0,
)


def _erf_small(x: Array) -> Array:
    square = x * x
    return x * _polynomial(square, _ERF_T) / _polynomial(square, _ERF_U)


def _erfc_tail(a: Array) -> Array:
    """erfc for a >= 1; exp(-a^2) is split so that the rounding of a^2 does no harm."""
    a = np.clip(a, 1.0, 40.0)  # erfc(40) is 0; NaN stays
    coarse = np.floor(a * 16.0) / 16.0
    scale = np.exp(-coarse * coarse) * np.exp(-(a - coarse) * (a + coarse))
    result = scale * _polynomial(a, _ERFC_P) / _polynomial(a, _ERFC_Q)
    far = a > 8.0
    if far.any():
        ratio = _polynomial(a, _ERFC_R) / _polynomial(a, _ERFC_S)
        result = np.where(far, scale * ratio, result)
    return result


@_blockwise
def erf(x: Array) -> Array:
    """The error function."""
    a = np.abs(x)
    return np.where(a < 1.0, _erf_small(x), np.copysign(1.0 - _erfc_tail(a), x))


@_blockwise
def erfc(x: Array) -> Array:
    """1 - erf(x), without cancellation for large x."""
    a = np.abs(x)
    tail = _erfc_tail(a)
    return np.where(a < 1.0, 1.0 - _erf_small(x), np.where(x < 0, 2.0 - tail, tail))


# M. J. Wichura, "Algorithm AS 241: The Percentage Points of the Normal Distribution",
# Applied Statistics 37 (1988) 477-484, routine PPND16; highest power first.
_CENTRE = (
    (
        2.5090809287301226727e3,
        3.3430575583588128105e4,
        6.7265770927008700853e4,
        4.5921953931549871457e4,
        1.3731693765509461125e4,
        1.9715909503065514427e3,
        1.3314166789178437745e2,
        3.3871328727963666080e0,
    ),
    (
        5.2264952788528545610e3,
        2.8729085735721942674e4,
        3.9307895800092710610e4,
        2.1213794301586595867e4,
        5.3941960214247511077e3,
        6.8718700749205790830e2,
        4.2313330701600911252e1,
        1.0,
    ),
)
_MIDDLE = (
    (
        7.74545014278341407640e-4,
        2.27238449892691845833e-2,
        2.41780725177450611770e-1,
        1.27045825245236838258e0,
        3.64784832476320460504e0,
        5.76949722146069140550e0,
        4.63033784615654529590e0,
        1.42343711074968357734e0,
    ),
    (
        1.05075007164441684324e-9,
        5.47593808499534494600e-4,
        1.51986665636164571966e-2,
        1.48103976427480074590e-1,
        6.89767334985100004550e-1,
        1.67638483018380384940e0,
        2.05319162663775882187e0,
        1.0,
    ),
)
_TAIL = (
    (
        2.01033439929228813265e-7,
        2.71155556874348757815e-5,
        1.24266094738807843860e-3,
        2.65321895265761230930e-2,
        2.96560571828504891230e-1,
        1.78482653991729133580e0,
        5.46378491116411436990e0,
        6.65790464350110377720e0,
    ),
    (
        2.04426310338993978564e-15,
        1.42151175831644588870e-7,
        1.84631831751005468180e-5,
        7.86869131145613259100e-4,
        1.48753612908506148525e-2,
        1.36929880922735805310e-1,
        5.99832206555887937690e-1,
        1.0,
    ),
)


def _ratio(x: Array, table: tuple[tuple[float, ...], tuple[float, ...]]) -> Array:
    return _polynomial(x, table[0]) / _polynomial(x, table[1])


@_blockwise
def erfinv(x: Array) -> Array:
    """The inverse of erf: NaN outside [-1, 1], infinite at its ends."""
    half = 0.5 * x
    centre = half * _ratio(0.180625 - half * half, _CENTRE)
    radius = np.sqrt(-np.log(0.5 * (1.0 - np.abs(x))))  # NaN outside, inf at the ends
    finite = np.minimum(radius, 27.0)
    middle = _ratio(finite - 1.6, _MIDDLE)
    tail = np.where(finite > 5.0, _ratio(finite - 5.0, _TAIL), middle)
    outer = np.copysign(np.where(np.isinf(radius), np.inf, tail), x)
    return np.where(np.abs(half) <= 0.425, centre, outer) * math.sqrt(0.5)


_LGAMMA_OVERFLOW = 2.556348e305  # above, the result exceeds float64 (Cephes, MAXLGM)


def _lgamma_scalar(x: float) -> float:
    if x > _LGAMMA_OVERFLOW or (x <= 0.0 and (math.isinf(x) or x == math.floor(x))):
        return math.inf
    return math.lgamma(x)


@_blockwise
def lgamma(x: Array) -> Array:
    """log |gamma(x)|; infinite at 0 and the negative integers."""
    return np.fromiter(map(_lgamma_scalar, x.tolist()), np.float64, x.size)


# Asymptotic series of M. Abramowitz, I. A. Stegun, Handbook of Mathematical Functions,
# 6.3.18 (digamma) and 6.4.12 (trigamma), in powers of 1/x^2, highest first.
_DIGAMMA = (1 / 12, -691 / 32760, 1 / 132, -1 / 240, 1 / 252, -1 / 120, 1 / 12)
_TRIGAMMA = (7 / 6, -691 / 2730, 5 / 66, -1 / 30, 1 / 42, -1 / 30, 1 / 6)
_SHIFT = 10  # the series is used for arguments of at least this


@_blockwise
def digamma(x: Array) -> Array:
    """The logarithmic derivative of gamma: infinite at 0, NaN at the negative integers."""
    negative = x < 0.0
    z = np.where(negative, 1.0 - x, x)
    total = np.zeros_like(z)
    for _ in range(_SHIFT):
        small = z < _SHIFT
        total -= np.where(small, 1.0 / z, 0.0)
        z = np.where(small, z + 1.0, z)
    inverse = 1.0 / (z * z)
    total += np.log(z) - 0.5 / z - inverse * _polynomial(inverse, _DIGAMMA)
    if negative.any():
        fraction = x - np.rint(x)  # tan has period pi
        reflected = total - math.pi / np.tan(math.pi * fraction)
        reflected = np.where(fraction == 0.0, np.nan, reflected)
        total = np.where(negative, reflected, total)
    total = np.where(x == np.inf, np.inf, total)
    return np.where(x == 0.0, np.copysign(np.inf, -x), total)


@_blockwise
def trigamma(x: Array) -> Array:
    """The second derivative of log gamma; infinite at 0 and the negative integers."""
    negative = x < 0.0
    z = np.where(negative, 1.0 - x, x)
    total = np.zeros_like(z)
    for _ in range(_SHIFT):
        small = z < _SHIFT
        total += np.where(small, 1.0 / (z * z), 0.0)
        z = np.where(small, z + 1.0, z)
    inverse = 1.0 / (z * z)
    total += 1.0 / z + 0.5 * inverse + inverse * _polynomial(inverse, _TRIGAMMA) / z
    if negative.any():
        sine = np.sin(math.pi * (x - np.rint(x)))
        total = np.where(negative, (math.pi / sine) ** 2 - total, total)
    return total
