"""Linear systems and what follows from them: solve, inv, pinv, lstsq, det, slogdet, rank.

In: float32 or float64 matrices in the last two dimensions; batches broadcast. The host computes
factors (LAPACK through NumPy), also inside compiled functions and for tensors on a GPU, which are
carried over. LinAlgError names the matrix of the batch that is singular.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from flamec import return_types
from flamec.errors import OperationError, user_location
from flamec.functional.arguments import public
from flamec.functional.arithmetic import mul
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.decompositions import (
    eigvalsh,
    first_zero_pivot,
    in_order,
    matrices,
    refuse_failure,
    svdvals,
    unpacked,
)
from flamec.functional.matrix import matmul
from flamec.functional.primitives import is_empty_size, ops, require, transposed
from flamec.functional.promotion import is_number, require_tensor
from flamec.functional.shape import broadcast_shapes
from flamec.functional.sorting import sorted_along
from flamec.functional.unary import copied
from flamec.ir.ops.matrices import identity_like
from flamec.ir.shape import equal, format_shape, maximum, product
from flamec.ir.types import int64
from flamec.tensor import Tensor
from flamec.values import concrete_array


def square(name: str, value: Any) -> Tensor:
    """``value`` itself; an error unless it holds square matrices."""
    x = matrices(name, value)
    require(
        equal(x._type.shape[-1], x._type.shape[-2]),
        f"{name}: A must be batches of square matrices, but they are {x._type.shape[-2]} by "
        f"{x._type.shape[-1]} matrices",
    )
    return x


def in_batches(*operands: Tensor) -> list[Tensor]:
    """Matrices whose batches are broadcast to one shape."""
    batch = broadcast_shapes(*[x._type.shape[:-2] for x in operands])
    return [ops.expand_to(x, (*batch, *x._type.shape[-2:])) for x in operands]


def _dropped(x: Tensor) -> Tensor:
    """Matrices of one column as vectors."""
    result: Tensor = ops.reshape(x, shape=x._type.shape[:-1])
    return result


def _raised(x: Tensor) -> Tensor:
    """Vectors as matrices of one column."""
    result: Tensor = ops.reshape(x, shape=(*x._type.shape, 1))
    return result


def _check_rows(name: str, a: Tensor, b: Tensor, axis: int) -> None:
    require(
        equal(a._type.shape[-1], b._type.shape[axis]),
        f"{name}: Incompatible shapes of A and B for the equation "
        f"{'AX' if axis == -2 else 'XA'} = B ({format_shape(a._type.shape)} and "
        f"{format_shape(b._type.shape)})",
    )


# systems ---------------------------------------------------------------------------------


@autocasts(cpu=FLOAT32)
@public
def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """X with A X = B, or X A = B without ``left``; B may hold vectors.

    B counts as vectors if it has one dimension, or the shape of A without the last one.
    LinAlgError if a matrix is singular.
    """
    name = "linalg.solve"
    a, right, vectors = _system(name, A, B, left)
    x = ops.solve(*in_batches(a, right), caller=name, refuse_singular=True)
    return _solution(x, vectors, left)


def _system(name: str, A: Any, B: Any, left: bool) -> tuple[Tensor, Tensor, bool]:
    """Both sides of A X = B, and whether B holds vectors."""
    a, b = square(name, A), require_tensor(name, "B", B)
    vectors = b.ndim == 1 or (
        b.ndim == a.ndim - 1 and all(map(equal, b._type.shape, a._type.shape[:-1]))
    )
    right = _raised(b) if vectors else matrices(name, b)
    if not left and not vectors:
        a, right = transposed(a), transposed(right)
    require(left or not vectors, f"{name}: left=False is not supported for vectors B")
    _check_rows(name, a, right, -2)
    return a, right, vectors


def _solution(x: Tensor, vectors: bool, left: bool) -> Tensor:
    if vectors:
        return _dropped(x)
    return x if left else transposed(x)


@public
def solve_triangular(
    A: Tensor, B: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Tensor:
    """X with A X = B (X A = B without ``left``) for one triangle of A.

    With ``unitriangular`` the diagonal counts as 1. A zero on it gives infinities or NaN.
    """
    name = "linalg.solve_triangular"
    a, b = square(name, A), matrices(name, B)
    if not left:
        a, b, upper = transposed(a), transposed(b), not upper
    _check_rows(name, a, b, -2)
    x = ops.solve_triangular(
        *in_batches(a, b), upper=bool(upper), unitriangular=bool(unitriangular)
    )
    return x if left else transposed(x)


@autocasts(cpu=FLOAT32)
@public
def triangular_solve(
    input: Tensor,
    A: Tensor,
    upper: bool = True,
    transpose: bool = False,
    unitriangular: bool = False,
) -> tuple[Tensor, Tensor]:
    """X with A X = input, or A^T X = input with ``transpose``, and A."""
    a = square("triangular_solve", A)
    a, upper = (transposed(a), not upper) if transpose else (a, upper)
    return solve_triangular(a, input, upper=upper, unitriangular=unitriangular), A


@public
def linalg_lu_solve(
    LU: Tensor, pivots: Tensor, B: Tensor, *, left: bool = True, adjoint: bool = False
) -> Tensor:
    """X with A X = B (X A = B without ``left``; A^T with ``adjoint``) for A's ``lu_factor``."""
    name = "linalg.lu_solve"
    packed, b = square(name, LU), matrices(name, B)
    if not left:
        return transposed(linalg_lu_solve(LU, pivots, transposed(b), adjoint=not adjoint))
    _check_rows(name, packed, b, -2)
    order = ops.row_order(packed, pivots)
    packed, b = in_batches(packed, b)
    order = ops.expand_to(order, packed._type.shape[:-1])
    lower, upper = unpacked(packed)
    if adjoint:
        x = ops.solve_triangular(transposed(upper), b, upper=False, unitriangular=False)
        x = ops.solve_triangular(transposed(lower), x, upper=True, unitriangular=True)
        return in_order(x, sorted_along(order, order.ndim - 1)[1])
    x = ops.solve_triangular(lower, in_order(b, order), upper=False, unitriangular=True)
    return ops.solve_triangular(upper, x, upper=True, unitriangular=False)


