"""Giving containers, attributes and variables that refer to one object another in its place.

In: an object that Python's state refers to, and what is to take its place. Out: lists, dicts, sets,
attributes and variables of closures changed; tuples made anew.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Sequence
from types import CellType, FrameType
from typing import Any

from flamec.errors import CompileError
from flamec.structures import is_namedtuple


def replace_references(old: Any, new: Any, name: str, ours: Sequence[Any] = ()) -> None:
    """Let every container that refers to ``old`` refer to ``new``; ``ours`` are left alone.

    CompileError for a container whose elements cannot be replaced. No function within this one
    may use its variables: they would be in cells, which are containers.
    """
    kept = set(map(id, ours))
    gc.unfreeze()  # what is frozen is not among referrers
    referrers = gc.get_referrers(old)
    kept.add(id(referrers))
    for container in referrers:
        if id(container) in kept or isinstance(container, FrameType):
            continue
        if isinstance(container, (tuple, frozenset)):
            changed = _with_part(container, old, new)
            replace_references(container, changed, name, (*ours, referrers))
        elif not _replace(container, old, new):
            raise CompileError(
                f"{name}: a number or an argument of the compiled function was stored in a "
                f"{type(container).__name__}, where it cannot be given its value; store it in a "
                "list, a dict or an attribute, or return it"
            )


def _with_part(container: Any, old: Any, new: Any) -> Any:
    """A tuple or frozenset with ``new`` in the place of ``old``."""
    parts = [new if item is old else item for item in container]
    return type(container)(*parts) if is_namedtuple(container) else type(container)(parts)


def _replace(container: Any, old: Any, new: Any) -> bool:
    if isinstance(container, (list, deque)):
        for position, item in enumerate(container):
            if item is old:
                container[position] = new
        return True
    if isinstance(container, dict):
        items = [(new if k is old else k, new if v is old else v) for k, v in container.items()]
        if any(key is old for key in container):
            container.clear()
        container.update(items)
        return True
    if isinstance(container, set):
        container.discard(old)
        container.add(new)
        return True
    if isinstance(container, CellType):
        container.cell_contents = new
        return True
    names = [*getattr(container, "__dict__", ())]
    names += [name for cls in type(container).__mro__ for name in vars(cls).get("__slots__", ())]
    found = [name for name in names if getattr(container, name, None) is old]
    for name in found:
        object.__setattr__(container, name, new)
    return bool(found)
