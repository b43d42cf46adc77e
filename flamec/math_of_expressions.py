"""Python's ``math`` of numbers that vary while a function is traced.

In: calls of functions of ``math`` in a block. Out: for numbers of Python's state that vary
(``host_numbers.py``), numbers that the program's call computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from flamec.host_numbers import computed
from flamec.tensor import RuntimeNumber

MATH_NAMES = (
    *("sqrt", "exp", "expm1", "log", "log2", "log10", "log1p", "pow", "fabs", "fmod", "hypot"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "degrees"),
    *("radians", "copysign", "erf", "erfc", "gamma", "lgamma", "floor", "ceil", "trunc"),
)


@contextmanager
def math_of_expressions() -> Iterator[None]:
    """In the block the functions of ``math`` take numbers that vary."""
    originals = {name: getattr(math, name) for name in MATH_NAMES}
    for name, function in originals.items():
        setattr(math, name, _of_expressions(function))
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
