"""``math``, and NumPy's functions of one number, of what varies while a function is traced.

In: calls of these functions in a block. Out: for numbers of Python's state that vary
(``host_numbers.py``), and for sizes, numbers that the program's call computes; for what ``item()``
gives, numbers that the program computes (``math_in_programs.py``); for all of them, whether they
are finite, as conditions of the program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np

from flamec.host_numbers import computed, computed_of_sizes, decide
from flamec.ir.shape import SymbolicDim
from flamec.math_in_programs import in_program
from flamec.tensor import RuntimeNumber, Tensor

MATH_NAMES = (
    *("sqrt", "exp", "expm1", "log", "log2", "log10", "log1p", "pow", "fabs", "fmod", "hypot"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "degrees"),
    *("radians", "copysign", "erf", "erfc", "gamma", "lgamma", "floor", "ceil", "trunc"),
    *("cbrt", "exp2", "isqrt", "gcd", "lcm", "comb", "perm", "factorial"),
)
NUMPY_NAMES = ("sqrt", "cbrt", "exp", "log", "log2", "log10", "log1p", "floor", "ceil", "rint")
PREDICATES: dict[str, Callable[[Any], Any]] = {
    "isfinite": lambda x: abs(x) < math.inf,
    "isinf": lambda x: abs(x) == math.inf,
    "isnan": lambda x: x != x,
}
_WHOLE = (math.floor, math.ceil, math.trunc)


@contextmanager
def math_of_expressions() -> Iterator[None]:
    """In the block these functions take numbers and sizes that vary."""
    originals = [(math, name, getattr(math, name)) for name in (*MATH_NAMES, *PREDICATES)]
    originals += [(np, name, getattr(np, name)) for name in NUMPY_NAMES]
    for module, name, function in originals:
        compare = PREDICATES.get(name) if module is math else None
        known = name if module is math else ""
        made = (
            _of_expressions(known, function) if compare is None else _condition(function, compare)
        )
        setattr(module, name, made)
    try:
        yield
    finally:
        for module, name, function in originals:
            setattr(module, name, function)


def _of_expressions(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if not options and any(type(a) is SymbolicDim for a in arguments):
            found = _of_sizes(function, arguments)
        elif not options and any(isinstance(a, RuntimeNumber) for a in arguments):
            found = computed(function, *arguments)
            found = _of_sizes(function, arguments) if found is None else found
            found = in_program(name, arguments) if found is None else found
        else:
            found = None
        return function(*arguments, **options) if found is None else found

    return call


def _of_sizes(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    if function in _WHOLE and all(type(a) is SymbolicDim for a in arguments):
        return None  # a size is whole
    return computed_of_sizes(function, *arguments)


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
