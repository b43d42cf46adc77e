"""Hurwitz' zeta function.

Formulas: NIST Digital Library of Mathematical Functions (dlmf.nist.gov), 25.11.
"""

from __future__ import annotations

import math

from flamec.functional.arguments import public
from flamec.functional.arithmetic import Operand
from flamec.functional.creation import arange
from flamec.functional.elementwise import where
from flamec.functional.primitives import narrowed
from flamec.functional.promotion import (
    check_operands,
    convert_operands,
    float_dtype,
    result_dtype,
)
from flamec.fusing import fused
from flamec.tensor import Tensor

__all__ = ["zeta"]

_TERMS = 10  # behind which the series' remainder is below the rounding of float64
# B_2k / (2k)! for k from 1
_BERNOULLI = (
    1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000,
    1 / 74724249600, -3617 / 10670622842880000,
)  # fmt: skip


def _sum(x: Tensor, q: Tensor) -> Tensor:
    """The sum over k from 0 of (q + k)**-x for x > 1 and positive q: Euler and Maclaurin's formula
    (25.11.28)."""
    rank = max(x.ndim, q.ndim)
    places = arange(_TERMS, dtype=q.dtype, device=q.device).view(_TERMS, *(1,) * rank)
    end = q + _TERMS
    power = end**-x
    total = ((q + places) ** -x).sum(0) + power * end / (x - 1) + power * 0.5
    inverse = 1 / end
    factor = x * inverse
    for k, bernoulli in enumerate(_BERNOULLI):
        total = total + power * factor * bernoulli
        factor = factor * (x + (2 * k + 1)) * (x + (2 * k + 2)) * inverse * inverse
    return total


@public
@fused()
def zeta(input: Operand, other: Operand) -> Tensor:
    """The sum over k from 0 of ``(other + k) ** -input``; tensors or a number, which are broadcast.

    Infinite for input 1, and for other 0 and the negative integers; NaN for input below 1, and for
    negative other unless input is an integer. It has derivatives by both.
    """
    check_operands("zeta", (input, other))
    dtype = float_dtype(result_dtype(input, other))
    x, q = convert_operands((input, other), dtype.compute)
    pole = (x == 1) | ((q <= 0) & (q == q.floor()) & (x > 1))
    undefined = (x < 1) | ((q < 0) & (q != q.floor()) & (x != x.floor()))
    infinite = x == math.inf
    limit = where(q > 1, 0.0, where(q == 1, 1.0, where(q > 0, math.inf, math.nan)))
    usual = ~(pole | undefined | infinite)
    x, q = where(usual, x, 2.0), where(usual, q, 1.0)
    # what is below 0 are the terms of two sums of positive numbers, with signs of (-1)**x
    negative = q < 0
    fraction = where(negative, q - q.floor(), q)
    mirrored = where(negative, q.ceil() - q, 1.0)
    beyond = where(negative, 1 - q, 1.0)
    sign = 1 - 2 * (x % 2)
    below = (_sum(x, mirrored) - _sum(x, beyond)) * sign
    result = _sum(x, fraction) + where(negative, below, 0.0)
    result = where(infinite, limit, result)
    result = where(pole, math.inf, where(undefined, math.nan, result))
    return narrowed(result, dtype)
