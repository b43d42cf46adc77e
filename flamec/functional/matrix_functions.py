"""Functions of whole matrices: powers, exponential, products of many, norms, condition.

In: floating-point matrices in the last two dimensions (powers and products: any numbers). What
needs factors is computed by the host (``decompositions``); the rest is arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from flamec.errors import OperationError, user_location
from flamec.functional.arguments import as_dtype, public
from flamec.functional.autocasting import FLOAT32, LOWER, autocasts
from flamec.functional.creation import eye
from flamec.functional.decompositions import matrices, svdvals
from flamec.functional.diagonals import diagonal
from flamec.functional.dimensions import dimension, dimensions
from flamec.functional.distance import norm_over
from flamec.functional.linear_systems import inv, inv_ex, square
from flamec.functional.matrix import cross, matmul, mm
from flamec.functional.primitives import (
    is_found_empty,
    kept,
    narrowed,
    ops,
    require,
    require_floating,
    widened,
)
from flamec.functional.promotion import as_tensors, require_tensor
from flamec.functional.reduction import Dims, axes_of
from flamec.functional.shape import broadcast_shapes
from flamec.fusing import fused
from flamec.ir.shape import Dim, equal, format_shape
from flamec.ir.types import DType, int64
from flamec.tensor import Tensor

# powers ----------------------------------------------------------------------------------


@public
def matrix_power(input: Tensor, n: int) -> Tensor:
    """The n-th power of square matrices, by repeated squaring; of the inverse if n is negative."""
    require_tensor("matrix_power", "input", input)
    shape = input._type.shape
    require(
        input.ndim >= 2 and equal(shape[-1], shape[-2]),
        f"matrix_power(): expected square matrices, got shape {format_shape(shape)}",
    )
    if n < 0:
        input, n = inv(input), -n
    if n == 0:
        identity = eye(shape[-1], dtype=input._type.dtype, device=input._type.device)
        return ops.convert(ops.expand_to(identity, shape), dtype=input._type.dtype)
    result: Tensor | None = None
    power = input
    while True:
        if n & 1:
            result = power if result is None else matmul(result, power)
        n >>= 1
        if not n:
            break
        power = matmul(power, power)
    assert result is not None
    return ops.convert(result, dtype=result._type.dtype) if result is input else result


@public
def matrix_exp(A: Tensor) -> Tensor:
    """The exponential of square matrices, sum over k of A^k / k!; 16-bit floats in float32."""
    require_tensor("linalg.matrix_exp", "A", A)
    wide = square("linalg.matrix_exp", widened(A))
    return narrowed(ops.matrix_exp(wide), A._type.dtype)


@autocasts(cuda=LOWER)
def chain_matmul(*matrices: Tensor) -> Tensor:
    """The product of several matrices, from left to right."""
    require(bool(matrices), "chain_matmul(): expected one or more matrices")
    result = matrices[0]
    for matrix in matrices[1:]:
        result = mm(result, matrix)
    return result


@autocasts(cuda=LOWER)
@public
def multi_dot(tensors: Sequence[Tensor]) -> Tensor:
    """The product of two or more matrices in the order that takes the fewest multiplications.

    The first and the last may be vectors. Order: Cormen et al., "Introduction to Algorithms",
    section 15.2; sizes not known yet are multiplied from left to right.
    """
    chain = [require_tensor("linalg.multi_dot", "tensors", t) for t in tensors]
    require(len(chain) >= 2, "linalg.multi_dot: expected at least 2 tensors")
    for position, x in enumerate(chain):
        ends = position in (0, len(chain) - 1)
        require(
            x.ndim == 2 or (ends and x.ndim == 1),
            f"linalg.multi_dot: tensor {position} must be 2-D{' or 1-D' if ends else ''}, "
            f"got {x.ndim} dimensions",
        )
    sizes = [chain[0]._type.shape[0] if chain[0].ndim == 2 else 1]
    sizes += [x._type.shape[0] for x in chain[1:]]
    sizes.append(chain[-1]._type.shape[1] if chain[-1].ndim == 2 else 1)
    split = _best_splits(sizes)

    def multiplied(first: int, last: int) -> Tensor:
        if first == last:
            return chain[first]
        middle = split[first, last]
        return matmul(multiplied(first, middle), multiplied(middle + 1, last))

    return multiplied(0, len(chain) - 1)


def _best_splits(sizes: Sequence[Dim]) -> dict[tuple[int, int], int]:
    """Where each run of matrices is cut in two; matrix i is ``sizes[i]`` by ``sizes[i + 1]``."""
    count = len(sizes) - 1
    known = [d if isinstance(d, int) else 0 for d in sizes]
    if 0 in known:
        return {(i, j): j - 1 for j in range(count) for i in range(j)}
    cost = {(i, i): 0 for i in range(count)}
    split = {}
    for length in range(1, count):
        for i in range(count - length):
            j = i + length
            options = [
                (cost[i, k] + cost[k + 1, j] + known[i] * known[k + 1] * known[j + 1], k)
                for k in range(i, j)
            ]
            cost[i, j], split[i, j] = min(options)
    return split


# norms -----------------------------------------------------------------------------------


def _norm_operand(name: str, x: Any, dtype: Any) -> tuple[Tensor, DType]:
    """The operand in the dtype in which it is computed, and the result's dtype."""
    require_tensor(name, "input", x)
    require_floating(name, x)
    target = x._type.dtype if dtype is None else as_dtype(name, dtype)
    require(target.is_floating_point, f"{name}: dtype should be floating point, got {target.name}")
    return widened(ops.cast(x, target)), target


