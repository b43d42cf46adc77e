"""Hooks of modules and optimizers: kept in order, taken off again by their handle.

``HookedModule`` has a module's own hooks; ``GLOBAL`` those of all modules, which are called
before a module's own. A compiled function guards on both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from flamec.nn.backward_hooks import call_with_backward_hooks
from flamec.removable_handle import RemovableHandle

__all__ = ["GLOBAL", "HookedModule", "RemovableHandle", "add_hook"]

Hooks = dict[int, Any]


def add_hook(
    hooks: Hooks, entry: Any, prepend: bool = False, changed: Callable[[], None] | None = None
) -> RemovableHandle:
    """Add a hook at the end, or before the others; ``changed`` is called when it is taken off."""
    handle = RemovableHandle(hooks, changed)
    if prepend:
        others = dict(hooks)
        hooks.clear()
        hooks[handle.id] = entry
        hooks.update(others)
    else:
        hooks[handle.id] = entry
    return handle


class GlobalHooks:
    """Hooks of every module. ``changes``: how often one was registered or taken off."""

    def __init__(self) -> None:
        self.forward_pre: Hooks = {}
        self.forward: Hooks = {}
        self.backward_pre: Hooks = {}
        self.backward: Hooks = {}
        self.registration: dict[str, Hooks] = {"parameter": {}, "buffer": {}, "module": {}}
        self.changes = 0

    def add(self, hooks: Hooks, entry: Any) -> RemovableHandle:
        """Register one."""
        self._changed()
        return add_hook(hooks, entry, changed=self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def registered(self, kind: str, module: Any, name: str, value: Any) -> Any:
        """What is to be registered under ``name``: ``value``, or what the hooks gave instead."""
        for hook in tuple(self.registration[kind].values()):
            replaced = hook(module, name, value)
            if replaced is not None:
                value = replaced
        return value

    def __bool__(self) -> bool:
        return bool(self.forward_pre or self.forward or self.backward_pre or self.backward)


GLOBAL = GlobalHooks()


class HookedModule:
    """What a module knows of its hooks, and how it is called with them."""

    _forward_pre_hooks: Hooks
    _forward_hooks: Hooks
    _backward_pre_hooks: Hooks
    _backward_hooks: Hooks
    _state_dict_pre_hooks: Hooks
    _state_dict_hooks: Hooks
    _load_state_dict_pre_hooks: Hooks
    _load_state_dict_post_hooks: Hooks
    forward: Callable[..., Any]

    def _call_with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hooks = (*GLOBAL.forward.values(), *self._forward_hooks.values())
        called = 0
        try:
            args, kwargs = self._with_pre_hooks(args, kwargs)
            backward_pre = (*GLOBAL.backward_pre.values(), *self._backward_pre_hooks.values())
            backward = (*GLOBAL.backward.values(), *self._backward_hooks.values())

            def forward(*given: Any) -> Any:
                nonlocal called
                result = self.forward(*given, **kwargs)
                for hook, with_kwargs, _ in hooks:
                    called += 1
                    replaced = (
                        hook(self, args, kwargs, result)
                        if with_kwargs
                        else hook(self, args, result)
                    )
                    if replaced is not None:
                        result = replaced
                return result

            if backward_pre or backward:
                return call_with_backward_hooks(self, backward_pre, backward, args, forward)
            return forward(*args)
        except Exception:
            self._call_remaining(hooks[called:], args, kwargs)
            raise

    def _with_pre_hooks(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        for hook, with_kwargs in (*GLOBAL.forward_pre.values(), *self._forward_pre_hooks.values()):
            if with_kwargs:
                replaced = hook(self, args, kwargs)
                if replaced is not None:
                    args, kwargs = replaced
            else:
                replaced = hook(self, args)
                if replaced is not None:
                    args = replaced if isinstance(replaced, tuple) else (replaced,)
        return args, kwargs

    def _call_remaining(
        self, hooks: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """After an error: the hooks that asked to be called always, without a result."""
        for hook, with_kwargs, always in hooks:
            if not always:
                continue
            try:
                hook(self, args, kwargs, None) if with_kwargs else hook(self, args, None)
            except Exception as error:
                warnings.warn(
                    f"module forward hook with always_call=True raised an exception that was "
                    f"silenced as another error was raised in forward: {error}",
                    stacklevel=2,
                )

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, args)`` before forward; what it returns replaces the arguments."""
        return add_hook(self._forward_pre_hooks, (hook, with_kwargs), prepend)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after forward; what it returns replaces that.

        ``always_call``: also if forward raises an error, with None for the output.
        """
        return add_hook(self._forward_hooks, (hook, with_kwargs, always_call), prepend)

    def register_full_backward_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, grad_input, grad_output)`` when the module's gradients are known.

        Both are tuples, for the positional arguments and for the results. What it returns,
        unless None, is used instead of ``grad_input``.
        """
        return add_hook(self._backward_hooks, hook, prepend)

    def register_full_backward_pre_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, grad_output)`` before the module's gradients are computed.

        What it returns, unless None, is used instead of ``grad_output``.
        """
        return add_hook(self._backward_pre_hooks, hook, prepend)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, prefix, keep_vars)`` before ``state_dict`` reads the module."""
        return add_hook(self._state_dict_pre_hooks, hook)

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, state_dict, prefix, local_metadata)`` after ``state_dict``.

        RuntimeError there if it returns something.
        """

        @wraps(hook)
        def call(*arguments: Any) -> None:
            if hook(*arguments) is not None:
                raise RuntimeError("state_dict post-hook must return None")

        return add_hook(self._state_dict_hooks, call)

    def _register_state_dict_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """As ``register_state_dict_post_hook``; what it returns, unless None, is the result."""
        return add_hook(self._state_dict_hooks, hook)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, state_dict, prefix, local_metadata, strict, missing_keys,
        unexpected_keys, error_msgs)`` before the module is loaded; it may change the dict.
        """
        return add_hook(self._load_state_dict_pre_hooks, hook)

    def _register_load_state_dict_pre_hook(
        self, hook: Callable[..., Any], with_module: bool = False
    ) -> RemovableHandle:
        """PyTorch's older form: the hook is not given the module, unless ``with_module``."""
        if with_module:
            return self.register_load_state_dict_pre_hook(hook)
        return self.register_load_state_dict_pre_hook(wraps(hook)(lambda _, *given: hook(*given)))

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, incompatible_keys)`` after loading; it may change the lists."""
        return add_hook(self._load_state_dict_post_hooks, hook)
