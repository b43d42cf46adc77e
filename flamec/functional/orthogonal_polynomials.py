"""Orthogonal polynomials, by their recurrences.

In: x and a degree n, tensors that are broadcast, or one of them a number; n is cut to an integer.
Out: the polynomial of each degree at each x; 0 for negative degrees. A degree that is a number is a
chain of operations; one that is a tensor a loop up to the largest. Recurrences: NIST Digital
Library of Mathematical Functions (dlmf.nist.gov), 18.9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flamec.conditional import while_loop
from flamec.functional.arguments import public
from flamec.functional.arithmetic import Operand
from flamec.functional.creation import zeros, zeros_like
from flamec.functional.elementwise import where
from flamec.functional.primitives import narrowed
from flamec.functional.promotion import (
    check_operands,
    convert_operands,
    float_dtype,
    is_number,
    result_dtype,
)
from flamec.functional.shape import broadcast_tensors
from flamec.ir.types import bool_, int64
from flamec.tensor import Tensor

__all__ = [
    "chebyshev_polynomial_t", "chebyshev_polynomial_u", "chebyshev_polynomial_v",
    "chebyshev_polynomial_w", "hermite_polynomial_h", "hermite_polynomial_he",
    "laguerre_polynomial_l", "legendre_polynomial_p", "shifted_chebyshev_polynomial_t",
    "shifted_chebyshev_polynomial_u", "shifted_chebyshev_polynomial_v",
    "shifted_chebyshev_polynomial_w",
]  # fmt: skip

# x, k and the polynomials of the degrees k and k - 1 -> that of degree k + 1, for k from 1
Recurrence = Callable[[Tensor, Any, Tensor, Tensor], Tensor]

_LONGEST_CHAIN = 64  # degrees that are written out


def _chebyshev(x: Tensor, k: Any, p: Tensor, before: Tensor) -> Tensor:
    return 2 * x * p - before


def _hermite(x: Tensor, k: Any, p: Tensor, before: Tensor) -> Tensor:
    return 2 * (x * p - k * before)


def _hermite_of_probability(x: Tensor, k: Any, p: Tensor, before: Tensor) -> Tensor:
    return x * p - k * before


def _laguerre(x: Tensor, k: Any, p: Tensor, before: Tensor) -> Tensor:
    return ((2 * k + 1 - x) * p - k * before) / (k + 1)


def _legendre(x: Tensor, k: Any, p: Tensor, before: Tensor) -> Tensor:
    return ((2 * k + 1) * x * p - k * before) / (k + 1)


def _constant(x: Tensor, value: float) -> Tensor:
    """``value`` for every x, also infinite ones; its derivative by x is 0."""
    return where(zeros_like(x, dtype=bool_), x, value)


def _of_number(x: Tensor, n: int, first: Tensor, step: Recurrence) -> Tensor:
    before, p = _constant(x, 1.0), first
    if n <= 0:
        return before if n == 0 else _constant(x, 0.0)
    for k in range(1, n):
        before, p = p, step(x, k, p, before)
    return p


def _of_tensor(x: Tensor, n: Tensor, first: Tensor, step: Recurrence) -> Tensor:
    one = _constant(x, 1.0)
    found = where(n == 0, one, where(n == 1, first, 0.0))
    if not n.numel():
        return found
    largest = n.max()

    def more(k: Tensor, p: Tensor, before: Tensor, found: Tensor) -> Tensor:
        return k < largest

    def next_degree(
        k: Tensor, p: Tensor, before: Tensor, found: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        following = step(x, k.to(x.dtype), p, before)
        return k + 1, following, p, where(n == k + 1, following, found)

    start = zeros((), dtype=int64, device=x.device) + 1
    result: Tensor = while_loop(more, next_degree, (start, first, one, found))[3]
    return result


def _declare(
    name: str, doc: str, first: Callable[[Tensor], Tensor], step: Recurrence, shifted: bool = False
) -> Callable[..., Tensor]:
    def function(input: Operand, n: Operand) -> Tensor:
        check_operands(name, (input, n))
        dtype = float_dtype(result_dtype(input, n))
        (x,) = convert_operands((input,), dtype.compute)
        x = 2 * x - 1 if shifted else x
        if is_number(n) and int(n) <= _LONGEST_CHAIN:
            return narrowed(_of_number(x, int(n), first(x), step), dtype)
        (degree,) = convert_operands((n,), int64)
        x, degree = broadcast_tensors(x, degree)
        return narrowed(_of_tensor(x, degree, first(x), step), dtype)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return public(function)


def _twice(x: Tensor) -> Tensor:
    return 2 * x


_FIRST: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "t": ("cos(n a)", lambda x: x),
    "u": ("sin((n + 1) a) / sin(a)", _twice),
    "v": ("cos((n + 1/2) a) / cos(a / 2)", lambda x: 2 * x - 1),
    "w": ("sin((n + 1/2) a) / sin(a / 2)", lambda x: 2 * x + 1),
}


def _of_kind(kind: str, shifted: bool) -> Callable[..., Tensor]:
    formula, first = _FIRST[kind]
    prefix, where_ = ("shifted_", "2 x - 1") if shifted else ("", "x")
    doc = f"Chebyshev's polynomial of degree n: {formula} with cos(a) = {where_}."
    return _declare(f"{prefix}chebyshev_polynomial_{kind}", doc, first, _chebyshev, shifted)


chebyshev_polynomial_t = _of_kind("t", False)
chebyshev_polynomial_u = _of_kind("u", False)
chebyshev_polynomial_v = _of_kind("v", False)
chebyshev_polynomial_w = _of_kind("w", False)
shifted_chebyshev_polynomial_t = _of_kind("t", True)
shifted_chebyshev_polynomial_u = _of_kind("u", True)
shifted_chebyshev_polynomial_v = _of_kind("v", True)
shifted_chebyshev_polynomial_w = _of_kind("w", True)
hermite_polynomial_h = _declare(
    "hermite_polynomial_h", "Hermite's polynomial for the weight exp(-x^2).", _twice, _hermite
)
hermite_polynomial_he = _declare(
    "hermite_polynomial_he",
    "Hermite's polynomial for the weight exp(-x^2 / 2).",
    lambda x: x,
    _hermite_of_probability,
)
laguerre_polynomial_l = _declare(
    "laguerre_polynomial_l", "Laguerre's polynomial.", lambda x: 1 - x, _laguerre
)
legendre_polynomial_p = _declare(
    "legendre_polynomial_p", "Legendre's polynomial.", lambda x: x, _legendre
)
