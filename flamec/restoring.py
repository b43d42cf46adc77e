"""Python state as it was before a trace: a trace that must start again leaves nothing behind.

In: the guards of the trace, each with the value that was there when it was first read or
written, and whether captured tensors required gradients. Out: that value in its place again.
``snapshot``: the same of whole dictionaries.
"""

from __future__ import annotations

import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flamec.guarded_values import (
    MISSING,
    BufferContent,
    Guard,
    buffer_of,
    class_attribute,
)
from flamec.tape import set_leaf
from flamec.tensor import Tensor
from flamec.varying_state import holds_tracers


def restore(guards: Iterable[Guard], requires_grad: Mapping[Tensor, bool]) -> None:
    """Undo the changes of everything that is guarded, and of whether tensors require gradients."""
    for tensor, flag in requires_grad.items():
        if tensor._requires_grad is not flag:
            set_leaf(tensor, flag)
    known = list(guards)
    for guard in reversed(known):
        if guard.kind not in ("length", "keys") and not isinstance(guard.owner, list):
            _restore_value(guard)
    items: dict[int, dict[Any, Any]] = {}
    for guard in known:
        if guard.kind == "item" and isinstance(guard.owner, list):
            items.setdefault(id(guard.owner), {})[guard.key] = guard.expected
    for guard in known:
        if guard.kind == "length":
            old = items.get(id(guard.owner), {})
            present = dict(enumerate(guard.owner))  # of places that had a tracer, and have it back
            guard.owner[:] = [old[i] if i in old else present[i] for i in range(guard.expected)]
        elif guard.kind == "keys" and tuple(guard.owner) != guard.expected:
            entries = [(key, guard.owner[key]) for key in guard.expected]
            guard.owner.clear()
            for key, value in entries:  # update() of a Counter counts
                guard.owner[key] = value


def left_tracers(guards: Iterable[Guard]) -> bool:
    """Whether something that is guarded holds tensors of a trace."""
    values = (g.owner if g.kind == "length" else g.present() for g in guards)
    return any(value is not None and holds_tracers(value) for value in values)


def _restore_value(guard: Guard) -> None:
    owner, key, expected = guard.owner, guard.key, guard.expected
    present = guard.present()
    if present is expected:
        return
    match guard.kind:
        case "attribute" | "item":
            if expected is MISSING:
                del owner[key]
            else:
                owner[key] = expected
        case "dictionary":
            object.__setattr__(owner, "__dict__", expected)
        case "class" if expected is MISSING:
            delattr(owner, key)
        case "class":
            setattr(owner, key, expected)
        case "slot":
            if _is_inherited(owner, key):  # the class is restored by guards of its own
                object.__getattribute__(owner, "__dict__").pop(key, None)
            elif expected is MISSING:
                delattr(owner, key)
            else:
                setattr(owner, key, expected)
        case "content":
            _restore_content(owner, expected)
        case "entries":  # of the environment, which the process has, too
            for name in owner.keys() - expected.keys():
                del os.environb[name]
            os.environb.update({k: v for k, v in expected.items() if owner.get(k) != v})
        case "cell":
            if expected is MISSING:
                del owner.cell_contents
            else:
                owner.cell_contents = expected


def _is_inherited(owner: Any, key: str) -> bool:
    """Whether an object had what its class has, and could get an attribute of its own."""
    if isinstance(owner, type) or not hasattr(owner, "__dict__"):
        return False
    found = class_attribute(type(owner), key)
    return found is not MISSING and not hasattr(type(found), "__set__")


def _restore_content(owner: Any, expected: Any) -> None:
    if isinstance(owner, np.ndarray):
        owner[...] = expected
    elif isinstance(expected, BufferContent):
        _restore_buffer(owner, expected.content)
    elif isinstance(owner, dict):
        dict.clear(owner)
        dict.update(owner, zip(expected[::2], expected[1::2], strict=True))
    elif isinstance(owner, list):
        list.__setitem__(owner, slice(None), expected)
    elif isinstance(owner, set):
        owner.clear()
        owner.update(expected)
    elif isinstance(owner, deque):
        owner.clear()
        owner.extend(expected)


def _restore_buffer(owner: Any, content: bytes) -> None:
    if isinstance(owner, bytearray):
        owner[:] = content
        return
    if isinstance(owner, array):
        owner[:] = array(owner.typecode, content)
        return
    view = buffer_of(owner)
    if view is None or view.readonly or view.nbytes != len(content):
        return
    with view:
        held = np.frombuffer(view, np.uint8) if view.contiguous else np.asarray(view)
        held[...] = np.frombuffer(content, held.dtype).reshape(held.shape)
        del held  # which would keep the view


def snapshot(dictionaries: Sequence[dict[Any, Any]]) -> Callable[[], None]:
    """A function that gives dictionaries, and the lists in them, what they hold now."""
    entries = [(d, dict(d)) for d in dictionaries]
    lists = [(v, list(v)) for _, held in entries for v in held.values() if isinstance(v, list)]

    def undo() -> None:
        for dictionary, held in entries:
            dictionary.clear()
            dictionary.update(held)
        for found, content in lists:
            found[:] = content

    return undo
