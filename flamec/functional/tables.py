"""Matrices and tables laid out from sizes or from other tensors.

In: sizes, vectors, class numbers. Out: identity and diagonal matrices, index
tables, grids, combinations, one-hot rows. All are new tensors except for
``meshgrid``, whose results are expanded views.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from flamec import values
from flamec.conversion import constant_array
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.arguments import public
from flamec.functional.creation import Options
from flamec.functional.dimensions import dimension, size
from flamec.functional.joining import stack
from flamec.functional.primitives import ops
from flamec.functional.promotion import constant, require_tensor
from flamec.functional.unary import copied
from flamec.ir.shape import Dim, SymbolicDim, product
from flamec.ir.types import Device, int64
from flamec.state import thread
from flamec.tensor import Tensor


def _grid(shape: tuple[Dim, Dim], device: Device) -> tuple[Tensor, Tensor]:
    """Row and column number at each place."""
    grid: dict[str, Any] = {"shape": shape, "dtype": int64, "device": device}
    return ops.iota(axis=0, **grid), ops.iota(axis=1, **grid)


@public
def eye(n: int, m: int | None = None, **options: Any) -> Tensor:
    """Ones on the diagonal of an n by m matrix (m = n unless given), zeros elsewhere."""
    settings = Options("eye", **options)
    shape = (size("eye", n), size("eye", n if m is None else m))
    for extent in shape:
        if not isinstance(extent, SymbolicDim) and extent < 0:
            raise OperationError(
                f"eye(): sizes must be nonnegative, got {shape} (at {user_location()})"
            )
    row, column = _grid(shape, settings.device)
    return settings.finished(ops.cast(ops.eq(row, column), settings.dtype))


@public
def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """The last dimension of ``input`` on the diagonals of matrices in dimensions dim1, dim2."""
    require_tensor("diag_embed", "input", input)
    shape = input._type.shape
    if not shape:
        raise OperationError(f"diag_embed(): needs at least one dimension (at {user_location()})")
    rank = len(shape) + 1
    first, second = dimension("diag_embed", dim1, rank), dimension("diag_embed", dim2, rank)
    if first == second:
        raise OperationError(f"diag_embed(): dim1 and dim2 are both {first} (at {user_location()})")
    above, below = max(0, -offset), max(0, offset)
    none = (0,) * (len(shape) - 1)
    zero = constant(0, input._type.dtype)
    rows = ops.pad(input, zero, low=(*none, above), high=(*none, below))
    side = rows._type.shape[-1]
    row, column = _grid((side, side), input._type.device)
    on_diagonal = ops.eq(ops.sub(column, row), offset)
    result = ops.where(on_diagonal, ops.reshape(rows, shape=(*shape[:-1], side, 1)), zero)
    order = list(range(rank - 2))
    for place, axis in sorted(((first, rank - 2), (second, rank - 1))):
        order.insert(place, axis)
    in_order = tuple(order) == tuple(range(rank))
    return result if in_order else ops.permute(result, axes=tuple(order))


@public
def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """A vector on the diagonal of a matrix, or the diagonal of a matrix as a vector."""
    require_tensor("diag", "input", input)
    if input.ndim == 1:
        return diag_embed(input, diagonal)
    if input.ndim != 2:
        raise OperationError(
            f"diag(): supports 1D or 2D tensors, got {input.ndim}D (at {user_location()})"
        )
    return copied(ops.diagonal(input, offset=diagonal, axis1=0, axis2=1))


@public
def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """All elements on the diagonal of a matrix."""
    require_tensor("diagflat", "input", input)
    return diag_embed(ops.reshape(input, shape=(product(input._type.shape),)), offset)


def tril_indices(row: int, col: int, offset: int = 0, **options: Any) -> Tensor:
    """Rows and columns, as a 2 by n tensor, of the lower triangle of a row by col matrix."""
    return _triangle("tril_indices", np.tri(int(row), int(col), offset, dtype=bool), options)


def triu_indices(row: int, col: int, offset: int = 0, **options: Any) -> Tensor:
    """Rows and columns, as a 2 by n tensor, of the upper triangle of a row by col matrix."""
    return _triangle("triu_indices", ~np.tri(int(row), int(col), offset - 1, dtype=bool), options)


def _triangle(name: str, mask: np.ndarray, options: dict[str, Any]) -> Tensor:
    dtype = Options(name, **options).dtype_or(int64)
    return constant_array(np.stack(np.nonzero(mask)).astype(dtype.numpy))


# grids and choices -----------------------------------------------------------------------


def meshgrid(*tensors: Any, indexing: str | None = None) -> tuple[Tensor, ...]:
    """Each vector repeated along the dimensions of all the others ("ij", or "xy" order)."""
    vectors = (
        tuple(tensors[0]) if len(tensors) == 1 and not isinstance(tensors[0], Tensor) else tensors
    )
    for vector in vectors:
        if require_tensor("meshgrid", "tensors", vector).ndim > 1:
            raise OperationError(
                f"meshgrid(): expected 0D or 1D tensors, got {vector._type} (at {user_location()})"
            )
        if vector._type.dtype is not vectors[0]._type.dtype:
            raise OperationTypeError(
                f"meshgrid(): all tensors must have one dtype (at {user_location()})"
            )
    if indexing not in (None, "ij", "xy"):
        raise OperationError(
            f"meshgrid(): indexing must be 'ij' or 'xy', not {indexing!r} (at {user_location()})"
        )
    lengths = [product(v._type.shape) for v in vectors]
    order = list(range(len(vectors)))
    if indexing == "xy" and len(order) > 1:
        order[:2] = 1, 0
    shape = tuple(lengths[i] for i in order)
    results = []
    for i, vector in enumerate(vectors):
        line = tuple(lengths[i] if j == i else 1 for j in order)
        results.append(ops.expand_to(ops.reshape(vector, shape=line), shape))
    return tuple(results)


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All combinations of one element of each vector, one a row."""
    if len(tensors) == 1:
        return tensors[0]
    grids = meshgrid(*tensors, indexing="ij")
    columns = [ops.reshape(g, shape=(product(g._type.shape),)) for g in grids]
    return stack(columns, 1)


