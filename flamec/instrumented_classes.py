"""Classes that tell how the attributes of their instances are used while a function is traced.

In: the classes of objects that the function reaches, and who is told (``AttributeObserver``). Out:
it is told of each attribute that is read, and of what was there before one is written or deleted.
Invariant: after ``release`` the classes are what they were.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import Enum
from functools import cached_property, partial
from types import FrameType, FunctionType
from typing import Any, Protocol

from flamec.class_members import (
    is_computed,
    is_shadowed,
    is_users_class,
    is_users_descriptor,
)
from flamec.errors import is_framework_file
from flamec.growing_lists import Noting
from flamec.guarded_values import MISSING, class_attribute, dictionary_of
from flamec.made_objects import MadeObjects
from flamec.state import thread
from flamec.tensor import Tensor

Read = dict[tuple[int, str], tuple[Any, Any]]

_HEAP_TYPE = 1 << 9  # CPython's flag of classes that are made by Python code
_UNCHANGING = ("threading", "functools")  # modules on whose objects no result depends


class AttributeObserver(Protocol):
    """What is told of attributes. ``active``: whether it is to be; ``visited``: ids of the objects
    that were there before the trace."""

    active: bool
    visited: set[int]

    def attribute(self, instance: Any, name: str, value: Any, unread: bool = False) -> None:
        """An attribute is read, or ``unread`` before it is written, with this value."""

    def visit(self, value: Any, name: str) -> None:
        """An object that the function can reach."""

    def looked_up(self, cls: type, name: str) -> None:
        """A member of a class is found by its order, or is not."""

    def groups_are_read(self, groups: Any) -> None:
        """The user's code has read the settings of an optimizer."""

    def dictionary_is_read(self, instance: Any) -> None:
        """The user's code has read the dictionary of an object, where it finds all attributes."""

    def may_be_swapped(self, owner: Callable[[], Any], name: str, value: Any) -> bool:
        """Whether a tracer may have taken the place of the value of an attribute; ``owner`` gives
        the object that holds it."""


class InstrumentedClasses:
    """The classes of one trace. ``read``: instances and values, kept alive; told once of each."""

    def __init__(self, observer: AttributeObserver, made: MadeObjects) -> None:
        self._observer, self._made = observer, made
        self._before: dict[type, dict[str, Any]] = {}  # the hooks that they had
        self.read: Read = {}

    def add(self, cls: type) -> bool:
        """Tell of attributes of instances of a class; False if that cannot be done."""
        if cls in self._before:
            return True
        if not cls.__flags__ & _HEAP_TYPE:
            return False
        if cls.__module__ in _UNCHANGING:
            return True
        made = self._made
        computes = any(
            isinstance(self.own(base, "__getattribute__"), FunctionType) and is_users_class(base)
            for base in cls.__mro__
        )
        watched = _hooks(cls, self._observer, self.read, made.ids, computes, self.add)
        hooks = {**watched, **made.hooks(cls)}
        # first, so that whatever happens they are given back
        self._before[cls] = {name: cls.__dict__.get(name, MISSING) for name in hooks}
        try:
            for name, hook in hooks.items():
                setattr(cls, name, hook)
        except TypeError:  # an immutable class written in C
            del self._before[cls]
            return False
        return True

    def own(self, cls: type, name: str) -> Any:
        """What a class itself had under a name before the trace; MISSING if nothing."""
        before = self._before.get(cls, {})
        return before[name] if name in before else cls.__dict__.get(name, MISSING)

    def release(self) -> None:
        """Give the classes their own hooks back; may be repeated."""
        for cls, own in self._before.items():
            for hook, value in own.items():
                if value is not MISSING:
                    setattr(cls, hook, value)
                elif hook in cls.__dict__:
                    delattr(cls, hook)
        self._before.clear()
        self.read.clear()


