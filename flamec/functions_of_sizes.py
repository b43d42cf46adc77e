"""Python's ``len``, ``min`` and ``max`` of sizes that vary while a function is traced.

``len`` must give an int, so it would take the size at hand, with a program for each; ``min`` and
``max`` compare, with a program for each answer. In the user's code they give sizes, and of other
numbers that vary what each call computes.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce, wraps
from typing import Any

from flamec.errors import is_framework_file
from flamec.host_numbers import computed, computed_of_sizes
from flamec.ir.shape import SymbolicDim, maximum, minimum
from flamec.tensor import RuntimeNumber, Size, Tensor


@contextmanager
def functions_of_sizes() -> Iterator[None]:
    """In the block ``len`` of a tensor, and the least or greatest of sizes, may be symbolic."""
    originals = builtins.len, builtins.min, builtins.max
    builtins.len = _length(builtins.len)
    builtins.min, builtins.max = _extreme(min, minimum), _extreme(max, maximum)
    try:
        yield
    finally:
        builtins.len, builtins.min, builtins.max = originals


def _length(original: Callable[..., Any]) -> Callable[..., Any]:
    def len(obj: Any, /) -> Any:
        if isinstance(obj, Tensor) and obj._type.shape:
            size = obj._type.shape[0]
            if type(size) is SymbolicDim and _asks_user(2):
                return size
        return original(obj)

    return len


def _extreme(original: Callable[..., Any], of_two: Callable[[Any, Any], Any]) -> Any:
    @wraps(original)
    def extreme(*arguments: Any, **options: Any) -> Any:
        if not options:
            values = arguments
            if len(arguments) == 1 and type(arguments[0]) in (tuple, list, Size):
                values = arguments[0]
            if any(isinstance(v, (SymbolicDim, RuntimeNumber)) for v in values) and _asks_user(2):
                found = _of_numbers(original, of_two, values)
                if found is not None:
                    return found
        return original(*arguments, **options)

    return extreme


def _of_numbers(
    original: Callable[..., Any], of_two: Callable[[Any, Any], Any], values: Sequence[Any]
) -> Any:
    """The least or the greatest of numbers of which one varies; None if that must be asked."""
    if all(type(v) in (int, SymbolicDim) for v in values):
        return reduce(of_two, values)
    if values[1:]:
        found = computed(original, *values)
        return computed_of_sizes(original, *values) if found is None else found
    return None


def _asks_user(depth: int) -> bool:
    """Whether the function that is so many calls above this one was called by the user's code."""
    return not is_framework_file(sys._getframe(depth).f_code.co_filename)
