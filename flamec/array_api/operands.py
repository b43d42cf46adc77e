"""Operands of the standard's functions: tensors, of which at most one of two may be a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flamec.errors import OperationTypeError, user_location
from flamec.functional.creation import full
from flamec.functional.promotion import is_number, promote_types
from flamec.ir.types import DType, int64
from flamec.tensor import Tensor

__all__ = ["accumulated", "axes_of", "binary", "pair", "unary"]


def pair(name: str, x1: Any, x2: Any) -> tuple[Tensor, Tensor]:
    """Both as tensors of one dtype; a number gets the other's. TypeError for two numbers.

    The standard promotes zero-dimensional arrays like others, PyTorch does not.
    """
    if isinstance(x1, Tensor):
        if not isinstance(x2, Tensor):
            return x1, _number(name, x2, x1)
        dtype = promote_types(x1.dtype, x2.dtype)
        return x1.to(dtype), x2.to(dtype)
    if isinstance(x2, Tensor):
        return _number(name, x1, x2), x2
    raise OperationTypeError(
        f"{name}(): at least one operand must be an array (at {user_location()})"
    )


def _number(name: str, value: Any, like: Tensor) -> Tensor:
    if not is_number(value):
        raise OperationTypeError(
            f"{name}(): expected an array or a number, not {type(value).__name__} "
            f"(at {user_location()})"
        )
    dtype = like.dtype
    if dtype.kind == "bool":
        fits = isinstance(value, bool)
    else:
        fits = dtype.is_floating_point or not isinstance(value, float)
    if not fits:
        raise OperationTypeError(
            f"{name}(): a Python {type(value).__name__} cannot be combined with an array of "
            f"dtype {dtype.name} (at {user_location()})"
        )
    return full((), value, dtype=dtype, device=like.device)


def unary(function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    """The function of one array alone."""

    def of_array(x: Tensor, /) -> Tensor:
        return function(x)

    of_array.__name__ = of_array.__qualname__ = function.__name__
    of_array.__doc__ = function.__doc__
    return of_array


def binary(name: str, function: Callable[..., Tensor]) -> Callable[[Any, Any], Tensor]:
    """The function of two operands, of which one may be a number."""

    def of_two(x1: Any, x2: Any, /) -> Tensor:
        return function(*pair(name, x1, x2))

    of_two.__name__ = of_two.__qualname__ = name
    of_two.__doc__ = function.__doc__
    return of_two


def axes_of(x: Tensor, axis: Any) -> tuple[int, ...]:
    """``axis`` (None: all) as a tuple of dimensions."""
    if axis is None:
        return tuple(range(x.ndim))
    return (axis,) if isinstance(axis, int) else tuple(axis)


def accumulated(x: Tensor, dtype: DType | None) -> Tensor:
    """``x`` in the dtype in which the standard sums: at least the default integer."""
    if dtype is None:
        dtype = x.dtype if x.dtype.is_floating_point else int64
    converted: Tensor = x.to(dtype)
    return converted