@autocasts(cpu=FLOAT32)
@public
def lu_solve(input: Tensor, LU_data: Tensor, LU_pivots: Tensor) -> Tensor:
    """``linalg.lu_solve`` with its arguments in another order."""
    return linalg_lu_solve(LU_data, LU_pivots, input)


@autocasts(cpu=FLOAT32)
@public
def cholesky_solve(input: Tensor, input2: Tensor, upper: bool = False) -> Tensor:
    """X with A X = input, for the ``cholesky`` factor of A (or with ``upper`` its transpose)."""
    factor = square("cholesky_solve", input2)
    lower = transposed(factor) if upper else factor
    x = solve_triangular(lower, input, upper=False)
    return solve_triangular(transposed(lower), x, upper=True)


@autocasts(cpu=FLOAT32)
@public
def cholesky_inverse(input: Tensor, upper: bool = False) -> Tensor:
    """The inverse of A, for the ``cholesky`` factor of A (or with ``upper`` its transpose)."""
    factor = square("cholesky_inverse", input)
    return cholesky_solve(identity_like(ops, factor), factor, upper)


# inverses --------------------------------------------------------------------------------


@autocasts(cpu=FLOAT32)
@public
def inv(A: Tensor) -> Tensor:
    """The inverse of square matrices; LinAlgError if one is singular."""
    a = square("linalg.inv", A)
    result: Tensor = ops.solve(a, identity_like(ops, a), caller="linalg.inv", refuse_singular=True)
    return result