@autocasts(cuda=FLOAT32)
@public
@fused()
def vector_norm(
    x: Tensor,
    ord: float = 2,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: DType | None = None,
) -> Tensor:
    """The ``ord``-norm of the elements over ``dim``, or of all; its gradient at 0 is 0."""
    name = "linalg.vector_norm"
    values, target = _norm_operand(name, x, dtype)
    axes = axes_of(name, dim, values.ndim)
    shape = values._type.shape
    if (ord < 0 or math.isinf(ord)) and any(is_found_empty(shape[a]) for a in axes):
        raise OperationError(
            f"{name}: cannot compute the {ord} norm of an empty tensor of shape "
            f"{format_shape(shape)} because the operation does not have an identity "
            f"(at {user_location()})"
        )
    if not axes:
        line = ops.reshape(values, shape=(*shape, 1))
        return narrowed(norm_over(line, float(ord), (len(shape),), False), target)
    return narrowed(norm_over(values, float(ord), axes, keepdim), target)


@autocasts(cuda=FLOAT32)
@public
@fused()
def matrix_norm(
    A: Tensor,
    ord: float | str = "fro",
    dim: tuple[int, int] = (-2, -1),
    keepdim: bool = False,
    *,
    dtype: DType | None = None,
) -> Tensor:
    """Norms of matrices: "fro" (elements), "nuc" (sum of singular values), 2 and -2 (extreme
    singular values), 1 and -1 (extreme sums of columns), inf and -inf (of rows)."""
    name = "linalg.matrix_norm"
    x, target = _norm_operand(name, A, dtype)
    require(x.ndim >= 2, f"{name}: The input tensor A must have at least 2 dimensions")
    require(
        isinstance(dim, (tuple, list)) and len(dim) == 2,
        f"{name}: dim must be a 2-tuple of ints, got {dim}",
    )
    rows, columns = dimensions(name, dim, x.ndim)
    if ord == "fro":
        return narrowed(norm_over(x, 2.0, (rows, columns), keepdim), target)
    known = ("nuc", 2, -2, 1, -1, math.inf, -math.inf)
    require(ord in known, f"{name}: Order {ord} not supported")
    shape = x._type.shape
    if ord in ("nuc", 2, -2):
        rest = [a for a in range(x.ndim) if a not in (rows, columns)]
        values = svdvals(ops.permute(x, axes=(*rest, rows, columns)))
        axis = values.ndim - 1
        if ord == "nuc":
            result = ops.sum(values, axes=(axis,))
        else:
            result = _extreme(name, ord, values, axis)
    else:
        assert not isinstance(ord, str)
        summed, other = (rows, columns) if abs(ord) == 1 else (columns, rows)
        sums = ops.sum(ops.abs(x), axes=(summed,))
        result = _extreme(name, ord, sums, other - (summed < other))
    axes = tuple(sorted((rows, columns)))
    return narrowed(kept(result, shape, axes) if keepdim else result, target)


def _extreme(name: str, ord: Any, values: Tensor, axis: int) -> Tensor:
    """The largest of values that are not negative, or for a negative ``ord`` the smallest.

    The largest of nothing is 0; the smallest is an IndexError.
    """
    if is_found_empty(values._type.shape[axis]):
        if ord < 0:
            raise IndexError(
                f"{name}: the norm of order {ord} of an empty matrix has no value "
                f"(at {user_location()})"
            )
        return ops.sum(values, axes=(axis,))
    extreme: Tensor = (ops.amax if ord > 0 else ops.amin)(values, axes=(axis,))
    return extreme


