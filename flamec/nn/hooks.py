"""Hooks of modules and optimizers: kept in order, taken off again by their handle."""

from __future__ import annotations

from typing import Any

from flamec.removable_handle import RemovableHandle

__all__ = ["RemovableHandle", "add_hook"]


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