def _with_info(name: str, a: Tensor, b: Tensor, check_errors: bool) -> tuple[Tensor, Tensor]:
    """X with A X = B, infinite where A is singular, and the first zero pivot of each A."""
    info = first_zero_pivot(ops.lu(ops.detach(a))[0])
    if check_errors:
        refuse_failure(name, info)
    return ops.solve(*in_batches(a, b), caller=name, refuse_singular=False), info


@autocasts(cpu=FLOAT32)
@public
def inv_ex(A: Tensor, *, check_errors: bool = False) -> Any:
    """``inv`` as (inverse, info): info is int32, and 0 where A is regular.

    Elsewhere it is the number of the first zero pivot, and the inverse is infinite. With
    ``check_errors`` that is a LinAlgError.
    """
    a = square("linalg.inv_ex", A)
    both = _with_info("linalg.inv_ex", a, identity_like(ops, a), check_errors)
    return return_types.linalg_inv_ex(*both)


@autocasts(cpu=FLOAT32)
@public
def solve_ex(A: Tensor, B: Tensor, *, left: bool = True, check_errors: bool = False) -> Any:
    """``solve`` as (result, info), with info as of ``inv_ex``."""
    name = "linalg.solve_ex"
    a, right, vectors = _system(name, A, B, left)
    x, info = _with_info(name, a, right, check_errors)
    return return_types.linalg_solve_ex(_solution(x, vectors, left), info)


def _tolerances(name: str, atol: Any, rtol: Any) -> tuple[float, float | None]:
    """Both as numbers; rtol is None, for max(m, n) eps, unless it or a positive atol is given."""
    given = []
    for value in (atol, rtol):
        if isinstance(value, Tensor):
            require(value.ndim == 0, f"{name}: a tolerance for each matrix is not supported")
            value = float(concrete_array(value, f"a tolerance of {name}()"))
        require(value is None or is_number(value), f"{name}: atol and rtol must be numbers")
        given.append(value)
    low, relative = given
    if relative is None and low:
        relative = 0.0
    return float(low or 0.0), None if relative is None else float(relative)


@public
def pinv(
    A: Tensor,
    rcond: Any = None,
    hermitian: bool = False,
    *,
    atol: Any = None,
    rtol: Any = None,
) -> Tensor:
    """Moore and Penrose's inverse.

    Singular values up to max(atol, rtol s_0) count as 0; ``rtol`` (or ``rcond``) is max(m, n) eps
    unless it or a positive ``atol`` is given. With ``hermitian`` only the lower triangle is read.
    """
    a = matrices("linalg.pinv", A)
    low, relative = _tolerances("linalg.pinv", atol, rcond if rtol is None else rtol)
    if hermitian:
        a = _mirrored(square("linalg.pinv", a))
    return ops.pinv(a, atol=low, rtol=relative)


def _mirrored(a: Tensor) -> Tensor:
    """Square matrices with the lower triangle's elements in the upper one, too.

    Gradients are those of the whole matrix, as if it had been symmetric.
    """
    source = ops.detach(a)
    size, rank = a._type.shape[-1], a.ndim
    device = a._type.device
    row = ops.iota(shape=(size, size), axis=0, dtype=int64, device=device)
    column = ops.iota(shape=(size, size), axis=1, dtype=int64, device=device)
    above = ops.expand_to(ops.gt(column, row), a._type.shape) if rank > 2 else ops.gt(column, row)
    return ops.add(a, ops.where(above, ops.sub(transposed(source), source), 0.0))


@autocasts(cpu=FLOAT32)
@public
def pinverse(input: Tensor, rcond: float = 1e-15) -> Tensor:
    """``linalg.pinv``."""
    return pinv(input, rcond)


