"""What distributions of a user's own are made with, as in ``torch.distributions.utils``."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

import flamec
from flamec.distributions.distribution import as_parameters as broadcast_all
from flamec.state import enable_grad
from flamec.tensor import Tensor

__all__ = ["broadcast_all", "clamp_probs", "lazy_property", "logits_to_probs", "probs_to_logits"]


def clamp_probs(probs: Tensor) -> Tensor:
    """Probabilities at least as far from 0 and 1 as the dtype can tell from 1."""
    eps = flamec.finfo(probs.dtype).eps
    return probs.clamp(eps, 1 - eps)


def probs_to_logits(probs: Tensor, is_binary: bool = False) -> Tensor:
    """Logarithms of probabilities; of two values, log(p / (1 - p)). Clamped, so finite."""
    probs = clamp_probs(probs)
    return probs.log() - flamec.log1p(-probs) if is_binary else probs.log()


def logits_to_probs(logits: Tensor, is_binary: bool = False) -> Tensor:
    """The sigmoid where there are two values, else the softmax of the last dimension."""
    return logits.sigmoid() if is_binary else logits.softmax(-1)


class lazy_property:
    """A decorator: what the method gives when the attribute is first read is kept there."""

    def __init__(self, wrapped: Callable[[Any], Any]) -> None:
        self.wrapped = wrapped
        update_wrapper(self, wrapped)  # type: ignore[arg-type]

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return property(self.wrapped)
        with enable_grad():
            value = self.wrapped(instance)
        setattr(instance, self.wrapped.__name__, value)
        return value
