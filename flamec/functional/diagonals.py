"""Diagonals and triangles of matrices, and matrices put together from blocks.

In: tensors whose last (or given) two dimensions are matrices. ``diagonal`` is a
view; everything else makes a new tensor. Gradients come from the primitives.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flamec.conversion import constant_array
from flamec.dispatch import apply_named, tensor_builder
from flamec.errors import OperationError, user_location
from flamec.functional.arguments import as_device, as_dtype, default_device, public
from flamec.functional.dimensions import dimension, sequence
from flamec.functional.joining import cat
from flamec.functional.primitives import ops
from flamec.functional.promotion import promote_types
from flamec.functional.shape import contiguous, owned, ravel, regroup
from flamec.functional.true_places import known_places
from flamec.fusing import fused
from flamec.ir.op import lookup
from flamec.ir.shape import Dim, SymbolicDim, equal, format_shape, maximum, minimum
from flamec.ir.types import Device, DType, TensorType, int64
from flamec.state import process
from flamec.tensor import RuntimeNumber, Tensor


def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """A view of the elements (i, i + offset) of two dimensions, as a new last dimension."""
    rank = len(input._type.shape)
    first, second = dimension("diagonal", dim1, rank), dimension("diagonal", dim2, rank)
    if first == second:
        raise OperationError(
            f"diagonal dimensions cannot be identical {dim1}, {dim2} (at {user_location()})"
        )
    result: Tensor = apply_named("diagonal", input, offset=offset, axis1=first, axis2=second)
    return result


@fused()
def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Matrices (in ``dim1`` and ``dim2`` of the result) with the last dimension as a diagonal."""
    shape = input._type.shape
    if not shape:
        raise OperationError(f"diag_embed: needs at least 1 dimension (at {user_location()})")
    rank = len(shape) + 1
    first, second = dimension("diag_embed", dim1, rank), dimension("diag_embed", dim2, rank)
    if first == second:
        raise OperationError(
            f"diagonal dimensions cannot be identical {dim1}, {dim2} (at {user_location()})"
        )
    extent = shape[-1] + abs(offset)
    batch = iter(shape[:-1])
    whole = tuple(extent if i in (first, second) else next(batch) for i in range(rank))
    zeros = tensor_builder.full_like(0, input._type.with_shape(whole))
    return _with_diagonal(zeros, input, offset, first, second)


def _with_diagonal(x: Tensor, src: Tensor, offset: int, first: int, second: int) -> Tensor:
    write_back = lookup("diagonal").write_back
    assert write_back is not None
    result: Tensor = write_back(
        tensor_builder, x, src, {"offset": offset, "axis1": first, "axis2": second}
    )
    return owned(result) if result._storage is x._storage else contiguous(result)