@autocasts(cpu=FLOAT32)
@public
def matrix_rank(
    A: Tensor, tol: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None
) -> Tensor:
    """How many singular values exceed max(atol, rtol s_0); tolerances as those of ``pinv``.

    A tolerance may also be a tensor of one for each matrix, which broadcasts with the batch. With
    ``hermitian`` the absolute values of the eigenvalues.
    """
    name = "linalg.matrix_rank"
    a = matrices(name, A)
    low, relative = _tolerances_of_each(name, a, tol if atol is None else atol, rtol)
    a = ops.detach(a)
    batch = a._type.shape[:-2]
    for tolerance in (low, relative):
        if isinstance(tolerance, Tensor):
            batch = broadcast_shapes(batch, tolerance._type.shape)
    if is_empty_size(product(a._type.shape[-2:])):
        return ops.full(value=0, shape=batch, dtype=int64, device=a._type.device)
    values = ops.abs(eigvalsh(a)) if hermitian else svdvals(a)
    greatest = ops.amax(values, axes=(values.ndim - 1,))
    limit = ops.maximum(mul(greatest, relative), low)
    limit = ops.reshape(ops.expand_to(limit, batch), shape=(*batch, 1))
    return ops.sum(ops.cast(ops.gt(values, limit), int64), axes=(len(batch),))


def _default_rtol(a: Tensor) -> Any:
    return maximum(*a._type.shape[-2:]) * float(np.finfo(a._type.dtype.numpy).eps)


def _tolerances_of_each(name: str, a: Tensor, atol: Any, rtol: Any) -> tuple[Any, Any]:
    """As ``_tolerances``, with tensors for those that are tensors of one for each matrix."""
    if not any(isinstance(v, Tensor) and v.ndim for v in (atol, rtol)):
        low, relative = _tolerances(name, atol, rtol)
        if relative is None:
            relative = _default_rtol(a)
        return low, relative
    for given in (atol, rtol):
        require(
            given is None or isinstance(given, Tensor) or is_number(given),
            f"{name}: atol and rtol must be tensors or numbers",
        )
    dtype = a._type.dtype
    low, relative = (ops.cast(v, dtype) if isinstance(v, Tensor) else v for v in (atol, rtol))
    if relative is None:
        relative = _default_rtol(a)
        if isinstance(low, Tensor):
            relative = mul(ops.cast(ops.le(low, 0.0), dtype), relative)
    return (0.0 if low is None else low), relative


@autocasts(cpu=FLOAT32)
@public
def lstsq(A: Tensor, B: Tensor, rcond: float | None = None, *, driver: str | None = None) -> Any:
    """The X of least norm that minimises |A X - B|, its residuals, A's rank and singular values.

    By the pseudoinverse, whatever the ``driver``, which is "gelsy" on the CPU and "gels" on a GPU
    if none is named. ``residuals``: the squared distances, if all matrices have full rank and more
    rows than columns, and the driver is not "gelsy", else empty. ``rank``: with other drivers than
    "gels"; ``singular_values``: with "gelsd" and "gelss"; else empty.
    """
    name = "linalg.lstsq"
    drivers = (None, "gels", "gelsy", "gelsd", "gelss")
    require(driver in drivers, f"{name}: parameter `driver` should be one of {drivers[1:]}")
    a, b = matrices(name, A), require_tensor(name, "B", B)
    if driver is None:
        driver = "gelsy" if a._type.device.type == "cpu" else "gels"
    vectors = b.ndim == a.ndim - 1 and all(map(equal, b._type.shape, a._type.shape[:-1]))
    right = _raised(b) if vectors else matrices(name, b)
    require(
        equal(a._type.shape[-2], right._type.shape[-2]),
        f"{name}: input.size(-2) should match other.size(-2), got {format_shape(a._type.shape)} "
        f"and {format_shape(b._type.shape)}",
    )
    x = matmul(pinv(a, rcond), right)
    device, dtype = a._type.device, a._type.dtype

    def nothing(kind: Any) -> Tensor:
        return ops.full(value=0, shape=(0,), dtype=kind, device=device)

    rank = nothing(int64) if driver == "gels" else matrix_rank(a, rtol=rcond)
    *_, m, n = a._type.shape
    residuals = nothing(dtype)
    if driver == "gelsy":
        return return_types.linalg_lstsq(
            _dropped(x) if vectors else x, residuals, rank, nothing(dtype)
        )
    if isinstance(m, int) and isinstance(n, int) and m > n and _has_full_rank(a, n, rcond):
        off = ops.sub(*in_batches(matmul(a, x), right))
        residuals = ops.sum(ops.mul(off, off), axes=(off.ndim - 2,))
    values = svdvals(ops.detach(a)) if driver in ("gelsd", "gelss") else nothing(dtype)
    solution = _dropped(x) if vectors else x
    return return_types.linalg_lstsq(solution, residuals, rank, values)


