"""Functions called before and after each step: of one optimizer, or of all.

A hook's entry is kept by the optimizer (``Optimizer.register_step_pre_hook``) or
here, for every optimizer. Hooks run once a step, around the outermost ``step``
where one calls its base class's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from flamec.nn.hooks import RemovableHandle, add_hook
from flamec.state import process, thread

__all__ = ["register_optimizer_step_post_hook", "register_optimizer_step_pre_hook"]

Hook = Callable[..., Any]

_before_all: dict[int, Hook] = {}
_after_all: dict[int, Hook] = {}


def add_step_hook(hooks: dict[int, Hook], hook: Hook) -> RemovableHandle:
    """Register a hook of steps, which compiled functions then know of."""
    _changed()
    return add_hook(hooks, hook, changed=_changed)


def _changed() -> None:
    process.step_hook_changes += 1


def register_optimizer_step_pre_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(optimizer, args, kwargs)`` before each step of every optimizer.

    It returns None or the ``(args, kwargs)`` to step with; ``args`` begins with the optimizer.
    """
    return add_step_hook(_before_all, hook)


def register_optimizer_step_post_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(optimizer, args, kwargs)`` after each step of every optimizer."""
    return add_step_hook(_after_all, hook)


def with_step_hooks(step: Hook) -> Any:
    """A ``step`` method that runs the hooks of its optimizer and of all optimizers."""

    @wraps(step)
    def stepped(self: Any, *args: Any, **kwargs: Any) -> Any:
        own = self.__dict__.get("_hooks")
        if own is None or type(self).step is not stepped:
            return step(self, *args, **kwargs)
        if thread.trace is not None:
            thread.trace.steps_optimizers = True
        before, after = own["step_pre"], own["step_post"]
        given: tuple[Any, ...] = (self, *args)
        for hook in (*_before_all.values(), *before.values()):
            changed = hook(self, given, kwargs)
            if changed is None:
                continue
            if not isinstance(changed, tuple) or len(changed) != 2:
                raise RuntimeError(
                    f"a step pre hook of {type(self).__name__} must return None or a tuple "
                    f"(args, kwargs), but it returned {changed!r}"
                )
            given, kwargs = changed
        result = step(*given, **kwargs)
        for hook in (*after.values(), *_after_all.values()):
            hook(self, given, kwargs)
        return result

    return stepped
