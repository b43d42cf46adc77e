"""What a trace assumed of Python's values, one by one: guards, and when values are the same."""

from __future__ import annotations

import gc
import threading
from _abc import _get_dump  # type: ignore[import-not-found]
from abc import ABCMeta
from dataclasses import dataclass
from itertools import chain
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from flamec.ir.types import Device, DType

_ACCESS = ("__getitem__", "__len__", "__iter__", "items", "keys", "values", "get")
MISSING: Any = type("Missing", (), {"__repr__": lambda self: "<missing>"})()
_PLAIN = (bool, int, float, complex, str, bytes)
_CONSTANTS = (*_PLAIN, type(None), type(Ellipsis), DType, Device, np.generic)


@dataclass(eq=False, slots=True)
class Guard:
    """One assumption: what is read from ``owner`` under ``key`` is still ``expected``.

    ``kind``: ``"attribute"`` (instance dictionary), ``"slot"`` (anything getattr finds),
    ``"item"`` (dict or list entry), ``"length"`` (number of entries), ``"keys"`` (a dict's
    keys in order), ``"cell"`` (a closure's variable), ``"content"`` (all of a set, deque, buffer
    or NumPy array, compared with a copy), ``"entries"`` (all of a dict of constants, likewise),
    ``"cache"`` (what a function with ``lru_cache`` remembers), ``"class"`` (what a class itself
    has under a name), ``"dictionary"`` (that attributes are kept in it), ``"absent"`` (names that a
    dict has not), ``"registered"`` (the classes that count as one of an abstract class).
    ``unread``: the function wrote there before it read anything.
    """

    kind: str
    owner: Any
    key: Any
    expected: Any
    name: str
    unread: bool = False

    def present(self) -> Any:
        """What is there now."""
        match self.kind:
            case "attribute":
                return self.owner.get(self.key, MISSING)
            case "slot":
                return getattr(self.owner, self.key, MISSING)
            case "dictionary":
                return dictionary_of(self.owner)
            case "class":
                return vars(self.owner).get(self.key, MISSING)
            case "item":
                try:
                    return self.owner[self.key]
                except (KeyError, IndexError):
                    return MISSING
            case "length":
                return len(self.owner)
            case "keys":
                return tuple(self.owner)
            case "content" | "entries" | "cache" | "absent":
                return self.owner
            case "registered":
                return registered(self.owner)
            case _:
                try:
                    return self.owner.cell_contents
                except ValueError:
                    return MISSING

    def holds(self) -> bool:
        value = self.present()
        if self.kind == "content":
            return same_content(value, self.expected)
        if self.kind == "entries":
            return bool(value == self.expected)
        if self.kind == "absent":
            return bool(value.keys().isdisjoint(self.expected))
        if self.kind == "cache":
            return still_remembers(value, self.expected)
        if self.kind == "registered":
            return bool(value == self.expected)
        if value is self.expected:
            return True
        return is_constant(self.expected) and same_constant(value, self.expected)

    def __str__(self) -> str:
        expected = self.expected
        if self.kind == "absent":
            return f"{self.name} has none of {', '.join(sorted(expected))}"
        if self.kind in ("entries", "cache", "registered"):
            return f"{self.name} holds what it held"
        if is_constant(expected):
            return f"{self.name} == {expected!r}"
        return f"{self.name} is the same {type(expected).__name__}"


def is_constant(value: Any) -> bool:
    """Whether a value is guarded by equality (else by identity)."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if issubclass(kind, _PLAIN) and dictionary_of(value):
        return False  # of a class of the user's, with attributes of its own
    if issubclass(kind, (tuple, frozenset)):
        return all(is_constant(v) for v in value)
    return issubclass(kind, _CONSTANTS)


def same_constant(a: Any, b: Any) -> bool:
    """Equality that tells 1, 1.0 and True, and 0.0 and -0.0, apart; NaN equals itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same_constant, a, b))
    return bool(a == b and repr(a) == repr(b)) or (a != a and b != b)


