"""Functions of PyTorch's top level that older programs call: other forms of what others do.

In and out: as of the functions that do the work. They are loaded when one is first used.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

from flamec.errors import OperationError, user_location
from flamec.functional import (
    batch_normalization,
    decompositions,
    masking,
    matrix_functions,
    padding,
)
from flamec.functional.arguments import public
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.creation import arange, full
from flamec.functional.joining import cat, unsafe_split
from flamec.functional.joining import chunk as unsafe_chunk
from flamec.functional.joining import split_with_sizes as unsafe_split_with_sizes
from flamec.state import process
from flamec.tensor import Tensor

__all__ = [
    "batch_norm", "constant_pad_nd", "frobenius_norm", "instance_norm", "lu", "nonzero_static",
    "norm_except_dim", "nuclear_norm", "range", "unsafe_chunk", "unsafe_split",
    "unsafe_split_with_sizes",
]  # fmt: skip


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


@autocasts(cuda=FLOAT32)
def frobenius_norm(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """The root of the sum of squares over dimensions ``dim``; ``linalg.vector_norm``."""
    return matrix_functions.vector_norm(input, 2.0, dim, keepdim)


@autocasts(cuda=FLOAT32)
def nuclear_norm(input: Tensor, dim: Any = (-2, -1), keepdim: bool = False) -> Tensor:
    """The sum of singular values of matrices in two dimensions; ``linalg.matrix_norm``."""
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
    """Numbers from ``start`` on, with ``end`` if the steps reach it; of the default dtype, too, if
    they are integers.

    ``options``: as of ``arange``, which a warning recommends. RuntimeError for a step of 0 or away
    from the end.
    """
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
    dtype = options.pop("dtype", None) or process.default_dtype  # for integers, too
    records = options.pop("requires_grad", False)
    result = arange(count, dtype=dtype, **options) * step + start
    return result.requires_grad_() if records else result
