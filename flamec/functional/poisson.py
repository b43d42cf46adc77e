"""Poisson random numbers.

In: rates, not negative, of a floating-point dtype. Out: a number for each, of the same dtype. The
same seed gives the same numbers eager and compiled. No gradient flows to the rates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flamec.errors import OperationTypeError, user_location
from flamec.functional.arguments import public
from flamec.functional.primitives import ops
from flamec.functional.promotion import require_tensor
from flamec.fusing import fused
from flamec.ir.types import float64
from flamec.random import Generator, uniform_numbers
from flamec.tensor import Tensor
from flamec.values import required

_SMALL = 10.0  # rates below are inverted, those above drawn by rejection
_TERMS = 60  # a rate of 10 gives more once in 1e25 draws
_ROUNDS = 24  # each accepts 3 of 4 proposals or more, so all refuse once in 1e14 draws


@public
def poisson(input: Tensor, generator: Generator | None = None) -> Tensor:
    """A draw from the Poisson distribution of each rate."""
    require_tensor("poisson", "input", input)
    dtype = input._type.dtype
    if not dtype.is_floating_point:
        raise OperationTypeError(f"poisson(): not defined for {dtype.name} (at {user_location()})")
    message = "poisson(): invalid Poisson rate, expected rate to be non-negative"
    rate = ops.cast(required(ops.detach(input), lambda r: r >= 0, message), float64)
    numbers = _numbers
    if rate._type.device.type != "cpu":  # where one program would take half a minute to compile
        numbers = _numbers.__wrapped__  # type: ignore[attr-defined]
    result: Tensor = ops.cast(numbers(rate, _ROUNDS, generator), dtype)
    return result


@fused()
def _numbers(rate: Tensor, rounds: int, generator: Generator | None) -> Tensor:
    """A number for each rate, all float64; of ``rounds`` proposals the first accepted one."""
    shape, device = rate._type.shape, rate._type.device
    draws = uniform_numbers((2 * rounds, *shape), float64, device, generator)
    first = ops.reshape(_row(draws, 0), shape=shape)
    few = _inverted(ops.minimum(rate, _SMALL), first)
    many = _accepted(ops.maximum(rate, _SMALL), draws, rounds)
    chosen: Tensor = ops.where(ops.lt(rate, _SMALL), few, many)
    return chosen


def _row(draws: Tensor, number: int) -> Tensor:
    shape = draws._type.shape
    rest = (0,) * (len(shape) - 1)
    one = ops.slice(draws, starts=(number, *rest), sizes=(1, *shape[1:]), steps=(1,) * len(shape))
    result: Tensor = ops.reshape(one, shape=shape[1:])
    return result


def _inverted(rate: Tensor, u: Tensor) -> Tensor:
    """The least k whose distribution function is above u."""
    term = ops.exp(ops.neg(rate))
    total, count = term, ops.mul(term, 0.0)
    for k in range(1, _TERMS):
        count = ops.add(count, ops.cast(ops.ge(u, total), float64))
        term = ops.mul(term, ops.mul(rate, 1 / k))
        total = ops.add(total, term)
    return count


def _accepted(rate: Tensor, draws: Tensor, rounds: int) -> Tensor:
    """Transformed rejection with squeeze: Hörmann, "The transformed rejection method for
    generating Poisson random variables", Insurance: Mathematics and Economics 12, 1993, PTRS."""
    b = ops.add(ops.mul(ops.sqrt(rate), 2.53), 0.931)
    a = ops.add(ops.mul(b, 0.02483), -0.059)
    inverse_alpha = ops.add(ops.div(1.1328, ops.sub(b, 3.4)), 1.1239)
    squeeze = ops.sub(0.9277, ops.div(3.6224, ops.sub(b, 2.0)))
    log_rate = ops.log(rate)
    result: Tensor = ops.floor(rate)
    for number in reversed(range(rounds)):  # so that the first round that accepts is the last
        u = ops.sub(_row(draws, 2 * number), 0.5)
        v = _row(draws, 2 * number + 1)
        edge = ops.sub(0.5, ops.abs(u))
        slope = ops.add(ops.div(ops.mul(a, 2.0), edge), b)
        k = ops.floor(ops.add(ops.add(ops.mul(slope, u), rate), 0.43))
        quick = ops.bitwise_and(ops.ge(edge, 0.07), ops.le(v, squeeze))
        refused = ops.bitwise_or(
            ops.lt(k, 0.0), ops.bitwise_and(ops.lt(edge, 0.013), ops.gt(v, edge))
        )
        density = ops.add(ops.div(a, ops.mul(edge, edge)), b)
        left = ops.log(ops.div(ops.mul(v, inverse_alpha), density))
        right = ops.sub(ops.sub(ops.mul(k, log_rate), rate), ops.lgamma(ops.add(k, 1.0)))
        slow = ops.bitwise_and(ops.bitwise_not(refused), ops.le(left, right))
        result = ops.where(ops.bitwise_or(quick, slow), k, result)
    return result


__all__ = ["poisson"]

TENSOR_METHODS: dict[str, Callable[..., Any]] = {}
