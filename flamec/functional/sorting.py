"""Order along one dimension: sort, argsort, msort, topk, kthvalue.

In: a tensor of any dtype and ``dim``. Out: values and their int64 positions along ``dim``. NaN
counts as greater than every number. The order is always stable, whether asked for or not.
Derivatives go to the places that the values came from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flamec import return_types
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.arguments import public
from flamec.functional.dimensions import dimension, size
from flamec.functional.primitives import ops
from flamec.functional.promotion import require_tensor
from flamec.functional.shape import window
from flamec.functional.unary import copied
from flamec.fusing import fused
from flamec.ir.shape import Dim, less
from flamec.ir.types import bool_, int64
from flamec.tensor import Tensor


def sorted_along(x: Tensor, axis: int, descending: bool = False) -> tuple[Tensor, Tensor]:
    """Values and positions of ``x``, which has at least one dimension, in order."""
    values, indices = ops.sort(x, axis=axis, descending=descending)
    return values, indices


def positions_along(shape: tuple[Dim, ...], axis: int, like: Tensor) -> Tensor:
    """The position along ``axis`` of each place of ``shape``, where ``like`` is."""
    positions: Tensor = ops.iota(shape=shape, axis=axis, dtype=int64, device=like._type.device)
    return positions


def picked(x: Tensor, places: Tensor, axis: int, inside: bool = False) -> Tensor:
    """``x`` at int64 ``places`` along ``axis``; elsewhere the places' own positions. ``inside``:
    all of them exist."""
    shape = places._type.shape
    indices = [places if i == axis else positions_along(shape, i, x) for i in range(len(shape))]
    result: Tensor = ops.index(x, *indices, **({"inside": True} if inside else {}))
    return result


def refuse_bool(name: str, x: Tensor) -> None:
    """TypeError for bool."""
    if x._type.dtype is bool_:
        raise OperationTypeError(f"{name}(): not defined for bool (at {user_location()})")


def without_axis(x: Tensor, axis: int) -> Tensor:
    """``x`` without a dimension of size 1."""
    shape = x._type.shape
    result: Tensor = ops.reshape(x, shape=(*shape[:axis], *shape[axis + 1 :]))
    return result


def zero_index(x: Tensor) -> Tensor:
    """The only position in a zero-dimensional tensor."""
    index: Tensor = ops.full(value=0, shape=(), dtype=int64, device=x._type.device)
    return index


@public
def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool | None = None) -> Any:
    """The elements along ``dim`` in order, and where they were, as (values, indices)."""
    require_tensor("sort", "input", input)
    axis = dimension("sort", dim, input.ndim)
    if not input.ndim:
        return return_types.sort(copied(input), zero_index(input))
    return return_types.sort(*sorted_along(input, axis, bool(descending)))


@public
def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    """Where the elements along ``dim`` stand in order."""
    result: Tensor = sort(input, dim, descending).indices
    return result


@public
def msort(input: Tensor) -> Tensor:
    """The elements along the first dimension in order."""
    result: Tensor = sort(input, 0).values
    return result


@public
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """The ``k`` largest or smallest elements along ``dim``, as (values, indices), in order.

    RuntimeError if there are fewer than ``k``.
    """
    require_tensor("topk", "input", input)
    refuse_bool("topk", input)
    axis = dimension("topk", dim, input.ndim)
    count = size("topk", k)
    available = input._type.shape[axis] if input.ndim else 1
    if less(count, 0) or less(available, count):
        raise OperationError(
            f"topk(): selected index k out of range: {count} of {available} elements "
            f"(at {user_location()})"
        )
    if not input.ndim:
        return return_types.topk(copied(input), zero_index(input))
    if isinstance(count, int):
        return return_types.topk(*ops.topk(input, axis=axis, count=count, largest=bool(largest)))
    values, indices = sorted_along(input, axis, bool(largest))
    return return_types.topk(
        copied(window(values, axis, 0, count)), copied(window(indices, axis, 0, count))
    )


@public
@fused("k")
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """The ``k``-th smallest element along ``dim`` (counted from 1), as (values, indices)."""
    require_tensor("kthvalue", "input", input)
    refuse_bool("kthvalue", input)
    axis = dimension("kthvalue", dim, input.ndim)
    number = size("kthvalue", k)
    available = input._type.shape[axis] if input.ndim else 1
    if less(number, 1) or less(available, number):
        raise OperationError(
            f"kthvalue(): selected number k out of range for dimension {dim}: {number} of "
            f"{available} elements (at {user_location()})"
        )
    if not input.ndim:
        return return_types.kthvalue(copied(input), zero_index(input))
    both = [copied(window(t, axis, number - 1, 1)) for t in sorted_along(input, axis)]
    return return_types.kthvalue(*(both if keepdim else [without_axis(t, axis) for t in both]))


__all__ = ["argsort", "kthvalue", "msort", "sort", "topk"]

TENSOR_METHODS: dict[str, Callable[..., Any]] = {name: globals()[name] for name in __all__}
