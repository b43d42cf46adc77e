"""Places in grids: meshgrid, cartesian_prod, combinations, unravel_index."""

from __future__ import annotations

from itertools import combinations as _choose
from itertools import combinations_with_replacement as _choose_again
from typing import Any

import numpy as np

from flamec.conversion import constant_array
from flamec.dispatch import apply_named, tensor_builder
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.diagonals import triu_indices
from flamec.functional.dimensions import sequence, sizes
from flamec.functional.joining import stack
from flamec.functional.primitives import ops
from flamec.functional.promotion import require_tensor
from flamec.functional.shape import expand, ravel, regroup, transpose
from flamec.ir.shape import Dim, SymbolicDim, format_shape
from flamec.ir.types import bool_, int64
from flamec.tensor import Tensor


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Views of one-dimensional tensors, each constant along the dimensions of the others.

    ``indexing``: ``"ij"`` keeps the order of dimensions, ``"xy"`` exchanges the first two.
    """
    given = sequence(tensors)
    if not given:
        raise OperationError(f"meshgrid expects a non-empty TensorList (at {user_location()})")
    if indexing not in ("ij", "xy"):
        raise OperationError(
            f"meshgrid: indexing must be one of 'xy' or 'ij', but received: {indexing!r} "
            f"(at {user_location()})"
        )
    sizes: list[Dim] = []
    for tensor in given:
        if tensor._type.dtype is not given[0]._type.dtype:
            raise OperationTypeError(
                f"meshgrid: expects all tensors to have the same dtype, got "
                f"{given[0]._type.dtype.name} and {tensor._type.dtype.name} (at {user_location()})"
            )
        if len(tensor._type.shape) > 1:
            raise OperationError(
                f"meshgrid: Expected scalar or 1D tensor in the tensor list but got shape "
                f"{format_shape(tensor._type.shape)} (at {user_location()})"
            )
        sizes.append(tensor._type.shape[0] if tensor._type.shape else 1)
    results = []
    for axis, tensor in enumerate(given):
        apart = tuple(d if i == axis else 1 for i, d in enumerate(sizes))
        grid = expand(regroup(tensor, apart), tuple(sizes))
        swap = indexing == "xy" and len(given) > 1
        results.append(transpose(grid, 0, 1) if swap else grid)
    return tuple(results)


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All tuples of elements of one-dimensional tensors, one a row."""
    given = sequence(tensors)
    for tensor in given:
        if len(tensor._type.shape) != 1:
            raise OperationError(
                f"cartesian_prod: Expect a 1D vector, but got shape "
                f"{format_shape(tensor._type.shape)} (at {user_location()})"
            )
    if len(given) == 1:
        return given[0]
    return stack([ravel(g) for g in meshgrid(*given)], 1)


def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """All combinations of ``r`` elements of a one-dimensional tensor, one a row."""
    shape = input._type.shape
    if len(shape) != 1:
        raise OperationError(
            f"combinations: Expect a 1D vector, but got shape {format_shape(shape)} "
            f"(at {user_location()})"
        )
    if r < 0:
        raise OperationError(
            f"combinations: Expect a non-negative number, but got {r} (at {user_location()})"
        )
    if r == 0:
        return tensor_builder.full_like(0, input._type.with_shape((0,)))
    if r == 2 and isinstance(shape[0], SymbolicDim):
        pairs = triu_indices(shape[0], shape[0], int(not with_replacement), device=input.device)
        return ops.index(input, ops.permute(pairs, axes=(1, 0)))
    chosen = list((_choose_again if with_replacement else _choose)(range(int(shape[0])), r))
    places = np.array(chosen, np.int64).reshape(len(chosen), r)
    result: Tensor = apply_named("index", input, constant_array(places, input._type.device))
    return result


def unravel_index(indices: Tensor, shape: Any) -> tuple[Tensor, ...]:
    """The place in each dimension of a row-major ``shape`` of elements given by their number.

    ``indices``: whole numbers of any shape, negative ones counted from the end. Out: an int64
    tensor of that shape for each dimension. TypeError for another dtype.
    """
    require_tensor("unravel_index", "indices", indices)
    if indices.is_floating_point() or indices.dtype is bool_:
        raise OperationTypeError(
            f"expected 'indices' to be integer dtype, but got {indices.dtype!r} "
            f"(at {user_location()})"
        )
    rest, places = indices.to(int64), []
    for size in reversed(sizes("unravel_index", (shape,))):
        places.append(rest % size)
        rest = rest // size
    return tuple(reversed(places))
