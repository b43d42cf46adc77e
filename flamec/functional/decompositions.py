"""Factors of matrices: cholesky, qr, eigh, svd, lu.

In: float32 or float64 matrices in the last two dimensions, any batch before them. Out: their
factors, differentiable to any order where they are unique. The host computes them
(LAPACK through NumPy), also inside compiled functions and for tensors on a GPU, which are carried
over. LinAlgError names the matrix of the batch that has no factors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flamec import return_types
from flamec.errors import LinAlgError, OperationError, user_location
from flamec.functional.arguments import public
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.diagonals import diagonal
from flamec.functional.primitives import is_empty_size, ops, require, transposed
from flamec.functional.promotion import require_tensor
from flamec.functional.shape import window
from flamec.functional.sorting import picked
from flamec.ir.ops.matrices import (
    as_column,
    batch_element,
    identity_like,
    lower_part,
    smaller,
    upper_part,
)
from flamec.ir.shape import equal
from flamec.ir.types import int32, int64
from flamec.tensor import Tensor
from flamec.values import concrete_array


def matrices(name: str, value: Any) -> Tensor:
    """``value`` itself; an error unless it is a tensor of two dimensions or more."""
    x = require_tensor(name, "A", value)
    if x.ndim < 2:
        raise OperationError(
            f"{name}: The input tensor A must have at least 2 dimensions, got {x.ndim} "
            f"(at {user_location()})"
        )
    return x


@autocasts(cpu=FLOAT32)
@public
def linalg_cholesky(A: Tensor, *, upper: bool = False) -> Tensor:
    """The lower triangular L with L L^T = A, or with ``upper`` its transpose.

    Only that triangle of A is read. LinAlgError if A is not positive definite.
    """
    x = matrices("linalg.cholesky", A)
    if upper:
        return transposed(ops.cholesky(transposed(x)))
    return ops.cholesky(x)


@autocasts(cpu=FLOAT32)
@public
def cholesky_ex(A: Tensor, *, upper: bool = False, check_errors: bool = False) -> Any:
    """``linalg.cholesky`` as (L, info): info is int32, and 0 where A is positive definite.

    Elsewhere it is the order of the first leading minor that is not, and L is NaN. With
    ``check_errors`` that is a LinAlgError.
    """
    x = matrices("linalg.cholesky_ex", A)
    rows, columns = x._type.shape[-2:]
    require(
        equal(rows, columns),
        f"linalg.cholesky_ex: A must be batches of square matrices, but they are {rows} by "
        f"{columns} matrices",
    )
    if check_errors:
        factor = linalg_cholesky(x, upper=upper)
        return return_types.linalg_cholesky_ex(factor, no_failure(x))
    lower = transposed(x) if upper else x
    info = ops.failing_minor(ops.detach(lower))
    failed = ops.expand_to(raised(ops.ne(info, 0)), x._type.shape)
    factor = ops.cholesky(ops.where(failed, identity_like(ops, x), lower))
    factor = ops.where(failed, float("nan"), factor)
    return return_types.linalg_cholesky_ex(transposed(factor) if upper else factor, info)


def raised(info: Tensor) -> Tensor:
    """A value for each matrix as a matrix of one element."""
    result: Tensor = ops.reshape(info, shape=(*info._type.shape, 1, 1))
    return result


def no_failure(x: Tensor) -> Tensor:
    """0 (int32) for each matrix."""
    type = x._type
    result: Tensor = ops.full(value=0, shape=type.shape[:-2], dtype=int32, device=type.device)
    return result


@autocasts(cpu=FLOAT32)
@public
def cholesky(input: Tensor, upper: bool = False) -> Tensor:
    """``linalg.cholesky``."""
    return linalg_cholesky(input, upper=upper)


@autocasts(cpu=FLOAT32)
@public
def linalg_qr(A: Tensor, mode: str = "reduced") -> Any:
    """Q with orthonormal columns and upper triangular R, Q R = A, as (Q, R).

    ``mode``: "reduced", "complete" (Q is square), or "r" (Q is empty). No derivative for
    "complete" with more rows than columns.
    """
    x = matrices("linalg.qr", A)
    require(
        mode in ("reduced", "complete", "r"),
        f"linalg.qr: received unrecognized mode '{mode}' but expected one of 'reduced' (default), "
        "'r', or 'complete'",
    )
    q, r = ops.qr(x, complete=mode == "complete")
    if mode == "r":
        q = ops.full(value=0, shape=(0,), dtype=x._type.dtype, device=x._type.device)
    return return_types.linalg_qr(q, r)


@autocasts(cpu=FLOAT32)
@public
def qr(input: Tensor, some: bool = True) -> Any:
    """``linalg.qr``, complete without ``some``."""
    return return_types.qr(*linalg_qr(input, "reduced" if some else "complete"))


@autocasts(cpu=FLOAT32)
@public
def eigh(A: Tensor, UPLO: str = "L") -> Any:
    """Eigenvalues in ascending order and eigenvectors, as columns, of symmetric matrices.

    Only the triangle ``UPLO`` ("L" or "U") is read. The derivative of vectors is infinite where
    eigenvalues are equal.
    """
    x = matrices("linalg.eigh", A)
    require(
        isinstance(UPLO, str) and UPLO.upper() in ("L", "U"),
        f"linalg.eigh: Expected UPLO argument to be 'L' or 'U', but got {UPLO}",
    )
    return return_types.linalg_eigh(*ops.eigh(x, lower=UPLO.upper() == "L"))


@autocasts(cpu=FLOAT32)
@public
def eigvalsh(A: Tensor, UPLO: str = "L") -> Tensor:
    """The eigenvalues of symmetric matrices in ascending order."""
    return eigh(A, UPLO).eigenvalues


@autocasts(cpu=FLOAT32)
@public
def linalg_svd(A: Tensor, full_matrices: bool = True, *, driver: str | None = None) -> Any:
    """U, the singular values in descending order, and V^T, with U diag(S) V^T = A.

    With ``full_matrices`` U and V are square; the columns beyond S are any orthonormal ones, so
    only what depends on the space that they span has a derivative. ``driver`` must be None: there
    is one algorithm.
    """
    x = matrices("linalg.svd", A)
    require(driver is None, "linalg.svd: driver is only supported for CUDA's libraries")
    return return_types.linalg_svd(*ops.svd(x, full_matrices=bool(full_matrices)))


@autocasts(cpu=FLOAT32)
@public
def svdvals(A: Tensor, *, driver: str | None = None) -> Tensor:
    """The singular values in descending order."""
    return linalg_svd(A, False, driver=driver).S


@autocasts(cpu=FLOAT32)
@public
def svd(input: Tensor, some: bool = True, compute_uv: bool = True) -> Any:
    """``linalg.svd`` with V in place of V^T; without ``compute_uv`` U and V are zeros."""
    u, s, vh = linalg_svd(input, not some)
    v = transposed(vh)
    if not compute_uv:
        x = input._type
        sides = [x.with_shape((*x.shape[:-2], size, size)) for size in x.shape[-2:]]
        u, v = (ops.full_like(0, side) for side in sides)
    return return_types.svd(u, s, v)


# lu --------------------------------------------------------------------------------------


def _require_pivoting(name: str, pivot: bool) -> None:
    require(pivot, f"{name}: LU without pivoting is not implemented on the CPU")


@public
def lu_factor(A: Tensor, *, pivot: bool = True) -> Any:
    """Both factors of P^T A = L U in one matrix, and LAPACK's pivots, as (LU, pivots).

    L has ones on its diagonal, which are not stored.
    """
    x = matrices("linalg.lu_factor", A)
    _require_pivoting("linalg.lu_factor", pivot)
    packed, pivots, _ = ops.lu(x)
    return return_types.linalg_lu_factor(packed, pivots)


@public
def lu_factor_ex(A: Tensor, *, pivot: bool = True, check_errors: bool = False) -> Any:
    """``lu_factor`` as (LU, pivots, info): see ``first_zero_pivot``.

    With ``check_errors`` a pivot that is zero is a LinAlgError.
    """
    packed, pivots = lu_factor(A, pivot=pivot)
    info = first_zero_pivot(packed)
    if check_errors:
        refuse_failure("linalg.lu_factor_ex", info)
    return return_types.linalg_lu_factor_ex(packed, pivots, info)


def first_zero_pivot(packed: Tensor) -> Tensor:
    """The number, from 1, of the first zero on the diagonal of U for each matrix; 0 if there is
    none (int32)."""
    pivots = diagonal(ops.detach(packed), 0, -2, -1)
    axis = pivots.ndim - 1
    if is_empty_size(pivots._type.shape[axis]):
        return no_failure(packed)
    is_zero = ops.eq(pivots, 0.0)
    first = ops.argmax(ops.cast(is_zero, int32), axes=(axis,))
    some = ops.amax(ops.cast(is_zero, int32), axes=(axis,))
    number = ops.add(ops.cast(first, int32), 1)
    result: Tensor = ops.mul(number, some)
    return result


def refuse_failure(name: str, info: Tensor) -> None:
    """LinAlgError where ``info`` is not 0 for a matrix."""
    known = concrete_array(info, f"{name}(check_errors=True)")
    for place in np.ndindex(*known.shape):
        if known[place]:
            raise LinAlgError(
                f"{name}: {batch_element(place, known.shape)}The diagonal element {known[place]} "
                f"is zero, the input matrix is singular (at {user_location()})"
            )


def unpacked(packed: Tensor) -> tuple[Tensor, Tensor]:
    """L and U of both factors in one matrix."""
    rank = packed.ndim
    *_, m, n = packed._type.shape
    k = smaller(m, n)
    lower = lower_part(ops, window(packed, rank - 1, 0, k), -1)
    lower = ops.add(lower, identity_like(ops, lower))
    return lower, upper_part(ops, window(packed, rank - 2, 0, k))


def _permutation(order: Tensor, like: Tensor) -> Tensor:
    """P with (P X)[order] = X: a 1 in column i of the row that came to place i."""
    *batch, m = order._type.shape
    rows = ops.iota(shape=(*batch, m, m), axis=len(batch), dtype=int64, device=order._type.device)
    chosen = ops.reshape(order, shape=(*batch, 1, m))
    return ops.cast(ops.eq(rows, chosen), like._type.dtype)


@public
def lu(A: Tensor, *, pivot: bool = True) -> Any:
    """P, L, U with P L U = A: a permutation, ones on L's diagonal, upper triangular U."""
    x = matrices("linalg.lu", A)
    _require_pivoting("linalg.lu", pivot)
    packed, _, order = ops.lu(x)
    return return_types.linalg_lu(_permutation(order, x), *unpacked(packed))


