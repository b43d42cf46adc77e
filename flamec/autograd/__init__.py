"""Automatic differentiation: gradients, grad modes, custom functions.

Names and arguments are those of ``torch.autograd``.
"""

from flamec.autograd.engine import backward, grad, is_leaf_value, retain_grad, value_of
from flamec.autograd.function import Function
from flamec.state import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    no_grad,
    set_grad_enabled,
)

__all__ = [
    "Function",
    "backward",
    "enable_grad",
    "grad",
    "inference_mode",
    "is_grad_enabled",
    "is_leaf_value",
    "no_grad",
    "retain_grad",
    "set_grad_enabled",
    "value_of",
]
