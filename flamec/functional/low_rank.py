"""Decompositions of matrices that have, nearly, a low rank, from products with random vectors.

N. Halko, P.-G. Martinsson and J. A. Tropp, "Finding structure with randomness: probabilistic
algorithms for constructing approximate matrix decompositions", SIAM Review 53 (2011), algorithms
4.4 and 5.1.
"""

from __future__ import annotations

from flamec.functional.decompositions import linalg_qr, linalg_svd, matrices
from flamec.functional.sampling import randn
from flamec.functional.shape import broadcast_to
from flamec.ir.shape import less
from flamec.tensor import Tensor

__all__ = ["pca_lowrank", "svd_lowrank"]

Parts = tuple[Tensor, Tensor, Tensor]


def _basis(A: Tensor, q: int, niter: int) -> Tensor:
    """Orthonormal columns [..., m, q] that nearly span the columns of A."""
    found: Tensor = linalg_qr(A @ randn(A.shape[-1], q, dtype=A.dtype, device=A.device)).Q
    for _ in range(niter):
        found = linalg_qr(A @ linalg_qr(A.mT @ found).Q).Q
    return found


def svd_lowrank(
    A: Tensor, q: int | None = 6, niter: int | None = 2, M: Tensor | None = None
) -> Parts:
    """U [..., m, q], S [..., q] and V [..., n, q] with ``U @ diag(S) @ V.mT`` near ``A``, or near
    ``A - M``.

    ``q``: the rank, better some more; ``niter``: how often the random subspace is improved. Draws
    from the default generator. As exact as the rank of the matrix is low.
    """
    A = matrices("svd_lowrank", A)
    q, niter = 6 if q is None else q, 2 if niter is None else niter
    if M is not None:
        A = A - broadcast_to(M, A.shape)
    wide = less(A.shape[-2], A.shape[-1])
    tall = A.mT if wide else A
    basis = _basis(tall, q, niter)
    u, s, vh = linalg_svd(basis.mT @ tall, full_matrices=False)
    u, v = basis @ u, vh.mT
    return (v, s, u) if wide else (u, s, v)


def pca_lowrank(A: Tensor, q: int | None = None, center: bool = True, niter: int = 2) -> Parts:
    """``svd_lowrank`` of A less the means of its columns: V has the principal directions.

    ``q`` is min(6, m, n) unless given. ValueError for ``q`` that is negative or larger than the
    matrix, and for negative ``niter``.
    """
    A = matrices("pca_lowrank", A)
    m, n = A.shape[-2:]
    if q is None:
        q = min(6, m, n)
    elif not 0 <= q <= min(m, n):
        raise ValueError(
            f"q(={q}) must be non-negative integer and not greater than min(m, n)={min(m, n)}"
        )
    if niter < 0:
        raise ValueError(f"niter(={niter}) must be non-negative integer")
    centered = A - A.mean(dim=-2, keepdim=True) if center else A
    return svd_lowrank(centered, q, niter)
