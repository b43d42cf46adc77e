"""Hooks of all modules, under PyTorch's names: called for every module, before its own hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flamec.nn.hooks import GLOBAL, RemovableHandle

__all__ = [
    "register_module_buffer_registration_hook",
    "register_module_forward_hook", "register_module_forward_pre_hook",
    "register_module_full_backward_hook", "register_module_full_backward_pre_hook",
    "register_module_module_registration_hook", "register_module_parameter_registration_hook",
]  # fmt: skip

Hook = Callable[..., Any]


def register_module_forward_pre_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(module, args)`` before every module's forward."""
    return GLOBAL.add(GLOBAL.forward_pre, (hook, False))


def register_module_forward_hook(
    hook: Hook, *, with_kwargs: bool = False, always_call: bool = False
) -> RemovableHandle:
    """Call ``hook(module, args, output)`` after every module's forward."""
    return GLOBAL.add(GLOBAL.forward, (hook, with_kwargs, always_call))


def register_module_full_backward_pre_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(module, grad_output)`` before every module's gradients are computed."""
    return GLOBAL.add(GLOBAL.backward_pre, hook)


def register_module_full_backward_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(module, grad_input, grad_output)`` when a module's gradients are known."""
    return GLOBAL.add(GLOBAL.backward, hook)


def register_module_parameter_registration_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(module, name, parameter)`` before one is registered; a result takes its place."""
    return GLOBAL.add(GLOBAL.registration["parameter"], hook)


def register_module_buffer_registration_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(module, name, buffer)`` before one is registered; a result takes its place."""
    return GLOBAL.add(GLOBAL.registration["buffer"], hook)


def register_module_module_registration_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(module, name, submodule)`` before one is registered; a result takes its place."""
    return GLOBAL.add(GLOBAL.registration["module"], hook)