def _has_full_rank(a: Tensor, columns: int, rcond: Any) -> bool:
    ranks = concrete_array(matrix_rank(a, rtol=rcond), "linalg.lstsq() with more rows than columns")
    return bool((ranks == columns).all())


# determinants ----------------------------------------------------------------------------


@public
def det(A: Tensor) -> Tensor:
    """The determinant of square matrices."""
    return ops.det(square("linalg.det", A))


@public
def linalg_slogdet(A: Tensor) -> Any:
    """The sign of the determinant (0 if it is 0) and the logarithm of its absolute value."""
    return return_types.linalg_slogdet(*ops.slogdet(square("linalg.slogdet", A)))


@public
def slogdet(input: Tensor) -> Any:
    """``linalg.slogdet``."""
    return return_types.slogdet(*linalg_slogdet(input))


@public
def logdet(input: Tensor) -> Tensor:
    """The logarithm of the determinant: NaN if it is negative, -inf if it is 0."""
    sign, logarithm = linalg_slogdet(input)
    return ops.where(ops.lt(sign, 0.0), math.nan, logarithm)


# systems of tensors ----------------------------------------------------------------------


@autocasts(cpu=FLOAT32)
@public
def tensorinv(A: Tensor, ind: int = 2) -> Tensor:
    """The inverse for ``tensordot`` over the first ``ind`` dimensions."""
    a = require_tensor("linalg.tensorinv", "A", A)
    require(ind > 0, "linalg.tensorinv: expected a strictly positive integer for 'ind'")
    shape = a._type.shape
    rows, columns = shape[:ind], shape[ind:]
    require(
        equal(product(rows), product(columns)),
        f"linalg.tensorinv: expected self to satisfy prod(shape[:ind]) == prod(shape[ind:]), "
        f"got shape {format_shape(shape)}, ind={ind}",
    )
    flat = ops.reshape(a, shape=(product(rows), product(columns)))
    return ops.reshape(inv(flat), shape=(*columns, *rows))


@autocasts(cpu=FLOAT32)
@public
def tensorsolve(A: Tensor, B: Tensor, dims: tuple[int, ...] | None = None) -> Tensor:
    """X with ``tensordot(A, X, X.ndim) = B``; the dimensions ``dims`` of A are moved to the end."""
    a = require_tensor("linalg.tensorsolve", "A", A)
    b = require_tensor("linalg.tensorsolve", "B", B)
    if dims is not None:
        moved = [d % a.ndim for d in dims]
        a = ops.permute(a, axes=(*(i for i in range(a.ndim) if i not in moved), *moved))
    rest = a._type.shape[b.ndim :]
    count = product(b._type.shape)
    if not equal(product(rest), count):
        raise OperationError(
            f"linalg.tensorsolve: the dimensions of A {format_shape(a._type.shape)} do not make a "
            f"square system for B {format_shape(b._type.shape)} (at {user_location()})"
        )
    flat = ops.reshape(a, shape=(count, count))
    x = solve(flat, ops.reshape(b, shape=(count,)))
    return copied(ops.reshape(x, shape=rest))


__all__ = [
    "cholesky_inverse", "cholesky_solve", "logdet", "lu_solve", "pinverse", "slogdet",
    "triangular_solve",
]  # fmt: skip

TENSOR_METHODS: dict[str, Callable[..., Any]] = {
    **{name: globals()[name] for name in __all__},
    "det": det,
    "inverse": inv,
}
