"""Norms over one dimension and what is made of them: normalize, cosine similarity, distances."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flamec.functional.arguments import public, store
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.diagonals import triu_indices
from flamec.functional.dimensions import dimensions
from flamec.functional.gathering import index_select
from flamec.functional.primitives import (
    kept,
    narrowed,
    normalized_axis,
    ops,
    require,
    require_floating,
    widened,
)
from flamec.functional.promotion import as_float_tensors, as_tensors, require_tensor
from flamec.fusing import fused
from flamec.tensor import Tensor

__all__ = ["cosine_similarity", "normalize", "pairwise_distance", "pdist"]


def norm_over(x: Tensor, p: float, axes: Sequence[int], keepdim: bool) -> Tensor:
    """The p-norm of floating-point ``x`` over ``axes``; its gradient at 0 is 0."""
    axes = tuple(sorted(axes))
    if p == 2:
        squares = ops.sum(ops.mul(x, x), axes=axes)
        zero = ops.eq(squares, 0.0)
        result = ops.where(zero, 0.0, ops.sqrt(ops.where(zero, 1.0, squares)))
    elif p == 1:
        result = ops.sum(ops.abs(x), axes=axes)
    elif p == math.inf:
        result = ops.amax(ops.abs(x), axes=axes)
    elif p == -math.inf:
        result = ops.amin(ops.abs(x), axes=axes)
    elif p == 0:
        result = ops.sum(ops.cast(ops.ne(x, 0.0), x._type.dtype), axes=axes)
    else:
        magnitude = ops.abs(x)
        zero = ops.eq(magnitude, 0.0)
        limit = 0.0 if p > 0 else math.inf
        powers = ops.where(zero, limit, ops.pow(ops.where(zero, 1.0, magnitude), p))
        total = ops.sum(powers, axes=axes)
        nothing = ops.eq(total, limit)
        root = ops.pow(ops.where(nothing, 1.0, total), 1.0 / p)
        result = ops.where(nothing, 0.0, root)
    return kept(result, x._type.shape, axes) if keepdim else result


def at_least(x: Tensor, low: float) -> Tensor:
    """x where it is not below ``low``, else ``low``; NaN, without a gradient, where x is NaN."""
    return ops.where(ops.ge(x, low), x, ops.maximum(ops.detach(x), low))


@autocasts(cuda=FLOAT32)
@fused()
def normalize(
    input: Tensor,
    p: float = 2.0,
    dim: int | Sequence[int] = 1,
    eps: float = 1e-12,
    out: Tensor | None = None,
) -> Tensor:
    """``input`` divided by max(its p-norm over ``dim``, one or several, eps)."""
    require_tensor("normalize", "input", input)
    require_floating("normalize", input)
    x = widened(input)
    rank = len(x._type.shape)
    axes = dimensions("normalize", dim, rank) if rank else ()
    result = ops.div(x, at_least(norm_over(x, p, axes, keepdim=True), eps))
    result = narrowed(result, input._type.dtype)
    if out is None:
        return result
    store("normalize", result, out)
    return out


@autocasts(cuda=FLOAT32)
@fused()
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The dot product over ``dim`` divided by both norms, each at least eps."""
    a, b = as_tensors("cosine_similarity", x1, x2)
    require_floating("cosine_similarity", a, b)
    dtype = a._type.dtype
    a, b = widened(a), widened(b)
    product = ops.mul(a, b)
    shape = product._type.shape
    axis = normalized_axis("cosine_similarity", dim, len(shape))
    axes = (axis,) if shape else ()
    a, b = ops.expand_to(a, shape), ops.expand_to(b, shape)
    norms = ops.mul(
        at_least(norm_over(a, 2, axes, keepdim=False), eps),
        at_least(norm_over(b, 2, axes, keepdim=False), eps),
    )
    return narrowed(ops.div(ops.sum(product, axes=axes), norms), dtype)


@autocasts(cuda=FLOAT32)
@fused()
def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """The p-norm of x1 - x2 + eps over the last dimension; of integers in the default dtype."""
    a, b = as_float_tensors("pairwise_distance", x1, x2)
    for x in (x1, x2):
        if x._type.dtype.kind == "bool":
            require_floating("pairwise_distance", x)
    dtype = a._type.dtype
    difference = ops.add(ops.sub(widened(a), widened(b)), eps)
    rank = len(difference._type.shape)
    return narrowed(norm_over(difference, p, (rank - 1,) if rank else (), keepdim), dtype)


@autocasts(cuda=FLOAT32)
def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """The p-norm distances of the rows of a matrix from one another, (0, 1), (0, 2), ... first."""
    require_tensor("pdist", "input", input)
    require_floating("pdist", input)
    require(input.ndim == 2, f"pdist: expected a matrix, got shape {list(input.shape)}")
    require(p >= 0, "pdist: only non-negative p values are supported")
    x = widened(input)
    count = x._type.shape[0]
    first, second = triu_indices(count, count, 1, device=x._type.device)
    rows = (index_select(x, 0, index) for index in (first, second))
    return narrowed(norm_over(ops.sub(*rows), p, (1,), keepdim=False), input._type.dtype)


@autocasts(cuda=FLOAT32)
@public
@fused()
def renorm(input: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """``input`` whose slices along ``dim`` have p-norms of at most ``maxnorm``."""
    require_tensor("renorm", "input", input)
    require_floating("renorm", input)
    rank = input.ndim
    require(rank >= 2, f"renorm: expected at least 2 dimensions, got {rank}")
    require(p > 0, f"renorm: non-positive norm {p} not supported")
    require(maxnorm >= 0, f"renorm: expected maxnorm to be >= 0 but got {maxnorm}")
    x = widened(input)
    kept_axis = normalized_axis("renorm", dim, rank)
    norms = norm_over(x, p, [i for i in range(rank) if i != kept_axis], keepdim=True)
    scale = ops.where(ops.gt(norms, maxnorm), ops.div(maxnorm, ops.add(norms, 1e-7)), 1.0)
    return narrowed(ops.mul(x, scale), input._type.dtype)


TENSOR_METHODS = {"renorm": renorm}
IN_PLACE = ("renorm",)
