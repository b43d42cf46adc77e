"""Householder reflections: products of them, and the ones that make a matrix triangular.

The reflection of a column v with v_i = 1 and zeros above is I - tau v v^T. Columns lie below the
diagonal of a matrix, as LAPACK keeps them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flamec import return_types
from flamec.errors import OperationError, user_location
from flamec.functional.arguments import public
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.creation import eye, ones_like
from flamec.functional.decompositions import matrices
from flamec.functional.elementwise import copysign, hypot, where
from flamec.functional.joining import cat, stack
from flamec.functional.linear_systems import solve_triangular
from flamec.functional.promotion import require_tensor
from flamec.tensor import Tensor

__all__ = ["geqrf", "householder_product", "orgqr"]


@autocasts(cpu=FLOAT32)
@public
def householder_product(input: Tensor, tau: Tensor) -> Tensor:
    """The first n columns of H_1 H_2 … H_k: ``input`` [*, m, n] has the columns of the reflections
    below its diagonal, ``tau`` [*, k] their factors; m >= n >= k.

    In the compact form I - V T V^T (Schreiber and Van Loan, "A storage-efficient WY representation
    for products of Householder transformations", SIAM J. Sci. Stat. Comput. 10(1), 1989).
    """
    a = matrices("linalg.householder_product", input)
    factors = require_tensor("linalg.householder_product", "tau", tau)
    rows, columns = a.shape[-2:]
    _check(a, factors)
    count = factors.shape[-1]
    one = eye(rows, columns, dtype=a.dtype, device=a.device)
    v = a[..., :count].tril(-1) + one[:, :count]
    weights = factors.unsqueeze(-1)
    # T of T^-1 = diag(1 / tau) + the upper part of V^T V, also where a factor is 0
    upper = weights * (v.mT @ v).triu(1)
    t = solve_triangular(upper, weights * v[..., :columns, :].mT, upper=True, unitriangular=True)
    return one - v @ t


def _check(a: Tensor, tau: Tensor) -> None:
    rows, columns = a.shape[-2:]
    wrong = ""
    if rows < columns:
        wrong = f"input.shape[-2] must be greater than or equal to input.shape[-1], not {a.shape}"
    elif tau.ndim != a.ndim - 1 or tau.shape[:-1] != a.shape[:-2]:
        wrong = (
            f"tau of shape {tau.shape} must have the dimensions before the matrices of {a.shape}"
        )
    elif columns < tau.shape[-1]:
        wrong = f"input.shape[-1] must be greater than or equal to tau.shape[-1], not {tau.shape}"
    elif tau.dtype is not a.dtype:
        wrong = f"tau dtype {tau.dtype} does not match input dtype {a.dtype}"
    if wrong:
        raise OperationError(f"linalg.householder_product: {wrong} (at {user_location()})")


@autocasts(cpu=FLOAT32)
@public
def orgqr(input: Tensor, input2: Tensor) -> Tensor:
    """``linalg.householder_product``."""
    return householder_product(input, input2)


@autocasts(cpu=FLOAT32)
@public
def geqrf(input: Tensor) -> Any:
    """(a, tau): reflections below the diagonal of ``a``, [*, m, n] as ``input``, and their factors,
    [*, min(m, n)], whose product is the orthogonal factor; the other one is above.

    LAPACK's choice of signs (Golub and Van Loan, Matrix Computations, 5.1 and 5.2): the diagonal of
    the triangular factor has the opposite sign of what it replaces, a column with zeros below is
    not reflected.
    """
    rest: Any = matrices("geqrf", input)
    finished: list[Any] = []
    factors: list[Any] = []
    rows, columns = rest.shape[-2:]
    for step in range(min(rows, columns)):
        first, rest = rest[..., 0], rest[..., 1:]
        head, below = first[..., step], first[..., step + 1 :]
        total = (below * below).sum(-1)
        kept = total == 0
        norm = where(kept, 1.0, total).sqrt()
        diagonal = where(kept, head, -copysign(hypot(head, norm), head))
        scale = where(kept, 1.0, head - diagonal)
        tau = where(kept, 0.0, -scale / where(kept, 1.0, diagonal))
        direction = below / scale.unsqueeze(-1)
        finished.append(cat([first[..., :step], diagonal.unsqueeze(-1), direction], -1))
        factors.append(tau)
        v = cat([ones_like(head).unsqueeze(-1), direction], -1).unsqueeze(-1)
        block = rest[..., step:, :]
        block = block - tau[..., None, None] * v @ (v.mT @ block)
        rest = cat([rest[..., :step, :], block], -2)
    if not finished:
        return return_types.geqrf(rest, rest.new_zeros(*rest.shape[:-2], 0))
    return return_types.geqrf(cat([stack(finished, -1), rest], -1), stack(factors, -1))


TENSOR_METHODS: dict[str, Callable[..., Any]] = {"geqrf": geqrf, "orgqr": orgqr}
