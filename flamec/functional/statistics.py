"""Statistics over dimensions: variances, norms, logsumexp, covariances, counts.

In: floating-point tensors (integers where PyTorch converts them). Out: a tensor
without the dimensions folded, or with size 1 in their place. Variances take two
passes; 16-bit floats are computed in float32; roots have gradient 0 at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flamec.conversion import constant_array
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional import arithmetic
from flamec.functional.arguments import as_dtype, public
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.decompositions import svdvals
from flamec.functional.dimensions import dimension, size
from flamec.functional.distance import norm_over
from flamec.functional.primitives import (
    is_empty_size,
    is_found_empty,
    kept,
    narrowed,
    ops,
    widened,
)
from flamec.functional.promotion import constant, require_tensor, result_dtype
from flamec.functional.reduction import Dims, axes_of, count_of, fold
from flamec.functional.unary import as_floating
from flamec.fusing import fused
from flamec.ir.shape import Dim, equal
from flamec.ir.types import DType, bool_, float64, int64
from flamec.state import thread
from flamec.tensor import Tensor
from flamec.values import concrete_array, required


def _require_floating(name: str, input: Any) -> Tensor:
    require_tensor(name, "input", input)
    if not input._type.dtype.is_floating_point:
        raise OperationTypeError(
            f"{name}(): expected floating-point values, got {input._type.dtype.name} "
            f"(at {user_location()})"
        )
    return input


# variances -------------------------------------------------------------------------------


class _Spread:
    """The arguments of var and std, in the older form (unbiased) and in the newer (correction)."""

    def __init__(self, name: str, input: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        given = dict(kwargs)
        names = ("unbiased",) if args and isinstance(args[0], bool) else _POSITIONAL
        for key, value in zip(names, args, strict=False):
            if key in given:
                raise OperationTypeError(f"{name}(): {key} is given twice (at {user_location()})")
            given[key] = value
        unknown = set(given) - {"dim", "unbiased", "keepdim", "correction"}
        if unknown or len(args) > len(names) or {"unbiased", "correction"} <= set(given):
            raise OperationTypeError(
                f"{name}(): takes (input, dim, *, correction, keepdim), (input, dim, unbiased, "
                f"keepdim) or (input, unbiased) (at {user_location()})"
            )
        correction = given.get("correction")
        if correction is None:
            correction = 1 if given.get("unbiased", True) else 0
        self.input = _require_floating(name, input)
        self.correction = correction
        self.keepdim = bool(given.get("keepdim", False))
        self.axes = axes_of(name, given.get("dim"), input.ndim)

    def variance_and_mean(self) -> tuple[Tensor, Tensor]:
        """Both in the compute dtype; the mean keeps its dimensions."""
        x = widened(self.input)
        count = count_of(x, self.axes)
        mean = ops.div(fold("sum", x, self.axes, True), count)
        deviation = ops.sub(x, mean)
        squares = fold("sum", ops.mul(deviation, deviation), self.axes, self.keepdim)
        freedom = ops.sub(constant(count, x._type.dtype), constant(self.correction, x._type.dtype))
        return ops.div(squares, ops.maximum(freedom, constant(0, x._type.dtype))), mean

    def finished(self, result: Tensor) -> Tensor:
        return narrowed(result, self.input._type.dtype)

    def finished_mean(self, mean: Tensor) -> Tensor:
        if not self.keepdim and self.axes:
            shape = mean._type.shape
            rest = tuple(d for i, d in enumerate(shape) if i not in self.axes)
            mean = ops.reshape(mean, shape=rest)
        return self.finished(mean)


_POSITIONAL = ("dim", "unbiased", "keepdim")


def safe_root(x: Tensor) -> Tensor:
    """The square root, with gradient 0 where x is 0."""
    zero = ops.eq(x, 0.0)
    return ops.where(zero, 0.0, ops.sqrt(ops.where(zero, 1.0, x)))


@public
@fused()
def var(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``var(input, dim=None, *, correction=1, keepdim=False)``: the mean squared deviation.

    The sum of squares is divided by max(0, n - correction). The older arguments
    ``(dim, unbiased, keepdim)`` and ``(unbiased)`` are accepted.
    """
    spread = _Spread("var", input, args, kwargs)
    return spread.finished(spread.variance_and_mean()[0])


