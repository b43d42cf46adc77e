"""LowRankMultivariateNormal: a covariance that is a diagonal and a product of few columns.

Formulas: the matrix inversion and determinant lemmas, by which everything costs as much as the
few columns (K. B. Petersen and M. S. Pedersen, "The Matrix Cookbook", 2012, 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import flamec
from flamec.distributions import constraints
from flamec.distributions.distribution import Constraints
from flamec.distributions.multivariate import NormalOfVectors
from flamec.tensor import Tensor

__all__ = ["LowRankMultivariateNormal"]


class LowRankMultivariateNormal(NormalOfVectors):
    """``loc`` (*, n) and the covariance ``cov_factor @ cov_factor.mT + diag(cov_diag)`` of
    ``cov_factor`` (*, n, k) and ``cov_diag`` (*, n)."""

    arg_constraints: ClassVar[Constraints] = {
        "loc": constraints.real_vector,
        "cov_factor": constraints.independent(constraints.real, 2),
        "cov_diag": constraints.independent(constraints.positive, 1),
    }

    def __init__(
        self,
        loc: Tensor,
        cov_factor: Tensor,
        cov_diag: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        if loc.dim() < 1:
            raise ValueError("loc must be at least one-dimensional.")
        size = loc.shape[-1]
        if cov_factor.dim() < 2:
            raise ValueError(
                "cov_factor must be at least two-dimensional, with optional leading batch "
                "dimensions"
            )
        if cov_factor.shape[-2] != size:
            raise ValueError(f"cov_factor must be a batch of matrices with shape {size} x m")
        if cov_diag.dim() < 1 or cov_diag.shape[-1] != size:
            raise ValueError(f"cov_diag must be a batch of vectors with shape ({size},)")
        batch = flamec.broadcast_shapes(loc.shape[:-1], cov_factor.shape[:-2], cov_diag.shape[:-1])
        self.loc = loc.expand((*batch, size))
        self.cov_factor = cov_factor.expand((*batch, -1, -1))
        self.cov_diag = cov_diag.expand((*batch, size))
        super().__init__(batch, (size,), validate_args)
        scaled = self.cov_factor / self.cov_diag.unsqueeze(-1)
        small = self.cov_factor.mT @ scaled
        self._capacitance_tril = flamec.linalg.cholesky(
            small + flamec.eye(small.shape[-1], dtype=small.dtype, device=small.device)
        )

    @property
    def variance(self) -> Tensor:
        return self.cov_factor.square().sum(-1) + self.cov_diag

    @property
    def covariance_matrix(self) -> Tensor:
        """(*, n, n)."""
        return self.cov_factor @ self.cov_factor.mT + flamec.diag_embed(self.cov_diag)

    @property
    def scale_tril(self) -> Tensor:
        """The Cholesky factor of the covariance."""
        return flamec.linalg.cholesky(self.covariance_matrix)

    @property
    def precision_matrix(self) -> Tensor:
        """The inverse of the covariance."""
        scaled = self.cov_factor.mT / self.cov_diag.unsqueeze(-2)
        inner = flamec.linalg.solve_triangular(self._capacitance_tril, scaled, upper=False)
        return flamec.diag_embed(self.cov_diag.reciprocal()) - inner.mT @ inner

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        of = {"dtype": self.loc.dtype, "device": self.loc.device}
        few = flamec.randn((*shape[:-1], self.cov_factor.shape[-1]), **of)
        own = flamec.randn(shape, **of)
        common = (self.cov_factor @ few.unsqueeze(-1)).squeeze(-1)
        return self.loc + common + self.cov_diag.sqrt() * own

    def _log_det(self) -> Tensor:
        of_few = self._capacitance_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return 2 * of_few + self.cov_diag.log().sum(-1)

    def _squared_distance(self, apart: Tensor) -> Tensor:
        scaled = apart / self.cov_diag
        few = self.cov_factor.mT @ scaled.unsqueeze(-1)
        tril = self._capacitance_tril.expand(*few.shape[:-2], -1, -1)
        inner = flamec.linalg.solve_triangular(tril, few, upper=False).squeeze(-1)
        return (apart * scaled).sum(-1) - inner.square().sum(-1)
