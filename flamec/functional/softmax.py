"""softmax, softmin, log_softmax, logsumexp's kernel and Gumbel softmax.

All subtract the largest value first, so nothing overflows; it is detached,
because the result does not depend on it. Sums are in float32 for 16-bit floats.
"""

from __future__ import annotations

import math

from flamec.errors import warn_user
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.dropout import uniform_like
from flamec.functional.primitives import (
    is_empty_size,
    narrowed,
    normalized_axis,
    ops,
    reduce_kept,
    require_floating,
    widened,
)
from flamec.functional.promotion import require_tensor
from flamec.fusing import fused
from flamec.ir.types import DType
from flamec.tensor import Tensor

__all__ = ["gumbel_softmax", "log_softmax", "softmax", "softmin"]


def _prepared(
    name: str, input: Tensor, dim: int | None, third: int | DType, dtype: DType | None
) -> tuple[Tensor, int, DType]:
    """The operand in its compute dtype, the axis, and the dtype of the result."""
    require_tensor(name, "input", input)
    if isinstance(third, DType):  # torch.softmax has dtype as its third argument
        dtype = third
    rank = len(input._type.shape)
    if dim is None:
        warn_user(
            f"Implicit dimension choice for {name} has been deprecated. Change the call to "
            "include dim=X as an argument."
        )
        dim = 0 if rank in (0, 1, 3) else 1
    if dtype is not None:
        input = ops.cast(input, dtype)
    require_floating(name, input)
    return widened(input), normalized_axis(name, dim, rank), input._type.dtype


def softmax_over(x: Tensor, axis: int, empty_rows: bool = False) -> Tensor:
    """exp(x) divided by its sum over ``axis``; ``x`` in its compute dtype.

    Where every entry is -inf the result is NaN, or 0 with ``empty_rows``.
    """
    if not x._type.shape or is_empty_size(x._type.shape[axis]):
        return ops.exp(ops.sub(x, x))
    largest = ops.detach(reduce_kept("amax", x, (axis,)))
    if empty_rows:
        largest = ops.where(ops.eq(largest, -math.inf), 0.0, largest)
    powers = ops.exp(ops.sub(x, largest))
    total = reduce_kept("sum", powers, (axis,))
    if empty_rows:
        total = ops.where(ops.eq(total, 0.0), 1.0, total)
    return ops.div(powers, total)


def log_softmax_over(x: Tensor, axis: int) -> Tensor:
    """x minus the logarithm of the sum of exp(x) over ``axis``."""
    if not x._type.shape or is_empty_size(x._type.shape[axis]):
        return ops.sub(x, x)
    shifted = ops.sub(x, ops.detach(reduce_kept("amax", x, (axis,))))
    total = reduce_kept("sum", ops.exp(shifted), (axis,))
    return ops.sub(shifted, ops.log(total))


@autocasts(cuda=FLOAT32)
@fused()
def softmax(
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: DType | None = None,
) -> Tensor:
    """exp(x) divided by its sum over ``dim``; ``dtype`` converts the input first."""
    x, axis, result = _prepared("softmax", input, dim, _stacklevel, dtype)
    return narrowed(softmax_over(x, axis), result)


@autocasts(cuda=FLOAT32)
@fused()
def softmin(
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: DType | None = None,
) -> Tensor:
    """softmax(-x)."""
    x, axis, result = _prepared("softmin", input, dim, _stacklevel, dtype)
    return narrowed(softmax_over(ops.neg(x), axis), result)


@autocasts(cuda=FLOAT32)
@fused()
def log_softmax(
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: DType | None = None,
) -> Tensor:
    """log(softmax(x)), computed without rounding the softmax."""
    x, axis, result = _prepared("log_softmax", input, dim, _stacklevel, dtype)
    return narrowed(log_softmax_over(x, axis), result)


@autocasts(cuda=FLOAT32)
@fused()
def gumbel_softmax(
    logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Tensor:
    """A sample of the Gumbel-softmax distribution (Jang, Gu, Poole 2017, section 2).

    ``hard``: one-hot in value, with the gradient of the soft sample. ``eps`` is
    accepted and not used, as in PyTorch.
    """
    require_tensor("gumbel_softmax", "logits", logits)
    require_floating("gumbel_softmax", logits)
    x = widened(logits)
    axis = normalized_axis("gumbel_softmax", dim, len(x._type.shape))
    uniform = uniform_like(x)  # in [0, 1): 1 - u is never 0
    noise = ops.neg(ops.log(ops.neg(ops.log(ops.sub(1.0, uniform)))))
    soft = softmax_over(ops.div(ops.add(x, noise), tau), axis)
    if not hard:
        return narrowed(soft, logits._type.dtype)
    winner = ops.argmax(soft, axes=(axis,))
    shape = soft._type.shape
    winner = ops.reshape(winner, shape=tuple(1 if i == axis else d for i, d in enumerate(shape)))
    place = ops.iota(shape=shape, axis=axis, dtype=winner._type.dtype, device=winner._type.device)
    one_hot = ops.cast(ops.eq(place, winner), soft._type.dtype)
    return narrowed(ops.add(ops.sub(one_hot, ops.detach(soft)), soft), logits._type.dtype)


TENSOR_METHODS = {"softmax": softmax, "log_softmax": log_softmax}
