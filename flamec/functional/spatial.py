"""What functions over spatial dimensions share: arguments for each of them, inputs without a batch.

In: arguments as users give them, numbers or one number for each spatial dimension. Out:
tuples. Errors name the function, the argument and the shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.primitives import ops, require
from flamec.functional.promotion import require_tensor
from flamec.ir.shape import Dim, SymbolicDim, format_shape
from flamec.tensor import Tensor


def per_dimension(function: str, argument: str, value: Any, count: int) -> tuple[int, ...]:
    """``value`` for each of ``count`` dimensions; one entry stands for all of them."""
    entries = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if len(entries) == 1:
        entries = entries * count
    if len(entries) != count:
        raise OperationError(
            f"{function}: {argument} must be a number or {count} of them, got {value} "
            f"(at {user_location()})"
        )
    for entry in entries:
        if isinstance(entry, (bool, float)) or not hasattr(entry, "__index__"):
            raise OperationTypeError(
                f"{function}(): argument '{argument}' must be int or a tuple of ints, not "
                f"{type(entry).__name__} (at {user_location()})"
            )
    sizes: list[Any] = [e if isinstance(e, SymbolicDim) else int(e) for e in entries]
    return tuple(sizes)


def require_positive(function: str, **arguments: Sequence[int]) -> None:
    """RuntimeError unless every entry of every argument is greater than 0."""
    for name, entries in arguments.items():
        require(all(e > 0 for e in entries), f"{function}: {name} must be greater than zero")


def batched(function: str, input: Tensor, spatial: int) -> tuple[Tensor, bool]:
    """[N, C, *spatial], from an input that may lack N, and whether it did."""
    require_tensor(function, "input", input)
    shape = input._type.shape
    if len(shape) == spatial + 2:
        return input, False
    if len(shape) == spatial + 1:
        return ops.reshape(input, shape=(1, *shape)), True
    raise OperationError(
        f"Expected {spatial + 1}D (unbatched) or {spatial + 2}D (batched) input to {function}, but "
        f"got input of size: {format_shape(shape)} (at {user_location()})"
    )


def unbatched(result: Tensor, was_single: bool) -> Tensor:
    """The result without the batch dimension that ``batched`` added."""
    return ops.reshape(result, shape=result._type.shape[1:]) if was_single else result


def slices(x: Tensor, starts: Sequence[Dim], sizes: Sequence[Dim]) -> Tensor:
    """A part of an array, as a view."""
    return ops.slice(x, starts=tuple(starts), sizes=tuple(sizes), steps=(1,) * len(sizes))
