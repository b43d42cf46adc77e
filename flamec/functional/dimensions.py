"""Arguments that name dimensions and sizes, brought into canonical form.

In: what a user writes (negative dimensions, sizes as separate arguments or as one
sequence, NumPy integers, symbolic sizes). Out: nonnegative dimensions and tuples
of sizes. Errors name the function and the permitted range, as PyTorch's do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.host_numbers import expression_of
from flamec.ir.shape import Dim, SymbolicDim
from flamec.tensor import RuntimeNumber, Tensor
from flamec.values import as_size


def dimension(name: str, dim: Any, rank: int) -> int:
    """``dim`` counted from the front; IndexError outside [-rank, rank - 1].

    A zero-dimensional tensor accepts the dimensions -1 and 0.
    """
    if isinstance(dim, RuntimeNumber):
        dim = dim.read()
    if isinstance(dim, (bool, float)) or not isinstance(dim, (int, np.integer)):
        raise OperationTypeError(
            f"{name}(): a dimension must be an int, not {type(dim).__name__} (at {user_location()})"
        )
    dim = int(dim)
    count = max(rank, 1)
    if not -count <= dim < count:
        raise IndexError(
            f"{name}(): Dimension out of range (expected to be in range of [{-count}, {count - 1}],"
            f" but got {dim}) (at {user_location()})"
        )
    return dim % count


def dimensions(name: str, dims: Any, rank: int) -> tuple[int, ...]:
    """One or several dimensions, in the given order; an error if one occurs twice."""
    given = dims if isinstance(dims, (tuple, list)) else (dims,)
    result = tuple(dimension(name, d, rank) for d in given)
    if len(set(result)) != len(result):
        raise OperationError(
            f"{name}(): duplicate dims are not allowed: {list(given)} (at {user_location()})"
        )
    return result


def size(name: str, value: Any) -> Dim:
    """One size or count: an int, a symbolic size, or something that acts as an int."""
    if isinstance(value, SymbolicDim) or type(value) is int:
        return value
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, Tensor) and not value.shape and value.dtype.kind in ("int", "uint"):
        expression = expression_of(value)
        if expression is not None and expression.value < 0:  # which is none, or means something
            return int(value)
        return as_size(value, f"{name}()")
    raise OperationTypeError(
        f"{name}(): a size must be an int, not {type(value).__name__} (at {user_location()})"
    )


def signed_size(name: str, value: Any) -> Dim:
    """As ``size``, for what may as well be negative."""
    return as_size(value, f"{name}()") if isinstance(value, RuntimeNumber) else size(name, value)


def sizes(name: str, given: Sequence[Any]) -> tuple[Dim, ...]:
    """The sizes of ``f(2, 3)`` as well as of ``f((2, 3))``."""
    if len(given) == 1 and isinstance(given[0], Iterable) and not _is_scalar(given[0]):
        given = tuple(given[0])
    for d in given:
        if type(d) is not int:
            return tuple([size(name, d) for d in given])
    return tuple(given)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.shape


def sequence(given: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments of ``f(a, b)`` as well as of ``f((a, b))``."""
    if len(given) == 1 and isinstance(given[0], (tuple, list)):
        return tuple(given[0])
    return tuple(given)
