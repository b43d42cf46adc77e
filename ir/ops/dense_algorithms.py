"""Algorithms on batches of matrices that NumPy does not have: triangular systems, LU, exponentials.

In: arrays [..., m, n] of float32 or float64. Out: new arrays of that dtype.
"""

from __future__ import annotations

import math

import numpy as np

_BLOCK = 32  # rows that are eliminated one by one


def solve_lower(a: np.ndarray, b: np.ndarray, unit: bool) -> np.ndarray:
    """X with tril(A) X = B, by halves, whose coupling is a matrix product.

    A zero on the diagonal gives infinities or NaN. ``unit``: the diagonal counts as 1.
    """
    size = a.shape[-1]
    if size > _BLOCK:
        half = size // 2
        top = solve_lower(a[..., :half, :half], b[..., :half, :], unit)
        rest = b[..., half:, :] - a[..., half:, :half] @ top
        return np.concatenate([top, solve_lower(a[..., half:, half:], rest, unit)], axis=-2)
    x = np.array(b)
    for row in range(size):
        if row:
            known = x[..., :row, :]
            x[..., row, :] -= (a[..., row : row + 1, :row] @ known)[..., 0, :]
        if not unit:
            x[..., row, :] /= a[..., row, row, None]
    return x


def solve_upper(a: np.ndarray, b: np.ndarray, unit: bool) -> np.ndarray:
    """X with triu(A) X = B: a lower triangle, seen from the other corner."""
    return np.flip(solve_lower(np.flip(a, (-2, -1)), np.flip(b, -2), unit), -2)


def factor_lu(a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaussian elimination with partial pivoting (Golub and Van Loan, "Matrix Computations",
    algorithm 3.4.1): both factors in one array, the rows exchanged at each step (counted from 1,
    int32), and the resulting order of the rows (int64)."""
    *batch, m, n = a.shape
    lu = np.array(a).reshape(math.prod(batch), m, n)
    count, steps = lu.shape[0], min(m, n)
    pivots = np.zeros((count, steps), np.int32)
    order = np.tile(np.arange(m), (count, 1))
    matrices = np.arange(count)
    for k in range(steps):
        chosen = k + np.argmax(np.abs(lu[:, k:, k]), axis=1) if count else np.zeros(0, np.int64)
        pivots[:, k] = chosen + 1
        for table in (lu, order):
            upper = table[:, k].copy()
            table[:, k] = table[matrices, chosen]
            table[matrices, chosen] = upper
        pivot = lu[:, k, k, None]
        lu[:, k + 1 :, k] /= np.where(pivot == 0, 1, pivot)
        lu[:, k + 1 :, k + 1 :] -= lu[:, k + 1 :, k, None] * lu[:, None, k, k + 1 :]
    return lu.reshape(a.shape), pivots.reshape(*batch, steps), order.reshape(*batch, m)


# Coefficients of the Padé approximant of degree 13, and the largest 1-norm for which its error is
# below double precision: Higham, "The scaling and squaring method for the matrix exponential
# revisited", SIAM J. Matrix Anal. Appl. 26(4), 2005, section 2.
_PADE = (
    64764752532480000.0, 32382376266240000.0, 7771770303897600.0, 1187353796428800.0,
    129060195264000.0, 10559470521600.0, 670442572800.0, 33522128640.0, 1323241920.0,
    40840800.0, 960960.0, 16380.0, 182.0, 1.0,
)  # fmt: skip
_PADE_LIMIT = 5.371920351148152


def exponential(a: np.ndarray) -> np.ndarray:
    """exp(A), computed in float64; NaN for a matrix that is not finite."""
    x = a.astype(np.float64)
    if not x.size:
        return a.copy()
    norm = np.abs(x).sum(axis=-2).max(axis=-1)
    finite = np.isfinite(norm)
    norm = np.where(finite, norm, 0.0)
    with np.errstate(divide="ignore"):
        squarings = np.maximum(np.ceil(np.log2(norm / _PADE_LIMIT)), 0).astype(int)
    x = np.where(finite[..., None, None], x, 0.0) / np.exp2(squarings)[..., None, None]
    identity, c = np.eye(x.shape[-1]), _PADE
    x2 = x @ x
    x4, x6 = x2 @ x2, x2 @ x2 @ x2
    odd = x6 @ (c[13] * x6 + c[11] * x4 + c[9] * x2)
    odd = x @ (odd + c[7] * x6 + c[5] * x4 + c[3] * x2 + c[1] * identity)
    even = x6 @ (c[12] * x6 + c[10] * x4 + c[8] * x2)
    even = even + c[6] * x6 + c[4] * x4 + c[2] * x2 + c[0] * identity
    result = np.linalg.solve(even - odd, even + odd)
    for turn in range(int(squarings.max())):
        again = (squarings > turn)[..., None, None]
        result = np.where(again, result @ result, result)
    result = np.where(finite[..., None, None], result, np.nan)
    return result.astype(a.dtype)