@autocasts(cuda=FLOAT32)
@public
def norm(
    A: Tensor,
    ord: float | str | None = None,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: DType | None = None,
) -> Tensor:
    """A norm of vectors (``dim`` is one dimension) or of matrices (two), as NumPy's.

    Without ``ord`` the 2-norm of all elements over ``dim``; with ``ord`` and without ``dim`` the
    tensor must be a vector or a matrix.
    """
    name = "linalg.norm"
    x = require_tensor(name, "A", A)
    if ord is None:
        return vector_norm(x, 2, dim, keepdim, dtype=dtype)
    if dim is None:
        require(
            x.ndim in (1, 2),
            f"{name}: If dim is not specified but ord is, the input must be 1D or 2D. "
            f"Got {x.ndim}D",
        )
        dim = tuple(range(x.ndim))
    count = len(dim) if isinstance(dim, (tuple, list)) else 1
    require(count in (1, 2), f"{name}: If dim is specified, it must be of length 1 or 2. Got {dim}")
    if count == 2:
        assert isinstance(dim, (tuple, list))
        return matrix_norm(x, ord, (dim[0], dim[1]), keepdim, dtype=dtype)
    if isinstance(ord, str):
        raise OperationError(f"{name}: the norm {ord!r} is one of matrices (at {user_location()})")
    return vector_norm(x, ord, dim, keepdim, dtype=dtype)


@autocasts(cpu=FLOAT32)
@public
def cond(A: Tensor, p: float | str | None = None) -> Tensor:
    """The condition number of matrices: |A| |A^-1| in the norm ``p`` of ``matrix_norm``.

    For None, 2 and -2 the ratio of the extreme singular values; in other norms infinite for a
    singular matrix. 0 for matrices without elements.
    """
    name = "linalg.cond"
    a = matrices(name, A)
    if p in (None, 2, -2):
        values = svdvals(a)
        axis = values.ndim - 1
        if is_found_empty(values._type.shape[axis]):
            return ops.sum(values, axes=(axis,))
        greatest, least = ops.amax(values, axes=(axis,)), ops.amin(values, axes=(axis,))
        return ops.div(least, greatest) if p == -2 else ops.div(greatest, least)
    assert p is not None
    a = square(name, a)
    if is_found_empty(a._type.shape[-1]):
        return ops.sum(a, axes=(a.ndim - 2, a.ndim - 1))
    inverse, info = inv_ex(a)
    regular = ops.eq(info, 0)
    whole = ops.expand_to(ops.reshape(regular, shape=(*info._type.shape, 1, 1)), a._type.shape)
    inverse = ops.where(whole, inverse, 0.0)  # singular values of infinities are refused
    return ops.where(regular, ops.mul(matrix_norm(a, p), matrix_norm(inverse, p)), math.inf)


# products of vectors ---------------------------------------------------------------------


@autocasts(cpu=LOWER, cuda=LOWER)
@public
@fused()
def vecdot(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    """The sum of products over ``dim``; the other dimensions broadcast."""
    a, b = as_tensors("linalg.vecdot", x, y)
    terms = ops.mul(a, b)
    (axis,) = dimensions("linalg.vecdot", dim, terms.ndim)
    return ops.sum(terms, axes=(axis,))


@public
@fused("N")
def vander(x: Tensor, *, N: int | None = None) -> Tensor:
    """The powers 0, 1, ..., N - 1 of each element in a last dimension (N: as many as elements)."""
    base = require_tensor("linalg.vander", "x", x)
    if not base._type.dtype.is_floating_point:
        base = ops.cast(base, int64)
    if not base.ndim:
        base = ops.reshape(base, shape=(1,))
    shape = base._type.shape
    count: Dim = shape[-1] if N is None else N
    wide = (*shape, count)
    lifted = ops.expand_to(ops.reshape(base, shape=(*shape, 1)), wide)
    place = ops.iota(shape=wide, axis=len(shape), dtype=base._type.dtype, device=base._type.device)
    factors = ops.where(ops.eq(place, 0), ops.constant(1, base._type), lifted)
    return ops.cumprod(factors, axis=len(shape))


@public
def linalg_cross(input: Tensor, other: Tensor, *, dim: int = -1) -> Tensor:
    """The vector product over a dimension of size 3; the other dimensions broadcast."""
    x, y = as_tensors("linalg.cross", input, other)
    require(x.ndim == y.ndim, "linalg.cross: inputs must have the same number of dimensions.")
    axis = dimension("linalg.cross", dim, x.ndim)
    lengths = [t._type.shape[axis] for t in (x, y)]
    require(
        all(equal(n, 3) for n in lengths),
        f"linalg.cross: inputs dimension {dim} must have length 3. Got {lengths[0]} and "
        f"{lengths[1]}",
    )
    shape = broadcast_shapes(x._type.shape, y._type.shape)
    return cross(ops.expand_to(x, shape), ops.expand_to(y, shape), dim)


def linalg_diagonal(A: Tensor, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """A view of the diagonals of matrices, as a new last dimension."""
    return diagonal(A, offset, dim1, dim2)


__all__ = ["chain_matmul", "matrix_power", "vecdot"]

TENSOR_METHODS: dict[str, Callable[..., Any]] = {
    "matrix_exp": matrix_exp,
    "matrix_power": matrix_power,
}
