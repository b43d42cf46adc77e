"""The same elements in another order along dimensions: flip, roll, rot90; all are copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.dispatch import apply_named
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.arguments import listed
from flamec.functional.dimensions import dimension, dimensions, sequence, size
from flamec.functional.places import is_python_int
from flamec.functional.shape import clone, owned, ravel, reshaped, transpose, window
from flamec.fusing import fused
from flamec.ir.shape import format_shape, maximum, structurally_equal
from flamec.tensor import Tensor


@listed("dims")
@fused()
def flip(input: Tensor, *dims: Any) -> Tensor:
    """A copy with the order along ``dims`` reversed."""
    shape = input._type.shape
    if not dims:
        raise OperationTypeError(f"flip(): missing argument 'dims' (at {user_location()})")
    axes = dimensions("flip", sequence(dims), len(shape))
    if not shape:
        return clone(input)
    rank = range(len(shape))
    backwards: Tensor = apply_named(
        "slice",
        input,
        starts=tuple(shape[i] - 1 if i in axes else 0 for i in rank),
        sizes=shape,
        steps=tuple(-1 if i in axes else 1 for i in rank),
    )
    return owned(backwards)


def fliplr(input: Tensor) -> Tensor:
    """``flip`` of dimension 1."""
    if len(input._type.shape) < 2:
        raise OperationError(f"fliplr: the input must be >= 2-d (at {user_location()})")
    return flip(input, 1)


def flipud(input: Tensor) -> Tensor:
    """``flip`` of dimension 0."""
    if not input._type.shape:
        raise OperationError(f"flipud: the input must be >= 1-d (at {user_location()})")
    return flip(input, 0)


@fused()
def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """A copy turned by ``k`` times 90 degrees, from ``dims[0]`` towards ``dims[1]``."""
    rank = len(input._type.shape)
    if len(dims) != 2 or rank < 2:
        raise OperationError(
            f"rot90: needs 2 dims and at least 2 dimensions, got dims {list(dims)} for "
            f"{format_shape(input._type.shape)} (at {user_location()})"
        )
    first, second = dimensions("rot90", tuple(dims), rank)
    match k % 4:
        case 0:
            return clone(input)
        case 1:
            return owned(transpose(flip(input, second), first, second))
        case 2:
            return flip(input, first, second)
        case _:
            return owned(transpose(flip(input, first), first, second))


@fused("shifts")
def roll(
    input: Tensor, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None
) -> Tensor:
    """A copy with elements moved by ``shifts`` along ``dims``; those pushed out come back in front.

    Without ``dims`` the flattened tensor is rolled.
    """
    amounts = list(shifts) if isinstance(shifts, (tuple, list)) else [shifts]
    if dims is None:
        if len(amounts) != 1:
            raise OperationError(
                f"roll: shifts and dimensions must align, {len(amounts)} shifts without dims "
                f"(at {user_location()})"
            )
        return reshaped(_rolled(ravel(input), amounts[0], 0), input._type.shape)
    given = list(dims) if isinstance(dims, (tuple, list)) else [dims]
    if len(given) != len(amounts):
        raise OperationError(
            f"roll: shifts and dimensions must align, {len(amounts)} shifts and {len(given)} dims "
            f"(at {user_location()})"
        )
    result = input
    for amount, dim in zip(amounts, given, strict=True):
        result = _rolled(result, amount, dimension("roll", dim, len(input._type.shape)))
    return result if result is not input else clone(input)


def _rolled(input: Tensor, amount: Any, axis: int) -> Tensor:
    extent = input._type.shape[axis]
    if is_python_int(amount) and isinstance(extent, int) and extent:
        amount = amount % extent
    amount = size("roll", amount)
    shift = amount % maximum(extent, 1)
    if structurally_equal(shift, 0):
        return clone(input)
    front = window(input, axis, extent - shift, shift)
    back = window(input, axis, 0, extent - shift)
    result: Tensor = apply_named("concatenate", front, back, axis=axis)
    return result


TENSOR_METHODS = {function.__name__: function for function in (flip, fliplr, flipud, roll, rot90)}