def is_overridden(value: Any) -> bool:
    """Whether a dict or list has methods of the user's that give other than what it holds."""
    kind = type(value)
    if kind is dict or kind is list or not isinstance(value, (dict, list)):
        return False
    return any(isinstance(class_attribute(kind, name), FunctionType) for name in _ACCESS)


def raw_content(value: Any) -> tuple[Any, ...]:
    """What a container holds, whatever its methods do; of a dict keys and values in turn."""
    if isinstance(value, dict):
        return tuple(chain.from_iterable(dict.items(value)))
    return tuple(list.__iter__(value) if isinstance(value, list) else value)


class BufferContent(NamedTuple):
    """What is in memory that Python knows as a buffer."""

    format: str
    shape: tuple[int, ...]
    content: bytes


def buffer_of(value: Any) -> memoryview | None:
    """What a buffer (``bytearray``, ``memoryview``, ``mmap``, an array of ctypes) holds, to be
    released: or nobody can change its size. None for what is no buffer, or is closed."""
    if isinstance(class_attribute(type(value), "__buffer__"), FunctionType):  # of the user's
        return None
    try:
        return memoryview(value)
    except (TypeError, ValueError, BufferError):
        return None


def content_of(view: memoryview | None) -> BufferContent | None:
    """A copy of what a buffer holds, which is released."""
    if view is None:
        return None
    with view:
        return BufferContent(view.format, view.shape or (), view.tobytes())


def registered(cls: Any) -> frozenset[type]:
    """The classes that were registered as subclasses of an abstract class or of one that counts as
    its subclass (``abc.ABCMeta.register``)."""
    found: set[type] = set()
    waiting = [cls]
    while waiting:
        abstract = waiting.pop()
        given = {known for ref in _get_dump(abstract)[0] if (known := ref()) is not None}
        made = type.__subclasses__(abstract)
        waiting += [c for c in {*given, *made} - found if isinstance(c, ABCMeta)]
        found |= given
    return frozenset(found)


def same_content(value: Any, expected: Any) -> bool:
    """Whether a set, deque, buffer or array still holds what it held when it was copied."""
    if isinstance(expected, BufferContent):
        return content_of(buffer_of(value)) == expected
    if isinstance(expected, np.ndarray):
        same_kind = value.dtype == expected.dtype and value.shape == expected.shape
        return bool(same_kind and value.tobytes() == expected.tobytes())
    held = raw_content(value)
    return len(held) == len(expected) and all(
        a is b or (is_constant(b) and same_constant(a, b))
        for a, b in zip(held, expected, strict=True)
    )


def dictionary_of(instance: Any) -> Any:
    """The attributes of an object itself, whatever its class does when one is read."""
    if issubclass(type(instance), threading.local):  # those of this thread
        return threading.local.__getattribute__(instance, "__dict__")
    try:
        return object.__getattribute__(instance, "__dict__")
    except AttributeError:  # of a class with slots
        return None


def cache_of(function: Any) -> dict[Any, Any]:
    """The dict of CPython's in which a function with ``lru_cache`` finds its results."""
    own = function.__dict__
    held = [r for r in gc.get_referents(function) if type(r) is dict and r is not own]
    return held[0] if held else {}


def remembered(function: Any) -> list[Any]:
    """The results in such a cache and their keys, in any order, and what else it refers to."""
    return [*gc.get_referents(function), *cache_of(function).values()]


def still_remembers(function: Any, expected: dict[int, Any]) -> bool:
    """Whether a function has all that it had, by id."""
    return expected.keys() <= set(map(id, remembered(function)))


def class_attribute(cls: type, name: str) -> Any:
    """What a class or one that it inherits from has under a name; MISSING if none has."""
    for base in cls.__mro__:
        if name in base.__dict__:
            return base.__dict__[name]
    return MISSING