def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """All choices of r elements of a vector, in order, one a row."""
    if require_tensor("combinations", "input", input).ndim != 1:
        raise OperationError(
            f"combinations(): expected a 1D vector, got {input._type} (at {user_location()})"
        )
    if r < 0:
        raise OperationError(f"combinations(): r must be nonnegative (at {user_location()})")
    if r == 0:
        return ops.full(value=0, shape=(0,), dtype=input._type.dtype, device=input._type.device)  # type: ignore[no-any-return]
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    rows = list(choose(range(int(input._type.shape[0])), r))
    places = constant_array(np.array(rows, dtype=np.int64).reshape(len(rows), r))
    return ops.index(input, places)  # type: ignore[no-any-return]


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Class numbers as rows of num_classes zeros and a one; int64.

    ``num_classes=-1`` takes the largest class plus one, which is refused while tracing.
    """
    if require_tensor("one_hot", "tensor", tensor)._type.dtype is not int64:
        raise OperationTypeError(
            f"one_hot(): expected int64 classes, got {tensor._type.dtype.name} "
            f"(at {user_location()})"
        )
    if num_classes == -1:
        array = values.concrete_array(tensor, "one_hot() without num_classes")
        if not array.size:
            raise OperationError(f"one_hot(): no classes to count (at {user_location()})")
        num_classes = int(array.max()) + 1
    if thread.trace is None:
        array = values.concrete_array(tensor, "one_hot()")
        if array.size and not (array.min() >= 0 and array.max() < num_classes):
            raise OperationError(
                f"one_hot(): class values must be from 0 to num_classes - 1 = {num_classes - 1} "
                f"(at {user_location()})"
            )
    count = size("one_hot", num_classes)
    classes = ops.iota(shape=(count,), axis=0, dtype=int64, device=tensor._type.device)
    column = ops.reshape(tensor, shape=(*tensor._type.shape, 1))
    return ops.cast(ops.eq(column, classes), int64)  # type: ignore[no-any-return]


__all__ = [
    "cartesian_prod", "combinations", "diag", "diag_embed", "diagflat", "eye", "meshgrid",
    "one_hot", "tril_indices", "triu_indices",
]  # fmt: skip

TENSOR_METHODS: dict[str, Callable[..., Any]] = {
    "diag": diag,
    "diag_embed": diag_embed,
    "diagflat": diagflat,
}
