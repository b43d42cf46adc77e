"""Derivatives of the logarithm of the gamma function, of every order.

Formulas: NIST Digital Library of Mathematical Functions (dlmf.nist.gov), 5.15.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.arguments import public
from flamec.functional.primitives import narrowed, ops, widened
from flamec.functional.unary import as_floating, digamma
from flamec.fusing import fused
from flamec.tensor import Tensor

__all__ = ["polygamma"]

# Bernoulli numbers B2, B4, ..., B16
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)


@public
def polygamma(n: int, input: Tensor) -> Tensor:
    """The ``n``-th derivative of digamma, which is the derivative of log gamma.

    At 0 and the negative integers: infinite, but NaN for n = 0. RuntimeError for negative ``n``.
    """
    if not isinstance(n, int) or isinstance(n, bool):
        raise OperationTypeError(
            f"polygamma(): argument 'n' must be int, not {type(n).__name__} (at {user_location()})"
        )
    if n < 0:
        raise OperationError(
            f"polygamma(n, x) does not support negative n: {n} (at {user_location()})"
        )
    x = as_floating("polygamma", input)
    if n == 0:
        return digamma(x)
    if n == 1:
        return narrowed(ops.polygamma1(widened(x)), x._type.dtype)
    return _of_higher_order(x, n)


@fused()
def _of_higher_order(input: Tensor, n: int) -> Tensor:
    """By recurrence (5.15.5) up to the asymptotic series (5.15.8); reflection (5.15.6) below 0."""
    x = widened(input)
    reflects = ops.lt(x, 0.0)
    z = ops.where(reflects, ops.sub(1.0, x), x)
    sign = 1.0 if n % 2 else -1.0
    factor = sign * (float(math.factorial(n)) if n <= 170 else math.inf)
    shift = 10 + 2 * n  # the series' remainder is below the rounding of float64 from there on
    total = _power(ops.div(1.0, z), n + 1)
    for k in range(1, shift):
        total = ops.add(total, _power(ops.div(1.0, ops.add(z, float(k))), n + 1))
    total = ops.mul(ops.add(total, _remaining(n, ops.add(z, float(shift)))), factor)
    # d^n/dx^n of pi cot(pi x) is pi^(n + 1) times a polynomial in cot(pi x)
    cotangent = _cotangent_of_turns(ops.where(reflects, ops.sub(x, ops.round(x)), 0.25))
    correction = ops.mul(_cotangent_derivative(n, cotangent), math.pi ** (n + 1))
    mirrored = ops.sub(ops.mul(total, -sign), correction)
    result = ops.where(reflects, mirrored, total)
    pole = ops.bitwise_and(ops.le(x, 0.0), ops.eq(x, ops.floor(x)))
    return narrowed(ops.where(pole, sign * math.inf, result), input._type.dtype)


def _power(x: Tensor, n: int) -> Tensor:
    """``x`` to the power of a positive integer, by repeated squaring."""
    result = None
    while n:
        if n % 2:
            result = x if result is None else ops.mul(result, x)
        n //= 2
        x = ops.mul(x, x) if n else x
    assert result is not None
    return result


def _remaining(n: int, z: Tensor) -> Tensor:
    """The sum of ``1 / (z + k) ** (n + 1)`` over k from 0, for large ``z``."""
    inverse = ops.div(1.0, z)
    square = ops.mul(inverse, inverse)
    series = _polynomial(
        [
            bernoulli * math.comb(2 * k + n - 1, n) / (2 * k)
            for k, bernoulli in enumerate(_BERNOULLI, 1)
        ],
        square,
    )
    series = ops.add(ops.mul(series, square), ops.add(ops.mul(inverse, 0.5), 1.0 / n))
    return ops.mul(series, _power(inverse, n))


def _cotangent_of_turns(x: Tensor) -> Tensor:
    """cot(pi x) for x from -1/2 to 1/2, exactly 0 at the ends."""
    size = ops.abs(x)
    far = ops.gt(size, 0.25)
    angle = ops.mul(ops.where(far, ops.sub(0.5, size), size), math.pi)
    sine, cosine = ops.sin(angle), ops.cos(angle)
    cotangent = ops.div(ops.where(far, sine, cosine), ops.where(far, cosine, sine))
    return ops.mul(cotangent, ops.sign(x))


def _cotangent_derivative(n: int, cotangent: Tensor) -> Tensor:
    """The ``n``-th derivative of the cotangent; the derivative of c is -(1 + c^2)."""
    coefficients = [0, 1]
    for _ in range(n):
        slopes = [power * c for power, c in enumerate(coefficients)][1:]
        coefficients = [
            -(low + high) for low, high in zip([*slopes, 0, 0], [0, 0, *slopes], strict=True)
        ]
    return _polynomial([float(c) for c in coefficients], cotangent)


def _polynomial(coefficients: list[float], x: Tensor) -> Tensor:
    """By Horner's rule, the lowest power first."""
    result: Any = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        result = ops.mul(x, result)
        if coefficient:
            result = ops.add(result, coefficient)
    return result


def _polygamma_method(self: Tensor, n: int) -> Tensor:
    """``polygamma(n, self)``."""
    return polygamma(n, self)


TENSOR_METHODS: dict[str, Callable[..., Tensor]] = {"polygamma": _polygamma_method}
IN_PLACE: tuple[str, ...] = tuple(TENSOR_METHODS)