def _hooks(
    cls: type,
    observer: AttributeObserver,
    read: Read,
    made: set[int],
    computes: bool,
    add: Callable[[type], bool],
) -> dict[str, Callable[..., Any]]:
    """What takes the place of a class's own methods for attributes.

    An attribute is told of as it was when it was first read or written. ``made``: ids of objects
    that the traced function has made. ``computes``: reading one runs code of the user's. ``add``:
    for the class that an object is given.
    """
    original: Any = cls.__getattribute__
    original_set: Any = cls.__setattr__
    original_delete: Any = cls.__delattr__

    def recording(instance: Any, name: str) -> Any:
        if not observer.active or thread.trace is None:  # None: the trace is paused
            return original(instance, name)
        found = class_attribute(cls, name)
        if type(found) is cached_property:  # which writes unseen
            held = original(instance, "__dict__")
            observer.attribute(instance, name, held.get(name, MISSING))
        elif is_users_descriptor(found):
            observer.visit(found, f"{cls.__name__}.{name}")  # before its code runs
        if computes and id(instance) not in made and name in (dictionary_of(instance) or ()):
            observer.attribute(instance, name, dictionary_of(instance)[name])
            return original(instance, name)
        try:
            value = original(instance, name)
            if name == "param_groups" and _is_users(sys._getframe(1)):
                observer.groups_are_read(value)
        except AttributeError:
            if _is_registered(instance, name):  # __getattr__ reads it, guarded
                observer.looked_up(cls, name)
            elif not _is_given_once(cls, name):
                observer.attribute(instance, name, MISSING)
            raise
        if id(instance) in made:
            observer.attribute(instance, name, value)
            return value
        if name == "__dict__" and type(value) is dict and _is_users(sys._getframe(1)):
            observer.dictionary_is_read(instance)
        known = read.get((id(instance), name))
        if known is None or known[1] is not value:
            if not isinstance(value, (Tensor, Noting)):  # which must not outlive the function
                read[id(instance), name] = (instance, value)
            observer.attribute(instance, name, value)
            if not computes and observer.may_be_swapped(partial(place_of, instance), name, value):
                value = original(instance, name)
        return value

    def writing(instance: Any, name: str, value: Any) -> None:
        if observer.active and thread.trace is not None and id(instance) in observer.visited:
            before = original_or_missing(instance, name)
            if before is not MISSING or not _is_given_once(cls, name):
                observer.attribute(instance, name, before, unread=True)
            if name == "__class__" and isinstance(value, type):
                add(value)
        original_set(instance, name, value)

    def deleting(instance: Any, name: str) -> None:
        if observer.active and thread.trace is not None:
            before = original_or_missing(instance, name)
            observer.attribute(instance, name, before, unread=True)
        original_delete(instance, name)

    def place_of(instance: Any) -> Any:
        try:
            return original(instance, "__dict__")
        except AttributeError:  # of a class with slots
            return instance

    def original_or_missing(instance: Any, name: str) -> Any:
        found = class_attribute(cls, name)
        if is_computed(found) and not is_shadowed(instance, name, found):
            return MISSING  # whose code is not to run
        try:
            return original(instance, name)
        except AttributeError:
            return MISSING

    return {"__getattribute__": recording, "__setattr__": writing, "__delattr__": deleting}


def _is_users(frame: FrameType) -> bool:
    return not is_framework_file(frame.f_code.co_filename)


def _is_given_once(cls: type, name: str) -> bool:
    """Whether an attribute that an object lacks is one that it gets as it is made. Combinations of
    flags are made where they are met first, by no constructor, and stay."""
    return issubclass(cls, Enum) and name in ("_value_", "_name_")


def _is_registered(instance: Any, name: str) -> bool:
    """Whether an attribute of a module is among its parameters, buffers and modules."""
    held = dictionary_of(instance) or {}
    registries = ("_parameters", "_buffers", "_modules")
    return any(name in held.get(registry, ()) for registry in registries)
