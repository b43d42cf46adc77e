"""Hooks of modules and optimizers: kept in order, taken off again by their handle."""

from __future__ import annotations

from typing import Any

__all__ = ["RemovableHandle", "add_hook"]


class RemovableHandle:
    """Takes a hook off again: ``handle.remove()``, or at the end of a with block."""

    _next_id = 0

    def __init__(self, hooks: dict[int, Any]) -> None:
        self.hooks = hooks
        self.id = RemovableHandle._next_id
        RemovableHandle._next_id += 1

    def remove(self) -> None:
        self.hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def add_hook(hooks: dict[int, Any], entry: Any, prepend: bool) -> RemovableHandle:
    """Add a hook at the end, or before the others."""
    handle = RemovableHandle(hooks)
    if prepend:
        others = dict(hooks)
        hooks.clear()
        hooks[handle.id] = entry
        hooks.update(others)
    else:
        hooks[handle.id] = entry
    return handle
