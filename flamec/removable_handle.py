"""``RemovableHandle``: what registering a hook returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["RemovableHandle"]


class RemovableHandle:
    """Takes a hook off again: ``handle.remove()``, or at the end of a with block.

    ``changed`` is called after it was taken off.
    """

    _next_id = 0

    def __init__(self, hooks: dict[int, Any], changed: Callable[[], None] | None = None) -> None:
        self.hooks = hooks
        self.id = RemovableHandle._next_id
        self._changed = changed
        RemovableHandle._next_id += 1

    def remove(self) -> None:
        """Take the hook off; nothing if it is off already."""
        if self.hooks.pop(self.id, None) is not None and self._changed is not None:
            self._changed()

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
