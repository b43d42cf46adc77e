"""Limits on gradients: ``clip_grad_norm_`` and ``clip_grad_value_``.

Written with tensor operations only, so that clipping is part of a compiled step.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from flamec.dispatch import write
from flamec.errors import user_location
from flamec.functional.comparison import isfinite
from flamec.functional.distance import norm_over
from flamec.functional.primitives import ops, widened
from flamec.ir.types import promote_types
from flamec.nn.parameter import filled
from flamec.state import no_grad
from flamec.tensor import Tensor
from flamec.values import all_true
from flamec.watching import unwatched

__all__ = [
    "clip_grad_norm",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
]

Tensors = Tensor | Iterable[Tensor]


def _as_list(tensors: Tensors) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _gradients(parameters: Tensors) -> list[Tensor]:
    gradients = (p.grad for p in _as_list(parameters))
    return [g for g in gradients if g is not None]


def _norm(tensor: Tensor, norm_type: float) -> Tensor:
    x = widened(tensor)
    return norm_over(x, norm_type, tuple(range(len(x._type.shape))), keepdim=False)


@unwatched
def _sum_of_squares(tensor: Tensor) -> Tensor:
    x = widened(tensor)
    return ops.sum(ops.mul(x, x), axes=tuple(range(len(x._type.shape))))


@no_grad()
def get_total_norm(
    tensors: Tensors,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """The norm of all tensors together, as if they were one vector; a 0-d tensor.

    ``foreach`` is accepted and changes nothing. Raises RuntimeError if
    ``error_if_nonfinite`` and the norm is not finite.
    """
    items = _as_list(tensors)
    norm_type = float(norm_type)
    if not items:
        return filled(())
    squares = norm_type == 2.0
    norms = [_sum_of_squares(t) if squares else _norm(t, norm_type) for t in items]
    dtype = norms[0]._type.dtype
    for norm in norms:
        dtype = promote_types(dtype, norm._type.dtype)
    norms = [ops.cast(n, dtype) for n in norms]
    total = norms[0]
    if squares:
        for norm in norms[1:]:
            total = ops.add(total, norm)
        total = ops.sqrt(total)
    elif len(norms) > 1:
        stacked = ops.concatenate(*(ops.reshape(n, shape=(1,)) for n in norms), axis=0)
        total = norm_over(stacked, norm_type, (0,), keepdim=False)
    if error_if_nonfinite:
        _require_finite(total, norm_type)
    return total


def _require_finite(total: Tensor, norm_type: float) -> None:
    if not all_true(isfinite(total), "error_if_nonfinite=True"):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, "
            "so it cannot be clipped. To disable this error and scale the gradients by the "
            f"non-finite norm anyway, set `error_if_nonfinite=False` (at {user_location()})"
        )


@no_grad()
def clip_grads_with_norm_(
    parameters: Tensors, max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Multiply every gradient by min(1, max_norm / (total_norm + 1e-6))."""
    coefficient = ops.div(float(max_norm), ops.add(total_norm, 1e-6))
    coefficient = ops.minimum(coefficient, 1.0)
    for gradient in _gradients(parameters):
        factor = ops.cast(coefficient, gradient._type.dtype.compute)
        scaled = ops.cast(ops.mul(widened(gradient), factor), gradient._type.dtype)
        write(gradient, scaled, "clip_grad_norm_")


def clip_grad_norm_(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale the gradients of ``parameters`` so that their total norm is at most ``max_norm``.

    Returns the total norm that they had.
    """
    items = _as_list(parameters)
    total = get_total_norm(_gradients(items), norm_type, error_if_nonfinite, foreach)
    clip_grads_with_norm_(items, max_norm, total, foreach)
    return total


@no_grad()
def clip_grad_value_(parameters: Tensors, clip_value: float, foreach: bool | None = None) -> None:
    """Limit every element of the gradients to [-clip_value, clip_value]."""
    limit = float(clip_value)
    for gradient in _gradients(parameters):
        clipped = ops.minimum(ops.maximum(gradient, -limit), limit)
        write(gradient, clipped, "clip_grad_value_")


def clip_grad_norm(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """``clip_grad_norm_`` by its older name; a FutureWarning says so."""
    warnings.warn(
        "`nn.utils.clip_grad_norm` is now deprecated in favor of `nn.utils.clip_grad_norm_`.",
        FutureWarning,
        stacklevel=2,
    )
    return clip_grad_norm_(parameters, max_norm, norm_type, error_if_nonfinite, foreach)
