"""Linear systems, determinants, pseudoinverses, exponentials.

Computed by the host (LAPACK through NumPy). Derivatives: M. Giles, "Collected matrix derivative
results for forward and reverse mode algorithmic differentiation", 2008; of the pseudoinverse:
G. Golub and V. Pereyra, "The differentiation of pseudo-inverses and nonlinear least squares
problems whose variables separate", SIAM J. Numer. Anal. 10(2), 1973; of the exponential:
R. Mathias, "A chain rule for matrix functions", SIAM J. Matrix Anal. Appl. 17(3), 1996.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.ir.op import Attributes, DerivativeContext, Op, OpKind, Types, register
from flamec.ir.ops import dense_algorithms
from flamec.ir.ops.matrices import (
    batch_element,
    check_matrices,
    check_square,
    check_system,
    identity_like,
    lower_part,
    matrix_product,
    transpose,
    upper_part,
)
from flamec.ir.ops.scan import part
from flamec.ir.types import TensorType

if TYPE_CHECKING:
    from flamec.ir.builder import Builder


# general systems -----------------------------------------------------------------------------
def _infer_solve(types: Types, attributes: Attributes) -> TensorType:
    return check_system(attributes["caller"], types)


def _evaluate_solve(attributes: Attributes, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.solve(a, b)
    except np.linalg.LinAlgError:
        result = np.empty_like(b)
        batch = a.shape[:-2]
        for place in np.ndindex(*batch):
            try:
                result[place] = np.linalg.solve(a[place], b[place])
            except np.linalg.LinAlgError as error:
                if attributes["refuse_singular"]:
                    raise np.linalg.LinAlgError(
                        f"{attributes['caller']}: {batch_element(place, batch)}The solver failed "
                        "because the input matrix is singular."
                    ) from error
                result[place] = np.inf
        return result


def _solve_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any, Any]:
    a, x = ctx.inputs[0], ctx.outputs[0]
    right = b.solve(transpose(b, a), g, **ctx.attributes)
    left = b.neg(matrix_product(b, right, transpose(b, x))) if ctx.needs[0] else None
    return left, right


solve = register(
    Op(
        name="solve",
        kind=OpKind.HOST,
        infer=_infer_solve,
        evaluate=_evaluate_solve,
        derivative=_solve_gradient,
        saves_inputs=(0,),
        saves_outputs=(0,),
        expensive=True,
        doc="X with A X = B; an error that names the caller, or infinities, if A is singular.",
    )
)


def inverse(b: Builder, a: Any, caller: str) -> Any:
    """The inverse of square matrices, infinite where they are singular."""
    return b.solve(a, identity_like(b, a), caller=caller, refuse_singular=False)


# triangular systems ---------------------------------------------------------------------------
def _evaluate_solve_triangular(attributes: Attributes, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    solver = dense_algorithms.solve_upper if attributes["upper"] else dense_algorithms.solve_lower
    return solver(a, b, attributes["unitriangular"])


def _solve_triangular_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any, Any]:
    a, x = ctx.inputs[0], ctx.outputs[0]
    upper, unit = ctx.attributes["upper"], ctx.attributes["unitriangular"]
    right = b.solve_triangular(transpose(b, a), g, upper=not upper, unitriangular=unit)
    left = None
    if ctx.needs[0]:
        left = b.neg(matrix_product(b, right, transpose(b, x)))
        left = upper_part(b, left, int(unit)) if upper else lower_part(b, left, -int(unit))
    return left, right


solve_triangular = register(
    Op(
        name="solve_triangular",
        kind=OpKind.HOST,
        infer=lambda types, attributes: check_system("linalg.solve_triangular", types),
        evaluate=_evaluate_solve_triangular,
        derivative=_solve_triangular_gradient,
        saves_inputs=(0,),
        saves_outputs=(0,),
        expensive=True,
        doc="X with A X = B for a triangle of A, whose diagonal may count as 1.",
    )
)


# determinants ----------------------------------------------------------------------------------
def _infer_det(types: Types, attributes: Attributes) -> TensorType:
    type = check_square("linalg.det", types)
    return type.with_shape(type.shape[:-2])


def _det_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any]:
    a = ctx.inputs[0]
    shape = b.type_of(g).shape
    return (b.mul(b.cofactors(a), b.reshape(g, shape=(*shape, 1, 1))),)


det = register(
    Op(
        name="det",
        kind=OpKind.HOST,
        infer=_infer_det,
        evaluate=lambda attributes, a: np.asarray(np.linalg.det(a)),
        derivative=_det_gradient,
        saves_inputs=(0,),
        expensive=True,
        doc="The determinant of square matrices.",
    )
)


def _products_of_others(values: np.ndarray) -> np.ndarray:
    """For each element of the last axis the product of the others."""
    same = np.eye(values.shape[-1], dtype=bool)
    return np.asarray(np.where(same, 1, values[..., None, :]).prod(axis=-1))


def _decomposed(a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """U, the singular values, V^T and, as matrices of one element, det(U) det(V^T)."""
    u, s, vh = np.linalg.svd(a)
    sign = np.rint(np.linalg.det(u) * np.linalg.det(vh))
    return u, s, vh, sign[..., None, None]


def _evaluate_cofactors(attributes: Attributes, a: np.ndarray) -> np.ndarray:
    """det(A) A^-T from the singular values, which exists for singular matrices, too:
    det(U) det(V^T) U diag(products of the other singular values) V^T."""
    if not a.size:
        return a.copy()
    if not np.isfinite(a).all():
        return np.full_like(a, np.nan)
    u, s, vh, sign = _decomposed(a)
    return np.asarray((u * (sign * _products_of_others(s)[..., None, :])) @ vh, a.dtype)


def _cofactors_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any]:
    return (b.change_of_cofactors(ctx.inputs[0], g),)


cofactors = register(
    Op(
        name="cofactors",
        kind=OpKind.HOST,
        infer=lambda types, attributes: check_square("cofactors", types),
        evaluate=_evaluate_cofactors,
        derivative=_cofactors_gradient,
        saves_inputs=(0,),
        expensive=True,
        doc="The matrix of cofactors, which is the derivative of the determinant.",
    )
)


def _infer_change(types: Types, attributes: Attributes) -> TensorType:
    check_square("change_of_cofactors", types[1:])
    return check_system("change_of_cofactors", types)


def _evaluate_change(attributes: Attributes, a: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The second derivative of det at A in direction G, also where A is singular.

    With H = U^T G V and P_ij the product of the singular values but the i-th and the j-th it is
    det(U) det(V^T) U M V^T, where M_ij = -P_ij H_ji and M_ii = sum of P_ij H_jj over the other j.
    """
    if not a.size:
        return a.copy()
    if not (np.isfinite(a).all() and np.isfinite(g).all()):
        return np.full_like(a, np.nan)
    u, s, vh, sign = _decomposed(a)
    v = np.swapaxes(vh, -1, -2)
    size = s.shape[-1]
    same = np.eye(size, dtype=bool)
    rows = [_products_of_others(np.where(same[i], 1, s)) for i in range(size)]
    products = np.where(same, 0, np.stack(rows, axis=-2))
    turned = np.swapaxes(u, -1, -2) @ g @ v
    diagonal = products @ np.diagonal(turned, axis1=-2, axis2=-1)[..., None]
    changes = np.where(same, diagonal, -products * np.swapaxes(turned, -1, -2))
    return np.asarray(sign * (u @ changes @ vh), a.dtype)


