"""Factors of matrices: Cholesky, QR, LU, symmetric eigenvalues, singular values.

Computed by the host (LAPACK through NumPy). Derivatives: M. Giles, "Collected matrix derivative
results for forward and reverse mode algorithmic differentiation", 2008 (Cholesky, eigenvalues);
J. Townsend, "Differentiating the singular value decomposition", 2016; S. Walter and L. Lehmann,
"Algorithmic differentiation of linear algebra functions with application in optimum experimental
design", 2010 (QR, LU).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.ir.op import Attributes, DerivativeContext, Op, OpKind, Types, register
from flamec.ir.ops import dense_algorithms
from flamec.ir.ops.checks import check_operand_count, check_same_device
from flamec.ir.ops.matrices import (
    added,
    as_column,
    as_row,
    batch_element,
    check_matrices,
    check_square,
    diagonal_matrix,
    first_where,
    identity_like,
    lower_part,
    matrix_product,
    smaller,
    transpose,
    upper_part,
    with_diagonal,
)
from flamec.ir.ops.scan import part, scattered_along
from flamec.ir.shape import Dim, equal, less
from flamec.ir.types import TensorType, int32, int64

if TYPE_CHECKING:
    from flamec.ir.builder import Builder


# cholesky ----------------------------------------------------------------------------------
def _infer_cholesky(types: Types, attributes: Attributes) -> TensorType:
    return check_square("linalg.cholesky", types)


def _evaluate_cholesky(attributes: Attributes, a: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.cholesky(a)
    except np.linalg.LinAlgError:
        batch = a.shape[:-2]
        for place in np.ndindex(*batch):
            order = _failing_minor(a[place])
            if order:
                raise np.linalg.LinAlgError(
                    f"linalg.cholesky: {batch_element(place, batch)}The factorization could "
                    "not be completed because the input is not positive-definite (the leading "
                    f"minor of order {order} is not positive-definite)."
                ) from None
        raise


def _failing_minor(a: np.ndarray) -> int:
    """The order of the first leading minor of a matrix that is not positive definite, or 0."""
    for order in range(1, a.shape[-1] + 1):
        try:
            np.linalg.cholesky(a[:order, :order])
        except np.linalg.LinAlgError:
            return order
    return 0


def _infer_failing_minor(types: Types, attributes: Attributes) -> TensorType:
    type = check_square("failing_minor", types)
    return type.with_shape(type.shape[:-2]).with_dtype(int32)


def _evaluate_failing_minor(attributes: Attributes, a: np.ndarray) -> np.ndarray:
    found = np.zeros(a.shape[:-2], np.int32)
    try:
        np.linalg.cholesky(a)
    except np.linalg.LinAlgError:
        for place in np.ndindex(*found.shape):
            found[place] = _failing_minor(a[place])
    return found


failing_minor = register(
    Op(
        name="failing_minor",
        kind=OpKind.HOST,
        infer=_infer_failing_minor,
        evaluate=_evaluate_failing_minor,
        expensive=True,
        doc="The order of the first leading minor that is not positive definite; 0 if all are.",
    )
)


def _cholesky_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any]:
    """The symmetric part of L^-T phi(L^T g) L^-1; phi halves the diagonal of the lower part."""
    factor = ctx.outputs[0]
    inner = lower_part(b, matrix_product(b, transpose(b, factor), g))
    half = b.constant(0.5, b.type_of(inner))
    inner = with_diagonal(b, inner, b.mul(inner, half))
    upper = transpose(b, factor)
    options = {"upper": True, "unitriangular": False}
    left = b.solve_triangular(upper, inner, **options)
    both = b.solve_triangular(upper, transpose(b, left), **options)
    return (b.mul(b.add(both, transpose(b, both)), half),)


cholesky = register(
    Op(
        name="cholesky",
        kind=OpKind.HOST,
        infer=_infer_cholesky,
        evaluate=_evaluate_cholesky,
        derivative=_cholesky_gradient,
        saves_outputs=(0,),
        expensive=True,
        doc="The lower triangular L with L L^T = A; only the lower part of A is read.",
    )
)


# eigenvalues of symmetric matrices -----------------------------------------------------------
def _infer_eigh(types: Types, attributes: Attributes) -> Types:
    type = check_square("linalg.eigh", types)
    return (type.with_shape(type.shape[:-1]), type)


def _evaluate_eigh(attributes: Attributes, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _require_finite("linalg.eigh", a)
    values, vectors = np.linalg.eigh(a, "L" if attributes["lower"] else "U")
    return values, vectors


def _require_finite(name: str, a: np.ndarray) -> None:
    wrong = ~np.isfinite(a).all(axis=(-2, -1))
    if wrong.any():
        raise np.linalg.LinAlgError(
            f"{name}: {batch_element(first_where(wrong), a.shape[:-2])}The algorithm failed to "
            "converge because the input matrix contained non-finite values."
        )


def _eigh_gradient(b: Builder, ctx: DerivativeContext, g: Any, vectors_g: Any) -> tuple[Any]:
    """The symmetric part of V (diag(g) + (V^T G) / (w_j - w_i)) V^T, the quotient off the diagonal.

    Of all matrices with the same product with every symmetric change it is the one that keeps a
    symmetric matrix symmetric where it is trained.
    """
    values, vectors = ctx.outputs
    if g is None and vectors_g is None:
        return (None,)
    transposed = transpose(b, vectors)
    if vectors_g is None:
        inner = b.mul(vectors, as_row(b, g))
        return (matrix_product(b, inner, transposed),)
    gaps = b.sub(as_row(b, values), as_column(b, values))
    one = b.constant(1, b.type_of(gaps))
    turned = b.div(matrix_product(b, transposed, vectors_g), with_diagonal(b, gaps, one))
    zero = b.constant(0, b.type_of(gaps))
    inner = with_diagonal(b, turned, zero if g is None else as_row(b, g))
    half = b.constant(0.5, b.type_of(inner))
    inner = b.mul(half, b.add(inner, transpose(b, inner)))
    return (matrix_product(b, matrix_product(b, vectors, inner), transposed),)


eigh = register(
    Op(
        name="eigh",
        kind=OpKind.HOST,
        infer=_infer_eigh,
        evaluate=_evaluate_eigh,
        derivative=_eigh_gradient,
        saves_outputs=(0, 1),
        expensive=True,
        doc="Eigenvalues in order, and eigenvectors as columns, of symmetric matrices.",
    )
)


# singular values ---------------------------------------------------------------------------
def _infer_svd(types: Types, attributes: Attributes) -> Types:
    type = check_matrices("linalg.svd", types)
    *batch, m, n = type.shape
    k = smaller(m, n)
    columns, rows = (m, n) if attributes["full_matrices"] else (k, k)
    return (
        type.with_shape((*batch, m, columns)),
        type.with_shape((*batch, k)),
        type.with_shape((*batch, rows, n)),
    )


def _evaluate_svd(
    attributes: Attributes, a: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    _require_finite("linalg.svd", a)
    u, s, vh = np.linalg.svd(a, full_matrices=attributes["full_matrices"])
    return u, s, vh


def _svd_gradient(b: Builder, ctx: DerivativeContext, u_g: Any, s_g: Any, vh_g: Any) -> tuple[Any]:
    """U ((skew(U^T Gu) / E) S + S (skew(V^T Gv) / E) + diag(g)) V^T with E_ij = s_j^2 - s_i^2,
    and what leaves the spaces of U and V: (I - U U^T) Gu S^-1 V^T, U S^-1 Gv^T (I - V V^T).

    The columns W that full matrices have beyond those turn with the others: -W Gw^T U S^-1 V^T for
    U's, likewise for V's. So the gradient is right of what does not depend on which
    orthonormal columns W are.
    """
    u, s, vh = ctx.outputs
    if u_g is None and s_g is None and vh_g is None:
        return (None,)
    *_, m, n = ctx.input_types[0].shape
    rank, k = len(ctx.input_types[0].shape), smaller(m, n)
    row, column = as_row(b, s), as_column(b, s)
    full, has_more_rows, outside = ctx.attributes["full_matrices"], less(n, m), None
    if full and not equal(m, n):
        u, beyond_u = part(b, u, rank - 1, 0, k), part(b, u, rank - 1, k, m - k)
        vh, beyond_v = part(b, vh, rank - 2, 0, k), part(b, vh, rank - 2, k, n - k)
        if u_g is not None:
            u_g, more = part(b, u_g, rank - 1, 0, k), part(b, u_g, rank - 1, k, m - k)
            if has_more_rows:
                turned = b.div(matrix_product(b, transpose(b, more), u), row)
                outside = b.neg(matrix_product(b, beyond_u, matrix_product(b, turned, vh)))
        if vh_g is not None:
            vh_g, more = part(b, vh_g, rank - 2, 0, k), part(b, vh_g, rank - 2, k, n - k)
            if not has_more_rows:
                turned = b.div(matrix_product(b, vh, transpose(b, more)), column)
                outside = b.neg(matrix_product(b, matrix_product(b, u, turned), beyond_v))
    v = transpose(b, vh)
    squares = b.sub(b.mul(row, row), b.mul(column, column))
    gaps = with_diagonal(b, squares, b.constant(1, b.type_of(squares)))

    def skew(vectors: Any, gradient: Any) -> Any:
        product = matrix_product(b, transpose(b, vectors), gradient)
        return b.div(b.sub(product, transpose(b, product)), gaps)

    inner = None
    if s_g is not None:
        inner = diagonal_matrix(b, s_g)
    if u_g is not None:
        inner = added(b, inner, b.mul(skew(u, u_g), row))
        if has_more_rows:
            own = matrix_product(b, u, matrix_product(b, transpose(b, u), u_g))
            rest = matrix_product(b, b.div(b.sub(u_g, own), row), vh)
            outside = added(b, outside, rest)
    if vh_g is not None:
        inner = added(b, inner, b.mul(column, skew(v, transpose(b, vh_g))))
        if less(m, n):
            own = matrix_product(b, matrix_product(b, vh_g, v), vh)
            rest = matrix_product(b, u, b.div(b.sub(vh_g, own), column))
            outside = added(b, outside, rest)
    result = matrix_product(b, matrix_product(b, u, inner), vh)
    return (added(b, result, outside),)


svd = register(
    Op(
        name="svd",
        kind=OpKind.HOST,
        infer=_infer_svd,
        evaluate=_evaluate_svd,
        derivative=_svd_gradient,
        saves_outputs=(0, 1, 2),
        expensive=True,
        doc="U, the singular values in descending order, and V^T.",
    )
)


# qr ----------------------------------------------------------------------------------------
def _infer_qr(types: Types, attributes: Attributes) -> Types:
    type = check_matrices("linalg.qr", types)
    *batch, m, n = type.shape
    k = m if attributes["complete"] else smaller(m, n)
    return (type.with_shape((*batch, m, k)), type.with_shape((*batch, k, n)))


def _evaluate_qr(attributes: Attributes, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    q, r = np.linalg.qr(a, "complete" if attributes["complete"] else "reduced")
    return q, r


def _qr_gradient(b: Builder, ctx: DerivativeContext, q_g: Any, r_g: Any) -> tuple[Any]:
    if q_g is None and r_g is None:
        return (None,)
    q, r = ctx.outputs
    *_, m, n = ctx.input_types[0].shape
    q_g = b.full_like(0, b.type_of(q)) if q_g is None else q_g
    r_g = b.full_like(0, b.type_of(r)) if r_g is None else r_g
    if not less(m, n):
        if ctx.attributes["complete"] and not equal(m, n):
            raise NotImplementedError(
                "linalg.qr: the QR decomposition is not differentiable when mode='complete' and "
                "there are more rows than columns"
            )
        return (_square_qr_gradient(b, q, r, q_g, r_g),)
    # A = [X Y] = Q [U V], where X is square: Y = Q V
    axis = len(b.type_of(r).shape) - 1
    u, u_g = part(b, r, axis, 0, m), part(b, r_g, axis, 0, m)
    v, v_g = part(b, r, axis, m, n - m), part(b, r_g, axis, m, n - m)
    y_g = matrix_product(b, q, v_g)
    y = matrix_product(b, q, v)
    q_g = b.add(q_g, matrix_product(b, y, transpose(b, v_g)))
    return (b.concatenate(_square_qr_gradient(b, q, u, q_g, u_g), y_g, axis=axis),)


def _square_qr_gradient(b: Builder, q: Any, r: Any, q_g: Any, r_g: Any) -> Any:
    """(Gq + Q sym(M)) R^-T, M = R Gr^T - Gq^T Q; sym copies the lower triangle to the upper."""
    m = b.sub(matrix_product(b, r, transpose(b, r_g)), matrix_product(b, transpose(b, q_g), q))
    below = lower_part(b, m, -1)
    symmetric = b.add(lower_part(b, m), transpose(b, below))
    whole = b.add(q_g, matrix_product(b, q, symmetric))
    solved = b.solve_triangular(r, transpose(b, whole), upper=True, unitriangular=False)
    return transpose(b, solved)


qr = register(
    Op(
        name="qr",
        kind=OpKind.HOST,
        infer=_infer_qr,
        evaluate=_evaluate_qr,
        derivative=_qr_gradient,
        saves_outputs=(0, 1),
        expensive=True,
        doc="Q with orthonormal columns and upper triangular R with Q R = A.",
    )
)


# lu ----------------------------------------------------------------------------------------
def _infer_lu(types: Types, attributes: Attributes) -> Types:
    type = check_matrices("linalg.lu_factor", types)
    *batch, m, n = type.shape
    steps: tuple[Dim, ...] = (*batch, smaller(m, n))
    return (
        type,
        TensorType(steps, int32, type.device),
        TensorType((*batch, m), int64, type.device),
    )


def _lu_gradient(
    b: Builder, ctx: DerivativeContext, g: Any, pivots_g: Any, order_g: Any
) -> tuple[Any]:
    """Of P^T A = L U. What is beside the square part follows from it: L2 = A2 U^-1 below,
    U2 = L^-1 A2 to the right."""
    if g is None:
        return (None,)
    type = ctx.input_types[0]
    *_, m, n = type.shape
    row, column = len(type.shape) - 2, len(type.shape) - 1
    packed, _, order = ctx.outputs
    if less(n, m):
        square, square_g = part(b, packed, row, 0, n), part(b, g, row, 0, n)
        below, below_g = part(b, packed, row, n, m - n), part(b, g, row, n, m - n)
        upper = upper_part(b, square)
        solved = b.solve_triangular(upper, transpose(b, below_g), upper=True, unitriangular=False)
        rest = matrix_product(b, transpose(b, below), transpose(b, solved))
        top = _square_lu_gradient(b, square, square_g, b.sub(square_g, rest))
        rows = b.concatenate(top, transpose(b, solved), axis=row)
    elif less(m, n):
        square, square_g = part(b, packed, column, 0, m), part(b, g, column, 0, m)
        beside, beside_g = part(b, packed, column, m, n - m), part(b, g, column, m, n - m)
        solved = b.solve_triangular(transpose(b, square), beside_g, upper=True, unitriangular=True)
        rest = matrix_product(b, solved, transpose(b, beside))
        left = _square_lu_gradient(b, square, b.sub(square_g, rest), square_g)
        rows = b.concatenate(left, solved, axis=column)
    else:
        rows = _square_lu_gradient(b, packed, g, g)
    places = b.expand_to(as_column(b, order), type.shape)
    return (scattered_along(b, rows, places, row, type),)


def _square_lu_gradient(b: Builder, packed: Any, lower_g: Any, upper_g: Any) -> Any:
    """L^-T (tril(L^T Gl, -1) + triu(Gu U^T)) U^-T; of the gradients only the triangles count."""
    lower = b.add(lower_part(b, packed, -1), identity_like(b, packed))
    upper = upper_part(b, packed)
    below = matrix_product(b, transpose(b, lower), lower_part(b, lower_g, -1))
    above = matrix_product(b, upper_part(b, upper_g), transpose(b, upper))
    inner = b.add(lower_part(b, below, -1), upper_part(b, above))
    left = b.solve_triangular(transpose(b, lower), inner, upper=True, unitriangular=True)
    both = b.solve_triangular(upper, transpose(b, left), upper=True, unitriangular=False)
    return transpose(b, both)


lu = register(
    Op(
        name="lu",
        kind=OpKind.HOST,
        infer=_infer_lu,
        evaluate=lambda attributes, a: dense_algorithms.factor_lu(a),
        derivative=_lu_gradient,
        saves_outputs=(0, 2),
        expensive=True,
        doc="L below and U on and above the diagonal, LAPACK's pivots, the order of the rows.",
    )
)


def _infer_row_order(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("row_order", types, 2)
    check_same_device("row_order", types)
    matrices, pivots = check_matrices("row_order", types[:1]), types[1]
    if pivots.dtype is not int32:
        raise TypeError(f"row_order: pivots must be int32, not {pivots}")
    *batch, m, n = matrices.shape
    steps = (*batch, smaller(m, n))
    if len(steps) != len(pivots.shape) or not all(map(equal, steps, pivots.shape)):
        raise ValueError(f"row_order: pivots {pivots} do not belong to factors {matrices}")
    return TensorType((*batch, m), int64, matrices.device)


def _evaluate_row_order(
    attributes: Attributes, matrices: np.ndarray, pivots: np.ndarray
) -> np.ndarray:
    rows = matrices.shape[-2]
    if pivots.size and not (pivots.min() >= 1 and pivots.max() <= rows):
        raise ValueError(f"row_order: pivots must lie between 1 and {rows}")
    order = np.tile(np.arange(rows), (*pivots.shape[:-1], 1))
    for k in range(pivots.shape[-1]):
        chosen = pivots[..., k, None].astype(np.int64) - 1
        other = np.take_along_axis(order, chosen, -1)
        np.put_along_axis(order, chosen, order[..., k, None], -1)
        order[..., k] = other[..., 0]
    return order


row_order = register(
    Op(
        name="row_order",
        kind=OpKind.HOST,
        infer=_infer_row_order,
        evaluate=_evaluate_row_order,
        doc="The order into which LAPACK's pivots bring the rows of matrices.",
    )
)
