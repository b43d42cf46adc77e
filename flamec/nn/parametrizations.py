"""Weight and spectral normalisation as parametrisations."""

from __future__ import annotations

from flamec.dispatch import write
from flamec.functional.distance import normalize
from flamec.functional.primitives import ops
from flamec.nn.module import Module
from flamec.nn.parametrize import register_parametrization
from flamec.state import no_grad
from flamec.tensor import Tensor

__all__ = ["spectral_norm", "weight_norm"]


def as_matrix(weight: Tensor, dim: int) -> Tensor:
    """The weight with dimension ``dim`` as rows and the others as columns."""
    if dim != 0:
        weight = weight.permute(dim, *(d for d in range(weight.ndim) if d != dim))
    return weight.flatten(1)


def output_dimension(module: Module) -> int:
    """The dimension of a layer's weight that counts its outputs."""
    return 1 if getattr(module, "transposed", False) is True else 0


class _WeightNorm(Module):
    """g * v / |v|: length and direction apart (Salimans and Kingma 2016).

    ``dim``: the dimension along which there is a length each; -1: one length for all.
    """

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def _norm(self, v: Tensor) -> Tensor:
        rank = len(v._type.shape)
        axes = tuple(i for i in range(rank) if self.dim == -1 or i != self.dim)
        total = ops.sum(ops.mul(v, v), axes=axes)
        if self.dim != -1:
            kept = tuple(d if i == self.dim else 1 for i, d in enumerate(v._type.shape))
            total = ops.reshape(total, shape=kept)
        return ops.sqrt(total)

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return weight_v * (weight_g / self._norm(weight_v))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self._norm(weight), weight


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Learn a weight's lengths and direction apart; the originals are ``original0``, ``original1``.

    ``dim``: there is a length for each index of this dimension; None: one for the whole tensor.
    """
    return register_parametrization(module, name, _WeightNorm(dim), unsafe=True)


class _SpectralNorm(Module):
    """weight / its largest singular value, which power iterations follow (Miyato et al. 2018).

    In training each read makes ``n_power_iterations`` iterations on the buffers.
    """

    _u: Tensor
    _v: Tensor

    def __init__(
        self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12
    ) -> None:
        super().__init__()
        rank = weight.ndim
        if not -rank <= dim < rank:
            raise IndexError(
                f"Dimension out of range (expected to be in range of [-{rank}, {rank - 1}] but got "
                f"{dim})"
            )
        if n_power_iterations <= 0:
            raise ValueError(
                "Expected n_power_iterations to be positive, but got "
                f"n_power_iterations={n_power_iterations}"
            )
        self.dim = dim % rank
        self.eps = eps
        if rank > 1:
            self.n_power_iterations = n_power_iterations
            with no_grad():
                matrix = as_matrix(weight.detach(), self.dim)
                rows, columns = matrix.shape
                for key, size in (("_u", rows), ("_v", columns)):
                    start = matrix.new_empty(size).normal_(0, 1)
                    self.register_buffer(key, normalize(start, dim=0, eps=eps))
                self._iterate(matrix, 15)

    def _iterate(self, matrix: Tensor, count: int) -> None:
        with no_grad():
            for _ in range(count):
                u = normalize(matrix.mv(self._v), dim=0, eps=self.eps)
                write(self._u, u, "spectral_norm")
                v = normalize(matrix.t().mv(self._u), dim=0, eps=self.eps)
                write(self._v, v, "spectral_norm")

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return normalize(weight, dim=0, eps=self.eps)
        matrix = as_matrix(weight, self.dim)
        if self.training:
            self._iterate(matrix.detach(), self.n_power_iterations)
        u, v = self._u.clone(), self._v.clone()
        return weight / u.dot(matrix.mv(v))

    def right_inverse(self, value: Tensor) -> Tensor:
        return value


def spectral_norm(
    module: Module,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> Module:
    """Keep a weight's largest singular value at 1.

    ``dim``: the dimension of the outputs; 0, or 1 for transposed convolutions, if not given.
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    axis = output_dimension(module) if dim is None else dim
    made = _SpectralNorm(weight, n_power_iterations, axis, eps)
    return register_parametrization(module, name, made)
