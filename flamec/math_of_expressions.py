"""Python's ``math`` of numbers that vary while a function is traced.

In: calls of functions of ``math`` in a block. Out: for numbers of Python's state that vary
(``host_numbers.py``), numbers that the program's call computes; for those and for what ``item()``
gives, whether they are finite, as conditions of the program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from flamec.host_numbers import computed, decide
from flamec.tensor import RuntimeNumber, Tensor

MATH_NAMES = (
    *("sqrt", "exp", "expm1", "log", "log2", "log10", "log1p", "pow", "fabs", "fmod", "hypot"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "degrees"),
    *("radians", "copysign", "erf", "erfc", "gamma", "lgamma", "floor", "ceil", "trunc"),
)
PREDICATES: dict[str, Callable[[Any], Any]] = {
    "isfinite": lambda x: abs(x) < math.inf,
    "isinf": lambda x: abs(x) == math.inf,
    "isnan": lambda x: x != x,
}


@contextmanager
def math_of_expressions() -> Iterator[None]:
    """In the block the functions of ``math`` take numbers that vary."""
    originals = {name: getattr(math, name) for name in (*MATH_NAMES, *PREDICATES)}
    for name, function in originals.items():
        compare = PREDICATES.get(name)
        made = _of_expressions(function) if compare is None else _condition(function, compare)
        setattr(math, name, made)
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(math, name, function)


def _of_expressions(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any) -> Any:
        if any(isinstance(a, RuntimeNumber) for a in arguments):
            found = computed(function, *arguments)
            if found is not None:
                return found
        return function(*arguments)

    return call


def _condition(function: Callable[[Any], bool], compare: Callable[[Any], Any]) -> Any:
    @wraps(function)
    def call(x: Any, /) -> bool:
        if isinstance(x, Tensor) and x._trace is not None and not x._type.shape:
            found = decide(function, x) if isinstance(x, RuntimeNumber) else None
            if found is None and x._type.dtype.is_floating_point:
                found = bool(compare(x))  # where the program is split
            if found is not None:
                return found
        return function(x)

    return call
