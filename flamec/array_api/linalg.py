"""The standard's linear algebra: that of the namespace, and the extension ``linalg``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from flamec.array_api.operands import accumulated
from flamec.functional import (
    decompositions,
    diagonals,
    linear_systems,
    matrix,
    matrix_functions,
    reduction,
)
from flamec.functional.promotion import promote_types
from flamec.functional.shape import movedim, transpose
from flamec.ir.types import DType
from flamec.tensor import Tensor

__all__ = [
    "cholesky", "cross", "det", "diagonal", "eigh", "eigvalsh", "inv", "matmul", "matrix_norm",
    "matrix_power", "matrix_rank", "matrix_transpose", "outer", "pinv", "qr", "slogdet", "solve",
    "svd", "svdvals", "tensordot", "trace", "vecdot", "vector_norm",
]  # fmt: skip


def _promoted(x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
    dtype = promote_types(x1.dtype, x2.dtype)
    return x1.to(dtype), x2.to(dtype)


def matmul(x1: Tensor, x2: Tensor, /) -> Tensor:
    """The matrix product."""
    return matrix.matmul(*_promoted(x1, x2))


def matrix_transpose(x: Tensor, /) -> Tensor:
    """Views of transposed matrices."""
    return transpose(x, -2, -1)


def tensordot(
    x1: Tensor, x2: Tensor, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2
) -> Tensor:
    """The sum of products over the last and first ``axes`` dimensions, or over the given ones."""
    dims = axes if isinstance(axes, int) else tuple(list(a) for a in axes)
    return matrix.tensordot(*_promoted(x1, x2), dims=dims)


def vecdot(x1: Tensor, x2: Tensor, /, *, axis: int = -1) -> Tensor:
    """The inner products along a dimension."""
    first, second = _promoted(x1, x2)
    rank = max(first.ndim, second.ndim)
    if not -min(first.ndim, second.ndim) <= axis < 0:
        raise ValueError(f"vecdot(): axis {axis} must be negative and name a dimension of both")
    if first.shape[axis] != second.shape[axis]:
        raise ValueError(
            f"vecdot(): sizes {first.shape[axis]} and {second.shape[axis]} of dimension {axis} "
            "differ"
        )
    product = first * second
    assert product.ndim == rank
    return reduction.sum(product, axis, dtype=product.dtype)


def outer(x1: Tensor, x2: Tensor, /) -> Tensor:
    """The products of all pairs of elements of two vectors."""
    return matrix.outer(*_promoted(x1, x2))


def cross(x1: Tensor, x2: Tensor, /, *, axis: int = -1) -> Tensor:
    """The cross products of vectors of three elements."""
    first, second = _promoted(x1, x2)
    if axis == -1:
        return matrix_functions.linalg_cross(first, second)
    found = matrix_functions.linalg_cross(movedim(first, axis, -1), movedim(second, axis, -1))
    return movedim(found, -1, axis)


def diagonal(x: Tensor, /, *, offset: int = 0) -> Tensor:
    """Views of the diagonals of matrices."""
    return diagonals.diagonal(x, offset, -2, -1)


def trace(x: Tensor, /, *, offset: int = 0, dtype: DType | None = None) -> Tensor:
    """The sums of the diagonals of matrices."""
    return reduction.sum(accumulated(diagonal(x, offset=offset), dtype), -1)


class Eigh(NamedTuple):
    """What ``eigh`` gives."""

    eigenvalues: Tensor
    eigenvectors: Tensor


class QR(NamedTuple):
    """What ``qr`` gives."""

    Q: Tensor
    R: Tensor


class Slogdet(NamedTuple):
    """What ``slogdet`` gives."""

    sign: Tensor
    logabsdet: Tensor


class SVD(NamedTuple):
    """What ``svd`` gives."""

    U: Tensor
    S: Tensor
    Vh: Tensor


def cholesky(x: Tensor, /, *, upper: bool = False) -> Tensor:
    """The triangular factors of positive definite matrices."""
    return decompositions.linalg_cholesky(x, upper=upper)


def det(x: Tensor, /) -> Tensor:
    """The determinants of square matrices."""
    return linear_systems.det(x)


def eigh(x: Tensor, /) -> Eigh:
    """Eigenvalues, rising, and eigenvectors of symmetric matrices."""
    return Eigh(*decompositions.eigh(x))


def eigvalsh(x: Tensor, /) -> Tensor:
    """The eigenvalues, rising, of symmetric matrices."""
    return decompositions.eigvalsh(x)


def inv(x: Tensor, /) -> Tensor:
    """The inverses of square matrices."""
    return linear_systems.inv(x)


def matrix_norm(x: Tensor, /, *, keepdims: bool = False, ord: Any = "fro") -> Tensor:
    """The norms of matrices."""
    return matrix_functions.matrix_norm(x, ord, keepdim=keepdims)


def matrix_power(x: Tensor, n: int, /) -> Tensor:
    """The n-th powers of square matrices."""
    return matrix_functions.matrix_power(x, n)


def matrix_rank(x: Tensor, /, *, rtol: Any = None) -> Tensor:
    """How many singular values are above ``rtol`` times the largest."""
    return linear_systems.matrix_rank(x, rtol=rtol)


def pinv(x: Tensor, /, *, rtol: Any = None) -> Tensor:
    """Moore and Penrose's inverses."""
    return linear_systems.pinv(x, rtol=rtol)


def qr(x: Tensor, /, *, mode: str = "reduced") -> QR:
    """Orthogonal and triangular factors."""
    return QR(*decompositions.linalg_qr(x, mode))


def slogdet(x: Tensor, /) -> Slogdet:
    """Sign and logarithm of the absolute value of determinants."""
    return Slogdet(*linear_systems.linalg_slogdet(x))


def solve(x1: Tensor, x2: Tensor, /) -> Tensor:
    """X with ``x1 @ X = x2``; ``x2`` is a vector only if it has one dimension."""
    first, second = _promoted(x1, x2)
    if second.ndim == 1:
        return linear_systems.solve(first, second[:, None])[..., 0]
    return linear_systems.solve(first, second)


def svd(x: Tensor, /, *, full_matrices: bool = True) -> SVD:
    """Singular vectors and values."""
    return SVD(*decompositions.linalg_svd(x, full_matrices))


def svdvals(x: Tensor, /) -> Tensor:
    """The singular values, falling."""
    return decompositions.svdvals(x)


def vector_norm(
    x: Tensor, /, *, axis: Any = None, keepdims: bool = False, ord: float = 2
) -> Tensor:
    """The norm of the elements along some, or all, dimensions."""
    return matrix_functions.vector_norm(x, ord, axis, keepdims)
