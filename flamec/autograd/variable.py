"""``Variable``, which every tensor is, and which older programs put around them."""

from __future__ import annotations

from typing import Any

from flamec.tensor import Tensor

__all__ = ["Variable"]


class _Variables(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Tensor)

    def __call__(cls, data: Tensor, requires_grad: bool = False) -> Tensor:
        made: Tensor = data.detach()
        made.requires_grad = requires_grad
        return made


class Variable(metaclass=_Variables):
    """``Variable(x)`` is ``x.detach()``; gradients are accumulated in it if ``requires_grad``."""