def _change_gradient(b: Builder, ctx: DerivativeContext, h: Any) -> tuple[Any, Any]:
    """By G the same form, which is symmetric; by A, which must be regular for it, with X = A^-1 G
    and Y = A^-1 H, det(A) ((tr X tr Y - tr XY) I - tr Y X - tr X Y + XY + YX)^T A^-T."""
    a, g = ctx.inputs
    by_direction = b.change_of_cofactors(a, h) if ctx.needs[1] else None
    if not ctx.needs[0]:
        return None, by_direction
    inverted = inverse(b, a, "linalg.det")
    x, y = matrix_product(b, inverted, g), matrix_product(b, inverted, h)
    xy, yx = matrix_product(b, x, y), matrix_product(b, y, x)
    one = identity_like(b, a)
    rank = len(b.type_of(a).shape)

    def trace(m: Any) -> Any:
        total = b.sum(b.mul(m, one), axes=(rank - 2, rank - 1))
        return b.reshape(total, shape=(*b.type_of(total).shape, 1, 1))

    tx, ty = trace(x), trace(y)
    form = b.mul(one, b.sub(b.mul(tx, ty), trace(xy)))
    form = b.sub(form, b.add(b.mul(ty, x), b.mul(tx, y)))
    form = matrix_product(b, b.add(form, b.add(xy, yx)), inverted)
    size = b.det(a)
    size = b.reshape(size, shape=(*b.type_of(size).shape, 1, 1))
    return b.mul(size, transpose(b, form)), by_direction