@fused()
def diagonal_scatter(
    input: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Tensor:
    """A copy of ``input`` with ``input.diagonal(offset, dim1, dim2)`` replaced by ``src``."""
    view = diagonal(input, offset, dim1, dim2)
    have, want = src._type.shape, view._type.shape
    if len(have) != len(want) or not all(map(equal, have, want)):
        raise OperationError(
            f"diagonal_scatter: expected src to have a size equal to the slice of self: src "
            f"{format_shape(have)}, slice {format_shape(want)} (at {user_location()})"
        )
    rank = len(input._type.shape)
    return _with_diagonal(
        input,
        tensor_builder.cast(src, input._type.dtype),
        offset,
        dimension("diagonal_scatter", dim1, rank),
        dimension("diagonal_scatter", dim2, rank),
    )


@public
@fused()
def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """The matrix with a vector on its diagonal, or a copy of the diagonal of a matrix."""
    match len(input._type.shape):
        case 1:
            return diag_embed(input, diagonal)
        case 2:
            return owned(_diagonal(input, diagonal))
        case rank:
            raise OperationError(
                f"diag(): Supports 1D or 2D tensors. Got {rank}D (at {user_location()})"
            )


def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """The matrix with all elements of ``input`` on its diagonal."""
    return diag_embed(ravel(input), offset)


# triangles ----------------------------------------------------------------------------
def _triangle(name: str, input: Tensor, diagonal: Any, comparison: str) -> Tensor:
    shape = input._type.shape
    if len(shape) < 2:
        raise OperationError(
            f"{name}: input tensor must have at least 2 dimensions, not {format_shape(shape)} "
            f"(at {user_location()})"
        )
    b = tensor_builder
    grid = {"shape": shape[-2:], "dtype": int64, "device": input._type.device}
    distance = b.sub(b.iota(axis=1, **grid), b.iota(axis=0, **grid))
    if not isinstance(diagonal, RuntimeNumber):
        diagonal = b.constant(diagonal, distance._type)
    kept = getattr(b, comparison)(distance, diagonal)
    result: Tensor = b.where(kept, input, b.constant(0, input._type))
    return result


@public
@fused("diagonal")
def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle: elements above ``diagonal`` are zero."""
    return _triangle("tril", input, diagonal, "le")


@public
@fused("diagonal")
def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle: elements below ``diagonal`` are zero."""
    return _triangle("triu", input, diagonal, "ge")


def _triangle_indices(
    name: str,
    row: Any,
    col: Any,
    offset: int,
    dtype: Any,
    device: Any,
    requires_grad: bool,
    upper: bool,
) -> Tensor:
    place = as_device(name, device, default_device())
    wanted: DType = int64 if dtype is None else as_dtype(name, dtype)
    if row < 0 or col < 0:
        raise OperationError(
            f"{name}: row and col must be non-negative, got {row} and {col} (at {user_location()})"
        )
    if isinstance(row, SymbolicDim) or isinstance(col, SymbolicDim):
        return _computed_indices(row, col, offset, wanted, place, upper)
    distance = np.arange(int(col)) - np.arange(int(row))[:, None]
    places = np.nonzero(distance >= offset if upper else distance <= offset)
    result = constant_array(np.stack(places).astype(wanted.numpy), place)
    if requires_grad:
        result.requires_grad = True
    return result


def _computed_indices(
    rows: Dim, columns: Dim, offset: int, dtype: DType, device: Device, upper: bool
) -> Tensor:
    """The same of a matrix whose sizes vary: how many there are follows from the sizes."""
    grid: Any = {"shape": (rows, columns), "dtype": int64, "device": device}
    distance = ops.sub(ops.iota(axis=1, **grid), ops.iota(axis=0, **grid))
    mask = ops.ge(distance, offset) if upper else ops.le(distance, offset)
    count = _above(rows, columns, offset if upper else offset + 1)
    if not upper:
        count = rows * columns - count
    places = known_places(mask, count)
    width = maximum(columns, 1)
    both = (ops.floor_divide(places, width), ops.remainder(places, width))
    lines = [ops.reshape(ops.cast(p, dtype), shape=(1, count)) for p in both]
    result: Tensor = ops.concatenate(*lines, axis=0)
    return result


def _above(rows: Dim, columns: Dim, offset: int) -> Dim:
    """How many elements of a matrix are at least ``offset`` to the right of its diagonal."""
    whole = minimum(rows, max(-offset, 0))  # rows that are
    longest = maximum(columns - max(offset, 0), 0)  # of the rows below these, the first
    left_out = maximum(longest - (rows - whole), 0)
    return whole * columns + _sum_up_to(longest) - _sum_up_to(left_out)


def _sum_up_to(size: Dim) -> Dim:
    return size * (size + 1) // 2


def tril_indices(
    row: Dim,
    col: Dim,
    offset: int = 0,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Row and column numbers [2, count] of the lower triangle of a ``row`` by ``col`` matrix."""
    return _triangle_indices("tril_indices", row, col, offset, dtype, device, requires_grad, False)


def triu_indices(
    row: Dim,
    col: Dim,
    offset: int = 0,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Row and column numbers [2, count] of the upper triangle of a ``row`` by ``col`` matrix."""
    return _triangle_indices("triu_indices", row, col, offset, dtype, device, requires_grad, True)


# blocks -------------------------------------------------------------------------------
def block_diag(*tensors: Any) -> Tensor:
    """The matrix with the given matrices (vectors are rows) along its diagonal."""
    given = sequence(tensors)
    if not given:
        return tensor_builder.full_like(0, TensorType((1, 0), process.default_dtype))
    dtype = given[0]._type.dtype
    blocks: list[Tensor] = []
    for tensor in given:
        shape = tensor._type.shape
        if len(shape) > 2:
            raise OperationError(
                f"block_diag: Input tensors must have 2 or fewer dimensions, not "
                f"{format_shape(shape)} (at {user_location()})"
            )
        dtype = promote_types(dtype, tensor._type.dtype)
        blocks.append(regroup(tensor, (1,) * (2 - len(shape)) + shape))
    width: Dim = sum((b._type.shape[1] for b in blocks), start=0)
    rows: list[Tensor] = []
    before: Dim = 0
    for block in blocks:
        columns = block._type.shape[1]
        converted = tensor_builder.cast(block, dtype)
        zero = tensor_builder.constant(0, converted._type)
        rows.append(
            apply_named("pad", converted, zero, low=(0, before), high=(0, width - before - columns))
        )
        before = before + columns
    return cat(rows, 0)


_diagonal = diagonal  # ``diag`` has an argument of this name

TENSOR_METHODS = {
    function.__name__: function
    for function in (
        diag,
        diag_embed,
        diagflat,
        diagonal,
        diagonal_scatter,
        tril,
        triu,
    )
}

IN_PLACE = ("tril", "triu")
