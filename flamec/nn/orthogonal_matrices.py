"""Matrices that stay orthogonal, as a parametrisation.

Lezcano-Casado, "Trivializations for gradient-based optimization on manifolds" (NeurIPS 2019).
"""

from __future__ import annotations

from flamec.dtype_limits import finfo
from flamec.functional.comparison import allclose
from flamec.functional.creation import eye, zeros_like
from flamec.functional.decompositions import linalg_qr
from flamec.functional.joining import cat
from flamec.functional.linear_systems import solve
from flamec.functional.matrix_functions import matrix_exp
from flamec.functional.reflections import geqrf, householder_product
from flamec.functional.sampling import randn
from flamec.functional.unary import sgn
from flamec.nn.module import Module
from flamec.nn.parametrize import register_parametrization
from flamec.state import no_grad
from flamec.tensor import Tensor

__all__ = ["orthogonal"]

_MAPS = ("matrix_exp", "cayley", "householder")


class _Orthogonal(Module):
    """The matrices X of ``shape`` made orthogonal by a map; with ``base``, times a constant one.

    Of X the part below the diagonal is used, and by ``"householder"`` the diagonal's signs.
    """

    base: Tensor

    def __init__(self, weight: Tensor, orthogonal_map: str, use_trivialization: bool) -> None:
        super().__init__()
        self.shape = weight.shape
        self.orthogonal_map = orthogonal_map
        if use_trivialization:
            self.register_buffer("base", None)

    def forward(self, X: Tensor) -> Tensor:
        wide = X.shape[-2] < X.shape[-1]
        tall = X.mT if wide else X
        if self.orthogonal_map == "householder":
            below = tall.tril(-1)
            made = householder_product(below, 2.0 / (1.0 + (below * below).sum(-2)))
            made = made * tall.detach().diagonal(dim1=-2, dim2=-1).int().unsqueeze(-2)
        else:
            made = self._of_skew(tall)
        if hasattr(self, "base"):
            made = self.base @ made
        return made.mT if wide else made

    def _of_skew(self, tall: Tensor) -> Tensor:
        """The first columns of a map of the skew-symmetric matrix that has these below its
        diagonal."""
        rows, columns = tall.shape[-2:]
        square = tall.tril()
        if rows != columns:
            square = cat([square, square.new_zeros(*tall.shape[:-1], rows - columns)], -1)
        skew = square - square.mT
        if self.orthogonal_map == "matrix_exp":
            made = matrix_exp(skew)
        else:  # (I + A/2) (I - A/2)^-1
            one = eye(rows, dtype=skew.dtype, device=skew.device)
            made = solve(one - 0.5 * skew, one + 0.5 * skew)
        return made if rows == columns else made[..., :columns]

    def right_inverse(self, Q: Tensor) -> Tensor:
        if Q.shape != self.shape:
            raise ValueError(
                f"Expected a matrix or batch of matrices of shape {self.shape}. "
                f"Got a tensor of shape {Q.shape}."
            )
        wide = Q.shape[-2] < Q.shape[-1]
        with no_grad():
            tall = Q.mT if wide else Q
            if not hasattr(self, "base"):
                found = self._factored(tall)
                return found.mT if wide else found
            self.base = _completed(tall)
            start = zeros_like(Q)  # the maps make the identity of it
            start.diagonal(dim1=-2, dim2=-1).fill_(-1.0)
            return start

    def _factored(self, tall: Tensor) -> Tensor:
        """Reflectors below a diagonal of signs, whose product is the orthogonal factor of a matrix
        with a positive diagonal in the other factor."""
        if self.orthogonal_map != "householder":
            raise NotImplementedError(
                "It is not possible to assign to the matrix exponential or the Cayley "
                "parametrizations when use_trivialization=False."
            )
        factors, tau = geqrf(tall)
        diagonal = factors.diagonal(dim1=-2, dim2=-1)
        # LAPACK's factor is exactly 0 where nothing is reflected
        signs = diagonal.sign() * (1 - 2 * (tau == 0).to(tau.dtype))
        diagonal.copy_(signs)
        return factors


def _completed(tall: Tensor) -> Tensor:
    """A square orthogonal matrix whose first columns are these, made orthogonal if they are not."""
    *batch, rows, columns = tall.shape
    if rows > columns:
        more = randn(*batch, rows, rows - columns, dtype=tall.dtype, device=tall.device)
        return _made_orthogonal(cat([tall, more], -1))
    one = eye(columns, dtype=tall.dtype, device=tall.device)
    slack = 10.0 * rows * finfo(tall.dtype).eps
    return tall.clone() if allclose(tall.mT @ tall, one, atol=slack) else _made_orthogonal(tall)


def _made_orthogonal(square: Tensor) -> Tensor:
    """The orthogonal factor for a positive diagonal of the other one."""
    q, r = linalg_qr(square)
    return q * sgn(r.diagonal(dim1=-2, dim2=-1)).unsqueeze(-2)


def orthogonal(
    module: Module,
    name: str = "weight",
    orthogonal_map: str | None = None,
    *,
    use_trivialization: bool = True,
) -> Module:
    """Keep a matrix, or each of a batch, orthogonal: its columns or, if there are fewer, its rows.

    ``orthogonal_map``: what makes it of a matrix without constraints: ``"matrix_exp"`` (the default
    for square ones) or ``"cayley"`` of a skew-symmetric matrix, or a product of ``"householder"``
    reflections. ``use_trivialization``: times a constant orthogonal matrix, at first the weight's
    own orthogonal factor (``parametrizations.weight[0].base``). ValueError for a name without a
    tensor, fewer than two dimensions, or an unknown map.
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    if weight.ndim < 2:
        raise ValueError(
            f"Expected a matrix or batch of matrices. Got a tensor of {weight.ndim} dimensions."
        )
    if orthogonal_map is None:
        square = weight.shape[-2] == weight.shape[-1]
        orthogonal_map = "matrix_exp" if square else "householder"
    if orthogonal_map not in _MAPS:
        raise ValueError(
            'orthogonal_map has to be one of "matrix_exp", "cayley", "householder". '
            f"Got: {orthogonal_map}"
        )
    made = _Orthogonal(weight, orthogonal_map, use_trivialization)
    return register_parametrization(module, name, made, unsafe=True)