change_of_cofactors = register(
    Op(
        name="change_of_cofactors",
        kind=OpKind.HOST,
        infer=_infer_change,
        evaluate=_evaluate_change,
        derivative=_change_gradient,
        saves_inputs=(0, 1),
        expensive=True,
        doc="How the cofactors of A change in a direction: the determinant's second derivative.",
    )
)


def _infer_slogdet(types: Types, attributes: Attributes) -> Types:
    type = check_square("linalg.slogdet", types)
    scalar = type.with_shape(type.shape[:-2])
    return (scalar, scalar)


def _evaluate_slogdet(attributes: Attributes, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sign, logarithm = np.linalg.slogdet(a)
    return np.asarray(sign), np.asarray(logarithm)


def _slogdet_gradient(b: Builder, ctx: DerivativeContext, sign_g: Any, g: Any) -> tuple[Any]:
    if g is None:
        return (None,)
    inverse_transposed = inverse(b, transpose(b, ctx.inputs[0]), "linalg.slogdet")
    return (b.mul(inverse_transposed, b.reshape(g, shape=(*b.type_of(g).shape, 1, 1))),)


slogdet = register(
    Op(
        name="slogdet",
        kind=OpKind.HOST,
        infer=_infer_slogdet,
        evaluate=_evaluate_slogdet,
        derivative=_slogdet_gradient,
        saves_inputs=(0,),
        expensive=True,
        doc="Sign and logarithm of the absolute value of the determinant.",
    )
)


# pseudoinverse -----------------------------------------------------------------------------------
def _infer_pinv(types: Types, attributes: Attributes) -> TensorType:
    type = check_matrices("linalg.pinv", types)
    *batch, m, n = type.shape
    return type.with_shape((*batch, n, m))


def _evaluate_pinv(attributes: Attributes, a: np.ndarray) -> np.ndarray:
    *batch, m, n = a.shape
    if not a.size:
        return np.zeros((*batch, n, m), a.dtype)
    u, s, vh = np.linalg.svd(a, full_matrices=False)
    relative = attributes["rtol"]
    if relative is None:
        relative = max(m, n) * float(np.finfo(a.dtype).eps)
    limit = np.maximum(attributes["atol"], relative * s[..., :1])
    kept = s > limit
    scale = np.where(kept, 1 / np.where(kept, s, 1), 0).astype(a.dtype)
    return np.asarray(np.swapaxes(vh, -1, -2) @ (scale[..., None] * np.swapaxes(u, -1, -2)))


def _pinv_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any]:
    """-P^T g P^T + (I - A P) g^T P P^T + P^T P g^T (I - P A), where P is the pseudoinverse."""
    a, p = ctx.inputs[0], ctx.outputs[0]
    p_t, g_t = transpose(b, p), transpose(b, g)
    first = matrix_product(b, matrix_product(b, p_t, g), p_t)
    second = matrix_product(b, matrix_product(b, g_t, p), p_t)
    second = b.sub(second, matrix_product(b, a, matrix_product(b, p, second)))
    third = matrix_product(b, p_t, matrix_product(b, p, g_t))
    third = b.sub(third, matrix_product(b, matrix_product(b, third, p), a))
    return (b.sub(b.add(second, third), first),)


pinv = register(
    Op(
        name="pinv",
        kind=OpKind.HOST,
        infer=_infer_pinv,
        evaluate=_evaluate_pinv,
        derivative=_pinv_gradient,
        saves_inputs=(0,),
        saves_outputs=(0,),
        expensive=True,
        doc="Moore and Penrose's inverse; singular values up to max(atol, rtol s_0) count as 0; "
        "rtol None: max(m, n) eps.",
    )
)


# exponential -------------------------------------------------------------------------------------
def _matrix_exp_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any]:
    """The upper right block of exp([[A^T, g], [0, A^T]])."""
    a = transpose(b, ctx.inputs[0])
    type = b.type_of(a)
    size, row, column = type.shape[-1], len(type.shape) - 2, len(type.shape) - 1
    upper = b.concatenate(a, g, axis=column)
    lower = b.concatenate(b.full_like(0, type), a, axis=column)
    whole = b.matrix_exp(b.concatenate(upper, lower, axis=row))
    return (part(b, part(b, whole, row, 0, size), column, size, size),)


matrix_exp = register(
    Op(
        name="matrix_exp",
        kind=OpKind.HOST,
        infer=lambda types, attributes: check_square("linalg.matrix_exp", types),
        evaluate=lambda attributes, a: dense_algorithms.exponential(a),
        derivative=_matrix_exp_gradient,
        saves_inputs=(0,),
        expensive=True,
        doc="The exponential of square matrices.",
    )
)
