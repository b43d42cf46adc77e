"""``math`` of numbers that a program computes (what ``item()`` gives): in the program, too.

In: a function's name and its arguments. Out: a number of the program, in float64, where ``math``
raises nothing. Where it may raise an error (the logarithm of 0, a power that overflows), the
program is split, as for an ``if``, by whether the arguments are inside of the range in which it
cannot; outside of it, ``math`` itself is called with what they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flamec.dispatch import apply_named
from flamec.functional import arithmetic
from flamec.functional.promotion import convert_operands, is_number
from flamec.ir.types import float64, int64
from flamec.tensor import RuntimeNumber, Tensor

_MOST = 700.0  # e to this, and 2 to it, are far from an overflow
_LARGEST = float(1 << 62)


@dataclass(frozen=True)
class _InProgram:
    """``inside``: where ``math``'s function raises nothing and has an ordinary result; None:
    everywhere. ``overflows``: a number above which each gives an OverflowError."""

    function: Callable[..., Any]
    inside: Callable[..., Any] | None = None
    overflows: float = math.inf


def _whole(name: str) -> _InProgram:
    def function(x: Tensor) -> Tensor:
        result: Tensor = apply_named("convert", apply_named(name, x), dtype=int64)
        return result

    return _InProgram(function, lambda x: abs(x) < _LARGEST)


def _primitive(
    name: str, inside: Callable[..., Any] | None = None, overflows: float = math.inf
) -> _InProgram:
    return _InProgram(lambda x: apply_named(name, x), inside, overflows)


def _or_nan(inside: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The condition, or that the number is NaN, of which ``math`` makes NaN."""
    return lambda x: inside(x) | (x != x)


_finite = _or_nan(lambda x: abs(x) < math.inf)
_moderate = _or_nan(lambda x: (abs(x) < _MOST) | (abs(x) == math.inf))
_below = _or_nan(lambda x: (x < _MOST) | (x == math.inf))
_positive = _or_nan(lambda x: x > 0)


def _logarithm(x: Tensor, base: Tensor | None = None) -> Any:
    if base is None:
        return apply_named("log", x)
    return arithmetic.true_divide(apply_named("log", x), apply_named("log", base))


def _has_logarithm(x: Any, base: Any = None) -> Any:
    return _positive(x) if base is None else _positive(x) & _positive(base) & (base != 1)


_FUNCTIONS: dict[str, _InProgram] = {
    "sqrt": _primitive("sqrt", _or_nan(lambda x: x >= 0)),
    "exp": _primitive("exp", _below, 710.0),
    "expm1": _primitive("expm1", _below, 710.0),
    "exp2": _primitive("exp2", _below, 1024.0),
    "log": _InProgram(_logarithm, _has_logarithm),
    "log2": _primitive("log2", _positive),
    "log10": _primitive("log10", _positive),
    "log1p": _primitive("log1p", _or_nan(lambda x: x > -1)),
    "pow": _InProgram(
        arithmetic.pow, lambda x, y: (x > 0) & (abs(y * apply_named("log", x)) < _MOST)
    ),
    "fabs": _primitive("abs"),
    "sin": _primitive("sin", _finite),
    "cos": _primitive("cos", _finite),
    "tan": _primitive("tan", _finite),
    "asin": _primitive("asin", _or_nan(lambda x: abs(x) <= 1)),
    "acos": _primitive("acos", _or_nan(lambda x: abs(x) <= 1)),
    "atan": _primitive("atan"),
    "sinh": _primitive("sinh", _moderate),
    "cosh": _primitive("cosh", _moderate),
    "tanh": _primitive("tanh"),
    "erf": _primitive("erf"),
    "erfc": _primitive("erfc"),
    "degrees": _InProgram(lambda x: arithmetic.mul(x, 180.0 / math.pi)),
    "radians": _InProgram(lambda x: arithmetic.mul(x, math.pi / 180.0)),
    "floor": _whole("floor"),
    "ceil": _whole("ceil"),
    "trunc": _whole("trunc"),
}


def in_program(name: str, arguments: tuple[Any, ...]) -> Any:
    """The number that a program computes for ``math``'s function ``name``; None where Python must
    call it."""
    known = _FUNCTIONS.get(name)
    if known is None or not arguments:
        return None
    if not all(isinstance(a, RuntimeNumber) or is_number(a) for a in arguments):
        return None
    if name in ("floor", "ceil", "trunc") and not arguments[0]._type.dtype.is_floating_point:
        return arguments[0]
    operands = convert_operands(arguments, float64)
    if known.inside is not None and not bool(known.inside(*operands)):
        if known.overflows < math.inf:
            (x,) = operands
            if bool((x > known.overflows) & (x < math.inf)):  # the error needs no number
                raise OverflowError("math range error")
        return None
    return RuntimeNumber.of(known.function(*operands))
