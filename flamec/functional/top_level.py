"""Functions whose arguments at PyTorch's top level differ from those of their namesakes.

In and out: as of the functions in ``nn.functional`` and ``linalg`` that do the work; here
are the names, orders and defaults that ``torch.dropout``, ``torch.det`` and others have.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

from flamec.errors import OperationError, user_location
from flamec.functional import (
    adaptive_pooling,
    batch_normalization,
    decompositions,
    linear,
    linear_systems,
    masking,
    matrix_functions,
    normalization,
    padding,
)
from flamec.functional import dropout as dropouts
from flamec.functional import softmax as softmaxes
from flamec.functional.arguments import public
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.creation import arange, full
from flamec.functional.joining import cat, chunk, split_with_sizes
from flamec.functional.joining import split as split_up
from flamec.functional.reordering import flip
from flamec.state import process
from flamec.tensor import Tensor

__all__ = [
    "adaptive_max_pool1d", "alpha_dropout", "batch_norm", "constant_pad_nd", "det", "dropout",
    "embedding", "feature_alpha_dropout", "frobenius_norm", "group_norm", "instance_norm",
    "inverse", "layer_norm", "log_softmax", "lu", "matrix_exp", "nonzero_static",
    "norm_except_dim", "nuclear_norm", "range", "softmax", "unsafe_chunk", "unsafe_split",
    "unsafe_split_with_sizes", "vander",
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
    powers = matrix_functions.vander(x, N=N)
    return powers if increasing else flip(powers, (-1,))


def batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """``nn.functional.batch_norm``; ``cudnn_enabled`` has no effect."""
    return batch_normalization.batch_norm(
        input, running_mean, running_var, weight, bias, training, momentum, eps
    )


def instance_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """``nn.functional.instance_norm``; ``cudnn_enabled`` has no effect."""
    return batch_normalization.instance_norm(
        input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
    )


def constant_pad_nd(input: Tensor, pad: Any, value: float = 0) -> Tensor:
    """``nn.functional.pad`` with a constant."""
    return padding.pad(input, pad, "constant", value)


def lu(
    A: Tensor, pivot: bool = True, get_infos: bool = False, out: tuple[Tensor, ...] | None = None
) -> tuple[Tensor, ...]:
    """``linalg.lu_factor`` as a tuple; with ``get_infos`` its ``lu_factor_ex``."""
    function: Any = decompositions.lu_factor_ex if get_infos else decompositions.lu_factor
    return tuple(function(A, pivot=pivot, **({} if out is None else {"out": out})))


def frobenius_norm(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """The root of the sum of squares over dimensions."""
    return matrix_functions.vector_norm(input, 2.0, dim, keepdim)


def nuclear_norm(input: Tensor, dim: Any = (-2, -1), keepdim: bool = False) -> Tensor:
    """The sum of singular values of matrices."""
    return matrix_functions.matrix_norm(input, "nuc", dim, keepdim)


def norm_except_dim(v: Tensor, pow: int = 2, dim: int = 0) -> Tensor:
    """The norm over all dimensions but ``dim``, which stay with size 1; over all for ``dim`` -1."""
    if dim == -1:
        return matrix_functions.vector_norm(v, pow)
    others = tuple(k for k, _ in enumerate(v.shape) if k != dim % v.ndim)
    return matrix_functions.vector_norm(v, pow, others, True) if others else v.abs()


@public
def nonzero_static(input: Tensor, *, size: int, fill_value: int = -1) -> Tensor:
    """The first ``size`` rows of ``nonzero``, filled up with rows of ``fill_value``."""
    if size < 0:
        raise OperationError(
            f"nonzero_static: 'size' must be an non-negative integer (at {user_location()})"
        )
    found = masking.nonzero(input)[:size]
    missing = size - found.shape[0]
    rest = full((missing, input.ndim), fill_value, dtype=found.dtype, device=found.device)
    return cat([found, rest])


def range(start: Any, end: Any, step: Any = 1, **options: Any) -> Tensor:
    """``arange`` with the end, if the steps reach it: older name, of which a warning says so."""
    warnings.warn(
        "torch.range is deprecated and will be removed in a future release because its behavior "
        "is inconsistent with Python's range builtin. Instead, use torch.arange, which produces "
        "values in [start, end).",
        UserWarning,
        stacklevel=2,
    )
    if step == 0:
        raise OperationError(f"range: step must be nonzero (at {user_location()})")
    if (end - start) * step < 0:
        raise OperationError(
            f"range: upper bound and lower bound inconsistent with step sign (at {user_location()})"
        )
    count = math.floor((end - start) / step) + 1
    options.setdefault("dtype", None)
    places = arange(count, **{**options, "requires_grad": False, "dtype": _range_dtype(options)})
    result = places * step + start
    return result.requires_grad_() if options.get("requires_grad") else result


def _range_dtype(options: dict[str, Any]) -> Any:
    """PyTorch's ``range`` makes floating-point numbers of integers, too."""
    return process.default_dtype if options["dtype"] is None else options["dtype"]


unsafe_chunk: Callable[..., tuple[Tensor, ...]] = chunk
unsafe_split: Callable[..., tuple[Tensor, ...]] = split_up
unsafe_split_with_sizes: Callable[..., tuple[Tensor, ...]] = split_with_sizes

TENSOR_METHODS: dict[str, Callable[..., Any]] = {
    "nonzero_static": nonzero_static,
    "unsafe_chunk": chunk,
    "unsafe_split": split_up,
    "unsafe_split_with_sizes": split_with_sizes,
}