@public
@fused()
def std(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The square root of ``var``, with the same arguments."""
    spread = _Spread("std", input, args, kwargs)
    return spread.finished(safe_root(spread.variance_and_mean()[0]))


@public
@fused()
def var_mean(input: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """The variance and the mean; arguments as ``var``."""
    spread = _Spread("var_mean", input, args, kwargs)
    variance, mean = spread.variance_and_mean()
    return spread.finished(variance), spread.finished_mean(mean)


@public
@fused()
def std_mean(input: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """The standard deviation and the mean; arguments as ``var``."""
    spread = _Spread("std_mean", input, args, kwargs)
    variance, mean = spread.variance_and_mean()
    return spread.finished(safe_root(variance)), spread.finished_mean(mean)


# logsumexp and norms ---------------------------------------------------------------------


@autocasts(cuda=FLOAT32)
@public
@fused()
def logsumexp(input: Tensor, dim: int | Sequence[int], keepdim: bool = False) -> Tensor:
    """log(sum(exp(x))) over ``dim`` without overflow; -inf where there is nothing."""
    source = as_floating("logsumexp", input)
    x, axes = widened(source), axes_of("logsumexp", dim, source.ndim)
    shape = x._type.shape
    if any(is_empty_size(shape[a]) for a in axes):
        nothing = fold("sum", x, axes, keepdim)
        return narrowed(ops.log(nothing), source._type.dtype)
    largest = ops.detach(fold("amax", x, axes, True))
    shift = ops.where(ops.lt(ops.abs(largest), math.inf), largest, 0.0)
    total = fold("sum", ops.exp(ops.sub(x, shift)), axes, True)
    nothing = ops.eq(total, 0.0)
    result = ops.where(nothing, -math.inf, ops.log(ops.where(nothing, 1.0, total)))
    result = ops.add(result, shift)
    if not keepdim and axes:
        rest = tuple(d for i, d in enumerate(shape) if i not in axes)
        result = ops.reshape(result, shape=rest)
    return narrowed(result, source._type.dtype)


@autocasts(cuda=FLOAT32)
@public
@fused()
def norm(
    input: Tensor,
    p: float | str | None = "fro",
    dim: Dims = None,
    keepdim: bool = False,
    dtype: DType | None = None,
) -> Tensor:
    """The p-norm of the elements over ``dim`` ("fro": p = 2); its gradient at 0 is 0.

    "nuc" is the sum of the singular values of matrices, in the two dimensions ``dim``.
    """
    _require_floating("norm", input)
    if isinstance(p, str):
        if p == "nuc":
            return _nuclear_norm(input, dim, keepdim, dtype)
        if p != "fro":
            raise OperationError(
                f"norm(): p must be a number, 'fro' or 'nuc', not {p!r} (at {user_location()})"
            )
        p = 2.0
    target = input._type.dtype if dtype is None else as_dtype("norm", dtype)
    x = widened(ops.cast(input, target))
    axes = axes_of("norm", dim, x.ndim)
    order = 2.0 if p is None else float(p)
    if not axes:
        x = ops.reshape(x, shape=(1,))
        return narrowed(norm_over(x, order, (0,), False), target)
    if math.isinf(order) and any(is_found_empty(x._type.shape[a]) for a in axes):
        raise OperationError(
            f"norm(): the {order}-norm of nothing does not exist; the shape is "
            f"{list(input._type.shape)} (at {user_location()})"
        )
    return narrowed(norm_over(x, order, axes, keepdim), target)


def _nuclear_norm(input: Tensor, dim: Dims, keepdim: bool, dtype: DType | None) -> Tensor:
    target = input._type.dtype if dtype is None else as_dtype("norm", dtype)
    named = range(input.ndim) if dim is None else dim if isinstance(dim, (tuple, list)) else (dim,)
    axes = [dimension("norm", d, input.ndim) for d in named]
    if len(axes) != 2 or axes[0] == axes[1]:
        raise OperationError(
            f"norm(): the nuclear norm is one of matrices, in two dimensions; dim is {dim} and the "
            f"shape {list(input._type.shape)} (at {user_location()})"
        )
    x = ops.cast(input, target)
    rest = [a for a in range(x.ndim) if a not in axes]
    values = svdvals(ops.permute(x, axes=(*rest, *axes)))
    result = ops.sum(values, axes=(len(rest),))
    return kept(result, x._type.shape, axes) if keepdim else result


@autocasts(cuda=FLOAT32)
@public
@fused()
def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The p-norm of ``input - other``."""
    require_tensor("dist", "other", other)
    return norm(arithmetic.sub(require_tensor("dist", "input", input), other), p)


# covariances -----------------------------------------------------------------------------


@public
@fused()
def cov(
    input: Tensor,
    *,
    correction: int = 1,
    fweights: Tensor | None = None,
    aweights: Tensor | None = None,
) -> Tensor:
    """The covariance matrix of the rows of ``input``, whose columns are observations.

    ``fweights``: how often each observation counts (integers); ``aweights``: its importance.
    """
    if input._type.dtype is bool_:
        raise OperationTypeError(f"cov(): not defined for bool (at {user_location()})")
    source = as_floating("cov", input)
    if source.ndim > 2:
        raise OperationError(
            f"cov(): expected at most 2 dimensions, got {source.ndim} (at {user_location()})"
        )
    x = widened(source)
    shape = x._type.shape
    if x.ndim < 2:
        x = ops.reshape(x, shape=(1, shape[0] if shape else 1))
    count = x._type.shape[1]
    weights = _observation_weights(fweights, aweights, count, x._type.dtype)
    if weights is None:
        total = constant(count, x._type.dtype)
        mean = ops.div(fold("sum", x, (1,), True), total)
        freedom = ops.sub(total, constant(correction, x._type.dtype))
        weighted = deviation = ops.sub(x, mean)
    else:
        total = ops.sum(weights, axes=(0,))
        mean = ops.div(fold("sum", ops.mul(x, weights), (1,), True), total)
        freedom = _weighted_freedom(weights, aweights, total, correction)
        deviation = ops.sub(x, mean)
        weighted = ops.mul(deviation, weights)
    freedom = ops.maximum(freedom, constant(0, x._type.dtype))
    product = ops.dot_general(deviation, weighted, contract=((1,), (1,)), batch=((), ()))
    result = ops.div(product, freedom)
    if len(shape) < 2 or equal(shape[0], 1):
        result = ops.reshape(result, shape=())
    return narrowed(result, result_dtype(source, *([] if aweights is None else [aweights])))


def _observation_weights(
    fweights: Tensor | None, aweights: Tensor | None, count: Any, dtype: DType
) -> Tensor | None:
    result: Tensor | None = None
    for argument, weights, integral in (
        ("fweights", fweights, True),
        ("aweights", aweights, False),
    ):
        if weights is None:
            continue
        require_tensor("cov", argument, weights)
        if weights.ndim > 1 or weights.shape.numel() != count:
            raise OperationError(
                f"cov(): {argument} must have one entry for each of the {count} observations, its "
                f"shape is {list(weights.shape)} (at {user_location()})"
            )
        if integral == weights._type.dtype.is_floating_point:
            kind = "integers" if integral else "floating-point numbers"
            raise OperationTypeError(f"cov(): {argument} must be {kind} (at {user_location()})")
        weights = required(weights, lambda w: w >= 0, f"cov(): {argument} cannot be negative")
        factor = ops.reshape(ops.cast(weights, dtype), shape=(count,))
        result = factor if result is None else ops.mul(result, factor)
    return result


def _weighted_freedom(
    weights: Tensor, aweights: Tensor | None, total: Tensor, correction: int
) -> Tensor:
    dtype = weights._type.dtype
    lost: Tensor = constant(correction, dtype)
    if aweights is not None:
        importance = ops.reshape(ops.cast(aweights, dtype), shape=weights._type.shape)
        sum_of_both = ops.sum(ops.mul(weights, importance), axes=(0,))
        lost = ops.mul(lost, ops.div(sum_of_both, total))
    return ops.sub(total, lost)


@public
@fused()
def corrcoef(input: Tensor) -> Tensor:
    """Pearson's correlation coefficients of the rows of ``input``, limited to [-1, 1]."""
    covariance = cov(input)
    if not covariance.ndim:
        return ops.div(covariance, covariance)
    dtype = covariance._type.dtype
    c = widened(covariance)
    deviation = ops.sqrt(ops.diagonal(c, offset=0, axis1=0, axis2=1))
    size = c._type.shape[0]
    result = ops.div(c, ops.reshape(deviation, shape=(size, 1)))
    result = ops.div(result, ops.reshape(deviation, shape=(1, size)))
    result = ops.where(ops.lt(result, -1.0), -1.0, result)
    return narrowed(ops.where(ops.gt(result, 1.0), 1.0, result), dtype)


# counts ----------------------------------------------------------------------------------


@public
def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each nonnegative integer occurs, or the sum of its weights.

    The length of the result depends on the values, so a compiled function is split here; where
    ``minlength`` covers them, all that it depends on is that.
    """
    require_tensor("bincount", "input", input)
    if input.ndim != 1 or input._type.dtype.kind not in ("int", "uint"):
        raise OperationError(
            f"bincount(): expected a 1-d tensor of nonnegative integers, got {input._type} "
            f"(at {user_location()})"
        )
    if is_empty_size(input._type.shape[0]):
        length: Dim = size("bincount", minlength)
    elif thread.trace is not None:
        length = _length_in_trace(input, minlength)
    else:
        on_gpu = input._type.device.type != "cpu"
        values = concrete_array(_extremes(input) if on_gpu else input, "bincount()")
        if int(values.min()) < 0:
            raise _negative_values()
        length = max(int(values.max()) + 1, minlength)
        if weights is None and not on_gpu:
            counts = np.bincount(values, minlength=length)
            return constant_array(counts.astype(np.int64), input._type.device)
    if weights is None:
        return _counted(input, length)
    require_tensor("bincount", "weights", weights)
    if weights.shape != input.shape:
        raise OperationError(
            f"bincount(): weights of shape {list(weights.shape)} for values of shape "
            f"{list(input.shape)} (at {user_location()})"
        )
    dtype = weights._type.dtype if weights._type.dtype.kind == "float" else float64
    dtype = dtype if dtype.itemsize >= 4 else float64
    zeros = ops.full(value=0.0, shape=(length,), dtype=dtype, device=input._type.device)
    places = ops.cast(input, int64)
    return ops.index_put(zeros, ops.cast(weights, dtype), places, mode="add")


def _length_in_trace(input: Tensor, minlength: Any) -> Dim:
    """The length of the result of ``bincount``, as conditions and a size of the program."""
    ends, least = _extremes(input), size("bincount", minlength)
    low, high = ends[0], ends[1]
    if bool((low >= 0) & (high < least)):
        return least
    if bool(low < 0):
        raise _negative_values()
    return size("bincount", high + 1)


def _negative_values() -> OperationError:
    return OperationError(f"bincount(): negative values (at {user_location()})")


@fused()
def _extremes(x: Tensor) -> Tensor:
    """The least and the greatest element: int64 [2]."""
    wide = ops.cast(x, int64)
    ends = (ops.amin(wide, axes=(0,)), ops.amax(wide, axes=(0,)))
    result: Tensor = ops.concatenate(*(ops.reshape(end, shape=(1,)) for end in ends), axis=0)
    return result


@fused("length")
def _counted(x: Tensor, length: Dim) -> Tensor:
    """How often each number below ``length`` occurs."""
    device, places = x._type.device, ops.cast(x, int64)
    zeros = ops.full(value=0, shape=(length,), dtype=int64, device=device)
    result: Tensor = ops.index_put(zeros, ops.full_like(1, places._type), places, mode="add")
    return result


__all__ = [
    "bincount", "corrcoef", "cov", "dist", "logsumexp", "norm", "std", "std_mean", "var",
    "var_mean",
]  # fmt: skip

TENSOR_METHODS: dict[str, Callable[..., Any]] = {
    name: globals()[name] for name in __all__ if name not in ("std_mean", "var_mean")
}
