"""Parts that update rules share: checked settings, gradients made ready, running averages.

In: a parameter group's settings, parameters with their gradients, state tensors.
Everything is written with tensor operations, and numbers come from
``runtime_number``, so that a compiled step reads them anew at each call. 16-bit
parameters are computed in float32 and rounded once when they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flamec.functional.primitives import narrowed, ops, widened
from flamec.ir.types import float64
from flamec.optim.optimizer import Group, scalar, update
from flamec.runtime_numbers import runtime_number, static_condition
from flamec.tensor import Tensor

__all__ = [
    "check_betas",
    "check_rate",
    "decayed",
    "has_one_element",
    "is_not_zero",
    "larger",
    "moved",
    "prepared",
    "require_at_least_zero",
    "smaller",
    "store",
]

Pairs = list[tuple[Tensor, Tensor]]


# settings ------------------------------------------------------------------------------


def has_one_element(value: Any) -> bool:
    """Whether a tensor given as a number has one element; numbers do."""
    return not isinstance(value, Tensor) or value.shape.numel() == 1


def require_at_least_zero(what: str, value: Any) -> None:
    """ValueError ``Invalid …`` for a negative number or NaN."""
    if not value >= 0.0:
        raise ValueError(f"Invalid {what}: {value}")


def check_rate(lr: Any) -> None:
    """ValueError unless ``lr`` is a number, or a tensor of one, that is not negative."""
    if not has_one_element(lr):
        raise ValueError("Tensor lr must be 1-element")
    require_at_least_zero("learning rate", lr)


def check_betas(betas: Any) -> None:
    """ValueError unless both numbers are in [0, 1)."""
    for index, beta in enumerate(betas):
        if not has_one_element(beta):
            raise ValueError(f"Tensor betas[{index}] must be 1-element")
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {index}: {beta}")


def is_not_zero(value: Any) -> bool:
    """The condition under which a setting such as weight decay takes part in the step."""
    return bool(value != 0)


# numbers, each a float or while tracing a float64 tensor; a learning rate may be a tensor ---


def smaller(x: Any, y: Any) -> Any:
    """The smaller of two numbers."""
    if isinstance(x, Tensor) or isinstance(y, Tensor):
        return ops.minimum(*_alike(x, y))
    return min(x, y)


def larger(x: Any, y: Any) -> Any:
    """The larger of two numbers."""
    if isinstance(x, Tensor) or isinstance(y, Tensor):
        return ops.maximum(*_alike(x, y))
    return max(x, y)


def _alike(x: Any, y: Any) -> tuple[Any, Any]:
    """Both in float64 and where the second tensor is, of which a step makes the numbers."""
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        return x, y
    y = ops.cast(y, float64)
    return scalar(x, y), y


# tensors ---------------------------------------------------------------------------------


def prepared(
    group: Group, pairs: Pairs, decoupled: bool = False
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each parameter, its value and its gradient, both as they enter the update.

    The gradient is negated for ``maximize``. Weight decay is added to it, or with
    ``decoupled`` (Loshchilov and Hutter 2019) takes lr * weight_decay off the value.
    """
    decays = static_condition(group, "weight_decay", is_not_zero)
    for parameter, gradient in pairs:
        value, gradient = widened(parameter), widened(gradient)
        if group.get("maximize"):
            gradient = ops.neg(gradient)
        if decays:
            decay = runtime_number(group, "weight_decay")
            if decoupled:
                value = ops.mul(value, scalar(1 - runtime_number(group, "lr") * decay, value))
            else:
                gradient = ops.add(gradient, ops.mul(value, scalar(decay, value)))
        yield parameter, value, gradient


def store(target: Tensor, value: Tensor) -> None:
    """Replace what ``target`` holds by ``value`` in its dtype."""
    update(target, narrowed(value, target._type.dtype))


def moved(average: Tensor, value: Tensor, weight: Any) -> Tensor:
    """Move ``average`` towards ``value`` by ``weight``, in place; the new average."""
    old = widened(average)
    new: Tensor = ops.add(old, ops.mul(ops.sub(value, old), scalar(weight, old)))
    store(average, new)
    return new


def decayed(average: Tensor, value: Tensor, beta: Any) -> Tensor:
    """Replace ``average`` by beta * average + (1 - beta) * value; the new average."""
    old = widened(average)
    share = ops.mul(value, scalar(1 - beta, old))
    new: Tensor = ops.add(ops.mul(old, scalar(beta, old)), share)
    store(average, new)
    return new
