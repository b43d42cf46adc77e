"""Normal distributions of vectors: what they share, and those with a covariance of any form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flamec
from flamec.distributions import constraints
from flamec.distributions.constraints import Constraint
from flamec.distributions.distribution import Constraints, Distribution
from flamec.tensor import Tensor

__all__ = ["MultivariateNormal", "NormalOfVectors"]


def _precision_to_scale_tril(precision: Tensor) -> Tensor:
    """The lower Cholesky factor of the inverse, from that of the matrix turned around."""
    flipped = flamec.linalg.cholesky(precision.flip((-2, -1)))
    inverse = flipped.flip((-2, -1)).mT
    identity = flamec.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
    return flamec.linalg.solve_triangular(inverse, identity, upper=False)


class NormalOfVectors(Distribution):
    """A normal distribution with mean ``loc`` [..., n], whatever form its covariance has."""

    loc: Tensor
    has_rsample = True

    def _log_det(self) -> Tensor:
        """The logarithm of the covariance's determinant, [...]."""
        raise NotImplementedError

    def _squared_distance(self, apart: Tensor) -> Tensor:
        """``apart`` times the inverse of the covariance times ``apart``: [..., n] to [...]."""
        raise NotImplementedError

    @property
    def support(self) -> Constraint:
        return constraints.real_vector

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        norm = self._event_shape[0] * math.log(2 * math.pi) + self._log_det()
        return -0.5 * (norm + self._squared_distance(value - self.loc))

    def entropy(self) -> Tensor:
        size = self._event_shape[0]
        return 0.5 * (size * (1 + math.log(2 * math.pi)) + self._log_det())


class MultivariateNormal(NormalOfVectors):
    """Mean ``loc`` [..., n] and one of three forms of the covariance [..., n, n].

    ``scale_tril`` is its lower Cholesky factor, which the others are turned into.
    """

    arg_constraints: ClassVar[Constraints] = {
        "loc": constraints.real_vector,
        "covariance_matrix": constraints.positive_definite,
        "precision_matrix": constraints.positive_definite,
        "scale_tril": constraints.lower_cholesky,
    }

    def __init__(
        self,
        loc: Tensor,
        covariance_matrix: Tensor | None = None,
        precision_matrix: Tensor | None = None,
        scale_tril: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if loc.ndim < 1:
            raise ValueError("loc must be at least one-dimensional.")
        forms = {
            "scale_tril": scale_tril,
            "covariance_matrix": covariance_matrix,
            "precision_matrix": precision_matrix,
        }
        given = {name: matrix for name, matrix in forms.items() if matrix is not None}
        if len(given) != 1:
            raise ValueError(
                "Exactly one of covariance_matrix or precision_matrix or scale_tril may be "
                "specified."
            )
        ((name, matrix),) = given.items()
        if matrix.ndim < 2:
            raise ValueError(
                f"{name} must be at least two-dimensional, with optional leading batch dimensions"
            )
        batch = flamec.broadcast_shapes(matrix.shape[:-2], loc.shape[:-1])
        self.loc = loc.expand((*batch, -1))
        self.__dict__[name] = matrix = matrix.expand((*batch, -1, -1))
        super().__init__(batch, self.loc.shape[-1:], validate_args)
        if name == "covariance_matrix":
            self._factor = flamec.linalg.cholesky(matrix)
        elif name == "precision_matrix":
            self._factor = _precision_to_scale_tril(matrix)
        else:
            self._factor = matrix

    def __getattr__(self, name: str) -> Any:
        factor = self.__dict__.get("_factor")
        if factor is not None and name == "scale_tril":
            return factor
        if factor is not None and name == "covariance_matrix":
            return factor @ factor.mT
        if factor is not None and name == "precision_matrix":
            identity = flamec.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
            return flamec.cholesky_solve(identity.expand_as(factor), factor)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def variance(self) -> Tensor:
        return self._factor.square().sum(-1)

    def rsample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        noise = flamec.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + (self._factor @ noise.unsqueeze(-1)).squeeze(-1)

    def _log_det(self) -> Tensor:
        return 2 * self._factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def _squared_distance(self, apart: Tensor) -> Tensor:
        factor = self._factor.expand(*apart.shape[:-1], -1, -1)
        z = flamec.linalg.solve_triangular(factor, apart.unsqueeze(-1), upper=False)
        return z.squeeze(-1).square().sum(-1)
