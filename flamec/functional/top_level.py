"""Functions whose arguments at PyTorch's top level differ from those of their namesakes.

In and out: as of the functions in ``nn.functional`` and ``linalg`` that do the work; here
are the names, orders and defaults that ``torch.dropout``, ``torch.det`` and others have.
"""

from __future__ import annotations

from typing import Any

from flamec.errors import OperationError, user_location
from flamec.functional import (
    adaptive_pooling,
    linear,
    linear_systems,
    matrix_functions,
    normalization,
)
from flamec.functional import dropout as dropouts
from flamec.functional import softmax as softmaxes
from flamec.functional.arguments import public
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.promotion import require_tensor
from flamec.functional.reordering import flip
from flamec.tensor import Tensor

__all__ = [
    "adaptive_max_pool1d", "alpha_dropout", "det", "dropout", "embedding",
    "feature_alpha_dropout", "group_norm", "inverse",
    "layer_norm", "log_softmax", "matrix_exp", "softmax", "vander",
]  # fmt: skip


def adaptive_max_pool1d(input: Tensor, output_size: Any) -> tuple[Tensor, Tensor]:
    """``nn.functional.adaptive_max_pool1d`` with the indices of the elements."""
    values, indices = adaptive_pooling.adaptive_max_pool1d(input, output_size, True)
    return values, indices


def dropout(input: Tensor, p: float, train: bool) -> Tensor:
    """``nn.functional.dropout``."""
    return dropouts.dropout(input, p, train)


def alpha_dropout(input: Tensor, p: float, train: bool) -> Tensor:
    """``nn.functional.alpha_dropout``."""
    return dropouts.alpha_dropout(input, p, train)


def feature_alpha_dropout(input: Tensor, p: float, train: bool) -> Tensor:
    """``nn.functional.feature_alpha_dropout``."""
    return dropouts.feature_alpha_dropout(input, p, train)


@public
def softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """``nn.functional.softmax``."""
    return softmaxes.softmax(input, dim, dtype=dtype)


@public
def log_softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """``nn.functional.log_softmax``."""
    return softmaxes.log_softmax(input, dim, dtype=dtype)


def embedding(
    weight: Tensor,
    indices: Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """``nn.functional.embedding`` with the weight first; a negative ``padding_idx`` is none."""
    padding = None if padding_idx < 0 else padding_idx
    return linear.embedding(
        indices, weight, padding, scale_grad_by_freq=scale_grad_by_freq, sparse=sparse
    )


def layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-05,
    cudnn_enable: bool = True,
) -> Tensor:
    """``nn.functional.layer_norm``; ``cudnn_enable`` has no effect."""
    return normalization.layer_norm(input, normalized_shape, weight, bias, eps)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-05,
    cudnn_enabled: bool = True,
) -> Tensor:
    """``nn.functional.group_norm``; ``cudnn_enabled`` has no effect."""
    return normalization.group_norm(input, num_groups, weight, bias, eps)


@public
def matrix_exp(input: Tensor) -> Tensor:
    """``linalg.matrix_exp``."""
    return matrix_functions.matrix_exp(input)


@public
def det(input: Tensor) -> Tensor:
    """``linalg.det``."""
    return linear_systems.det(input)


@autocasts(cpu=FLOAT32)
@public
def inverse(input: Tensor) -> Tensor:
    """``linalg.inv``."""
    return linear_systems.inv(input)


@public
def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """The powers of a vector's elements, in columns from the highest to 0 unless ``increasing``."""
    if require_tensor("vander", "x", x).ndim != 1:
        raise OperationError(
            f"vander(): x must be a one-dimensional tensor, got {x.ndim} dimensions; "
            f"linalg.vander takes any (at {user_location()})"
        )
    powers = matrix_functions.vander(x, N=N)
    return powers if increasing else flip(powers, (-1,))
