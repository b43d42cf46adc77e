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


def _evaluate_cofactors(attributes: Attributes, a: np.ndarray) -> np.ndarray:
    """det(A) A^-T from the singular values, which exists for singular matrices, too:
    det(U) det(V^T) U diag(products of the other singular values) V^T."""
    if not a.size:
        return a.copy()
    if not np.isfinite(a).all():
        return np.full_like(a, np.nan)
    u, s, vh = np.linalg.svd(a)
    size = s.shape[-1]
    others = np.where(np.eye(size, dtype=bool), 1, s[..., None, :]).prod(axis=-1)
    sign = np.linalg.det(u) * np.linalg.det(vh)
    return np.asarray((u * (np.rint(sign)[..., None] * others)[..., None, :]) @ vh, a.dtype)


def _cofactors_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any]:
    """<g, C> A^-T - A^-T g^T C, for regular matrices."""
    a, cofactor = ctx.inputs[0], ctx.outputs[0]
    inverse_transposed = inverse(b, transpose(b, a), "linalg.det")
    rank = len(b.type_of(a).shape)
    inner = b.sum(b.mul(g, cofactor), axes=(rank - 2, rank - 1))
    inner = b.reshape(inner, shape=(*b.type_of(inner).shape, 1, 1))
    turned = matrix_product(b, matrix_product(b, inverse_transposed, transpose(b, g)), cofactor)
    return (b.sub(b.mul(inverse_transposed, inner), turned),)


cofactors = register(
    Op(
        name="cofactors",
        kind=OpKind.HOST,
        infer=lambda types, attributes: check_square("cofactors", types),
        evaluate=_evaluate_cofactors,
        derivative=_cofactors_gradient,
        saves_inputs=(0,),
        saves_outputs=(0,),
        expensive=True,
        doc="The matrix of cofactors, which is the derivative of the determinant.",
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
    limit = np.maximum(attributes["atol"], attributes["rtol"] * s[..., :1])
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
        doc="Moore and Penrose's inverse; singular values up to max(atol, rtol s_0) count as 0.",
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
