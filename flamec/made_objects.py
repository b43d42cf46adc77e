"""Objects that a traced function makes: nothing that it finds in them is from before the call.

In: the classes whose attributes are recorded. Out: what takes the place of their constructors
meanwhile, and notes which objects they make. An object of before has its address throughout the
trace, so the addresses of made ones are theirs alone, alive or not.
"""

from __future__ import annotations

import copyreg
import functools
import threading
from collections import deque
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any

from flamec.runtime.fork_locks import held_in_forks

_CONTAINERS: tuple[Any, ...] = (list, dict, set, deque)
_looking: list[MadeObjects] = []  # in all threads
_lock = held_in_forks(threading.Lock())
_copyreg: Any = copyreg  # whose __newobj__ has no public type
_newobj: Callable[..., Any] = _copyreg.__newobj__


class MadeObjects:
    """``ids``: of the objects that a trace has seen begin; ``active``: whether it is looking."""

    def __init__(self, active: Callable[[], bool]) -> None:
        self._active = active
        self.ids: set[int] = set()

    def begin(self) -> None:
        """Look at copies, too (``copy.copy``, ``copy.deepcopy``), until ``end``."""
        with _lock:
            _looking.append(self)
            _copyreg.__newobj__ = _new_object

    def end(self) -> None:
        with _lock:
            _looking.remove(self)
            if not _looking:
                _copyreg.__newobj__ = _newobj

    def _note(self, instance: Any) -> None:
        if self._active() and _has_nothing_yet(instance):
            self.ids.add(id(instance))

    def hooks(self, cls: type) -> dict[str, Any]:
        """The attributes to set on a class while the trace lasts."""
        hooks: dict[str, Any] = {"__init__": self._initializing(cls)}
        if issubclass(cls, tuple) and isinstance(cls.__dict__.get("_make"), classmethod):
            hooks["_make"] = self._making(cls.__dict__["_make"])  # of a named tuple
        return hooks

    def _initializing(self, cls: type) -> Callable[..., None]:
        own = cls.__dict__.get("__init__")

        following: Any = super

        @functools.wraps(cls.__init__)  # type: ignore[misc]  # this class's own
        def init(instance: Any, *args: Any, **kwargs: Any) -> None:
            self._note(instance)
            kind: Any = type(instance)
            if own is not None:
                own.__get__(instance, kind)(*args, **kwargs)
            elif _next_init(kind, cls) is not object:
                following(cls, instance).__init__(*args, **kwargs)
            elif (args or kwargs) and kind.__new__ is object.__new__:
                raise TypeError(f"{kind.__name__}() takes no arguments")

        return init

    def _making(self, own: Any) -> classmethod[Any, Any, Any]:
        def make(kind: type, iterable: Any) -> Any:
            made = own.__get__(None, kind)(iterable)
            self._note(made)
            return made

        return classmethod(make)


@functools.wraps(_newobj)
def _new_object(cls: type, *args: Any) -> Any:
    made = _newobj(cls, *args)
    for objects in _looking:
        objects._note(made)
    return made


def _next_init(kind: type, cls: type) -> type:
    """The class after ``cls`` in the order of ``kind`` that has an ``__init__``."""
    order = kind.__mro__
    after = order[order.index(cls) + 1 :]
    return next(base for base in after if "__init__" in base.__dict__)


def _has_nothing_yet(instance: Any) -> bool:
    """Whether an object is just made: ``__init__`` may also be called of one from before, and
    ``__new__``, where a user wrote it, may have found it."""
    kind = type(instance)
    if issubclass(kind, tuple):
        return True  # what it holds does not change
    if not isinstance(kind.__new__, BuiltinFunctionType):
        return False
    if any(isinstance(instance, base) and base.__len__(instance) for base in _CONTAINERS):
        return False
    names = [name for base in kind.__mro__ for name in _slots_of(base)]
    if _get(instance, "__dict__") or any(name.startswith("__") for name in names):
        return False
    return all(_get(instance, name) is None for name in names)


def _slots_of(cls: type) -> tuple[str, ...]:
    slots = cls.__dict__.get("__slots__", ())
    given = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in given if name not in ("__dict__", "__weakref__"))


def _get(instance: Any, name: str) -> Any:
    try:
        return object.__getattribute__(instance, name)
    except AttributeError:
        return None
