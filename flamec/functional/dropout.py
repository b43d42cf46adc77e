"""Dropout: elements or whole channels set to 0 at random while training.

The random numbers come from the default generator, whose state a compiled
program advances like any other captured tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

from flamec import random
from flamec.dispatch import write
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.primitives import narrowed, ops, widened
from flamec.functional.promotion import require_tensor
from flamec.fusing import fused
from flamec.ir.shape import Dim
from flamec.tensor import Tensor

__all__ = [
    "alpha_dropout",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
]

ALPHA_PRIME = -1.7580993408473766  # -scale * alpha of selu; Klambauer et al. 2017, section 2


def uniform_like(x: Tensor, shape: Sequence[Dim] | None = None) -> Tensor:
    """Random numbers in [0, 1) of ``x``'s compute dtype; its shape unless one is given."""
    return random.uniform_numbers(
        x._type.shape if shape is None else tuple(shape), x._type.dtype.compute, x._type.device
    )


def _finished(name: str, input: Tensor, result: Tensor, inplace: bool) -> Tensor:
    result = narrowed(result, input._type.dtype)
    return write(input, result, f"{name}_") if inplace else result


def _checked(name: str, input: Tensor, p: float) -> None:
    require_tensor(name, "input", input)
    if not 0.0 <= p <= 1.0:
        raise OperationError(
            f"{name}: dropout probability has to be between 0 and 1, but got {p} "
            f"(at {user_location()})"
        )
    if p and not input._type.dtype.is_floating_point:
        raise OperationTypeError(
            f"{name}: expected floating-point values, got {input._type.dtype.name} "
            f"(at {user_location()})"
        )


def _drop(
    name: str, input: Tensor, p: float, training: bool, inplace: bool, shape: tuple[Dim, ...]
) -> Tensor:
    """0 with probability p, else divided by 1 - p; one draw for each element of ``shape``."""
    if not training or p == 0.0:
        return input
    source = ops.sub(input, 0) if inplace else input
    if p == 1.0:
        return _finished(name, input, ops.mul(source, 0.0), inplace)
    x = widened(source)
    keep = ops.ge(uniform_like(x, shape), p)
    return _finished(name, input, ops.where(keep, ops.mul(x, 1.0 / (1.0 - p)), 0.0), inplace)


@fused()
def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Each element is 0 with probability p, else divided by 1 - p (Srivastava et al. 2014)."""
    _checked("dropout", input, p)
    return _drop("dropout", input, p, training, inplace, input._type.shape)


def _channels(name: str, input: Tensor, ranks: tuple[int, int]) -> tuple[Dim, ...]:
    """The shape of one draw a channel, for [C, …] (without batch) or [N, C, …]."""
    shape = input._type.shape
    if len(shape) not in ranks:
        raise OperationError(
            f"{name}: expected an input of {ranks[0]} or {ranks[1]} dimensions, got {len(shape)} "
            f"(at {user_location()})"
        )
    leading = 1 if len(shape) == ranks[0] else 2
    return (*shape[:leading], *(1,) * (len(shape) - leading))


@fused()
def dropout1d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Whole channels of [N, C, L] or [C, L] are 0 with probability p."""
    _checked("dropout1d", input, p)
    return _drop("dropout1d", input, p, training, inplace, _channels("dropout1d", input, (2, 3)))


@fused()
def dropout2d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Whole channels of [N, C, H, W] (or [N, C, L]) are 0 with probability p."""
    _checked("dropout2d", input, p)
    shape = input._type.shape
    if len(shape) == 3:  # PyTorch reads three dimensions as [N, C, L] here
        return _drop("dropout2d", input, p, training, inplace, (*shape[:2], 1))
    return _drop("dropout2d", input, p, training, inplace, _channels("dropout2d", input, (3, 4)))


@fused()
def dropout3d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Whole channels of [N, C, D, H, W] or [C, D, H, W] are 0 with probability p."""
    _checked("dropout3d", input, p)
    return _drop("dropout3d", input, p, training, inplace, _channels("dropout3d", input, (4, 5)))


def _alpha(
    name: str, input: Tensor, p: float, training: bool, inplace: bool, shape: tuple[Dim, ...]
) -> Tensor:
    if not training or p == 0.0:
        return input
    source = ops.sub(input, 0) if inplace else input
    if p == 1.0:
        return _finished(name, input, ops.mul(source, 0.0), inplace)
    x = widened(source)
    scale = ((1.0 - p) * (1.0 + p * ALPHA_PRIME**2)) ** -0.5
    keep = ops.ge(uniform_like(x, shape), p)
    dropped = ops.where(keep, x, ALPHA_PRIME)
    result = ops.add(ops.mul(dropped, scale), -scale * ALPHA_PRIME * p)
    return _finished(name, input, result, inplace)


@fused()
def alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """Dropout that keeps mean 0 and variance 1 after selu (Klambauer et al. 2017, section 2)."""
    _checked("alpha_dropout", input, p)
    return _alpha("alpha_dropout", input, p, training, inplace, input._type.shape)


@fused()
def feature_alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """``alpha_dropout`` of whole channels (dimension 1)."""
    _checked("feature_alpha_dropout", input, p)
    shape = input._type.shape
    if len(shape) < 2:
        raise OperationError(
            "feature_alpha_dropout: expected at least 2 dimensions [N, C, *] "
            f"(at {user_location()})"
        )
    drawn = (*shape[:2], *(1,) * (len(shape) - 2))
    return _alpha("feature_alpha_dropout", input, p, training, inplace, drawn)