@public
def lu_unpack(
    LU_data: Tensor, LU_pivots: Tensor, unpack_data: bool = True, unpack_pivots: bool = True
) -> Any:
    """P, L, U of what ``lu_factor`` gives; empty tensors for what is not wanted."""
    x = matrices("lu_unpack", LU_data)
    empty = ops.full(value=0, shape=(0,), dtype=x._type.dtype, device=x._type.device)
    lower, upper = unpacked(x) if unpack_data else (empty, empty)
    p = _permutation(ops.row_order(x, LU_pivots), x) if unpack_pivots else empty
    return return_types.lu_unpack(p, lower, upper)


def in_order(x: Tensor, order: Tensor) -> Tensor:
    """The rows of matrices in the order given for each matrix."""
    places = ops.expand_to(as_column(ops, order), x._type.shape)
    return picked(x, places, x.ndim - 2)


def _lu_method(input: Tensor, pivot: bool = True) -> Any:
    """``linalg.lu_factor`` as (LU, pivots)."""
    return tuple(lu_factor(input, pivot=pivot))


__all__ = ["cholesky", "lu_unpack", "qr", "svd"]

TENSOR_METHODS: dict[str, Callable[..., Any]] = {
    "cholesky": cholesky,
    "lu": _lu_method,
    "qr": qr,
    "svd": svd,
}
