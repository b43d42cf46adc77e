"""Automatic differentiation: gradients, grad modes, custom functions.

Names and arguments are those of ``torch.autograd``.
"""

from typing import TYPE_CHECKING, Any

from flamec.autograd.anomaly_mode import detect_anomaly, is_anomaly_enabled, set_detect_anomaly
from flamec.autograd.engine import backward, grad, is_leaf_value, retain_grad, value_of
from flamec.autograd.function import Function
from flamec.state import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    no_grad,
    set_grad_enabled,
)

if TYPE_CHECKING:
    from flamec.autograd import forward_ad, functional, graph, profiler
    from flamec.autograd.gradcheck import gradcheck, gradgradcheck

__all__ = [
    "Function",
    "backward",
    "detect_anomaly",
    "enable_grad",
    "forward_ad",
    "functional",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "graph",
    "inference_mode",
    "is_anomaly_enabled",
    "is_grad_enabled",
    "is_leaf_value",
    "no_grad",
    "profiler",
    "retain_grad",
    "set_detect_anomaly",
    "set_grad_enabled",
    "value_of",
]

_LATE = {
    "gradcheck": "flamec.autograd.gradcheck",
    "gradgradcheck": "flamec.autograd.gradcheck",
    "GradcheckError": "flamec.autograd.gradcheck",
    "Variable": "flamec.autograd.variable",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in ("forward_ad", "functional", "graph", "profiler"):
        return import_module(f"flamec.autograd.{name}")
    if name not in _LATE:
        raise AttributeError(f"module 'flamec.autograd' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LATE[name]), name)
    return value
