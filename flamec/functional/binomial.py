"""Binomial random numbers.

In: counts and probabilities of one floating-point dtype and shape. Out: a number for each. The same
seed gives the same numbers eager and compiled. No gradient flows to the parameters.
"""

from __future__ import annotations

from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.arguments import public
from flamec.functional.elementwise import clamp, maximum, minimum, where
from flamec.functional.promotion import require_tensor
from flamec.functional.shape import broadcast_tensors
from flamec.functional.unary import floor, lgamma, log1p
from flamec.ir.types import float64
from flamec.random import Generator, uniform_numbers
from flamec.state import no_grad
from flamec.tensor import Tensor
from flamec.values import required, within

__all__ = ["binomial"]

_SMALL = 10.0  # means below are inverted, those above drawn by rejection
_TERMS = 60  # a mean of 10 gives more once in 1e25 draws
_ROUNDS = 24  # each accepts 2 of 3 proposals or more, so all refuse once in 1e11 draws


@public
def binomial(count: Tensor, prob: Tensor, generator: Generator | None = None) -> Tensor:
    """How many of ``count`` trials succeed, each with probability ``prob``.

    ``count`` are whole numbers, but of the dtype of ``prob``, which is the result's. RuntimeError
    for integers, for different dtypes, and for values that are not allowed.
    """
    for name, value in (("count", count), ("prob", prob)):
        require_tensor("binomial", name, value)
        if not value.dtype.is_floating_point:
            raise OperationTypeError(
                f"binomial only supports floating-point dtypes for {name}, got: "
                f"{value.dtype.name} (at {user_location()})"
            )
    if count.dtype is not prob.dtype:
        raise OperationError(
            f"binomial: found dtype {prob.dtype.name} but expected {count.dtype.name} "
            f"(at {user_location()})"
        )
    with no_grad():
        n, p = (x.to(float64) for x in broadcast_tensors(count, prob))
        n, p = _checked(n, p)
        few = p <= 0.5
        q = where(few, p, 1 - p)
        draws = uniform_numbers((2 * _ROUNDS, *n.shape), float64, n.device, generator)
        small = n * q < _SMALL
        inverted = _inverted(n, where(small, q, 0.0), draws[0])
        drawn = where(
            small, inverted, _accepted(where(small, 40.0, n), where(small, 0.5, q), draws)
        )
        return where(few, drawn, n - drawn).to(prob.dtype)


def _checked(n: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    n = required(n, lambda n: n >= 0, "binomial: count must not be negative")
    return n, required(p, within(0, 1), "binomial: prob must lie between 0 and 1")


def _inverted(n: Tensor, p: Tensor, u: Tensor) -> Tensor:
    """The least k whose distribution function is above u."""
    odds = p / (1 - p)
    term = (n * log1p(-p)).exp()
    total, found = term, term * 0
    for k in range(1, _TERMS):
        found = found + (u >= total).to(float64)
        term = term * odds * (n - (k - 1)) / k
        total = total + maximum(term, term * 0)
    return minimum(found, n)


def _accepted(n: Tensor, p: Tensor, draws: Tensor) -> Tensor:
    """Transformed rejection with squeeze: W. Hörmann, "The generation of binomial random variates",
    Journal of Statistical Computation and Simulation 46 (1993), BTRS."""
    spread = (n * p * (1 - p)).sqrt()
    b = 1.15 + 2.53 * spread
    a = -0.0873 + 0.0248 * b + 0.01 * p
    alpha = (2.83 + 5.1 / b) * spread
    squeeze = 0.92 - 4.2 / b
    mode = floor((n + 1) * p)
    log_odds = (p / (1 - p)).log()
    at_mode = lgamma(mode + 1) + lgamma(n - mode + 1)
    result = mode
    for number in reversed(range(_ROUNDS)):  # so that the first round that accepts is the last
        u, v = draws[2 * number] - 0.5, draws[2 * number + 1]
        edge = 0.5 - u.abs()
        k = floor((2 * a / edge + b) * u + n * p + 0.5)
        inside = (k >= 0) & (k <= n)
        quick = (edge >= 0.07) & (v <= squeeze)
        there = clamp(k, 0).minimum(n)
        left = (v * alpha / (a / (edge * edge) + b)).log()
        right = at_mode - lgamma(there + 1) - lgamma(n - there + 1) + (k - mode) * log_odds
        result = where(inside & (quick | (left <= right)), k, result)
    return result
