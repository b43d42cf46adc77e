"""Which members of the user's classes a trace runs: methods, properties and descriptors.

In: functions as they begin, and attributes as they are looked up. Out: an observer is told what
each class on the way has, or lacks, under a name, so that another function in its place is noticed:
also where Python looks in classes alone (``__mul__``, ``super().forward``), and where code asks a
class.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cached_property, partialmethod, singledispatchmethod
from types import CodeType, FrameType, FunctionType
from typing import Any, Protocol

from flamec.cached_functions import CachedFunction
from flamec.followed_modules import is_user_module
from flamec.guarded_values import MISSING, class_attribute, dictionary_of

_RAW = ("__getattribute__", "__setattr__", "__delattr__")  # pass by what is recorded
_OF_CLASSES = ("__class__", "type")  # lead from an object to what its class has


class MemberObserver(Protocol):
    """What is told of members."""

    def member(self, cls: type, name: str, value: Any) -> None:
        """What a class itself has under a name; MISSING if nothing."""

    def visit(self, value: Any, name: str) -> None:
        """A function or a descriptor whose code may run."""

    def members_are_read(self, cls: type, names: tuple[str, ...]) -> None:
        """Code that has these names may read plain values of a class."""

    def dictionary_is_read(self, instance: Any) -> None:
        """Code may read attributes of an object without being seen."""


def is_users_class(cls: type) -> bool:
    """Whether a class is made by code that is followed."""
    return is_user_module(sys.modules.get(cls.__module__))


def is_computed(found: Any) -> bool:
    """Whether what a class has under a name is read, and perhaps written, by code of the user."""
    return isinstance(found, property) or is_users_descriptor(found)


def is_users_descriptor(found: Any) -> bool:
    kind = type(found)
    return isinstance(class_attribute(kind, "__get__"), FunctionType) and is_users_class(kind)


def is_shadowed(instance: Any, name: str, found: Any) -> bool:
    """Whether an object has an attribute of its own, which goes before what its class has."""
    return not hasattr(found, "__set__") and name in (dictionary_of(instance) or ())


def function_of(member: Any) -> Any:
    """The function that a class has, in whatever wrapping; None for another thing."""
    for _ in range(4):
        if isinstance(member, FunctionType):
            return member
        if isinstance(member, property):
            member = member.fget
        elif isinstance(member, (cached_property, partialmethod, singledispatchmethod)):
            member = member.func
        else:  # staticmethod, classmethod, compiled functions
            member = getattr(member, "__wrapped__", None)
    return None


class ClassMembers:
    """Of one trace. ``own``: what a class itself had under a name before the trace."""

    def __init__(self, observer: MemberObserver, own: Callable[[type, str], Any]) -> None:
        self._observer, self._own = observer, own
        self._met: set[tuple[int, int]] = set()
        self._looked_up: set[tuple[type, str]] = set()

    def looked_up(self, cls: type, name: str) -> None:
        """A member is found by the order of a class, or is not."""
        if (cls, name) in self._looked_up:
            return
        self._looked_up.add((cls, name))
        for base in cls.__mro__:
            if self._tell(base, name) is not MISSING:
                return

    def entered(self, frame: FrameType) -> None:
        """A function begins; if it is a method, tell where it is found."""
        code = frame.f_code
        if not code.co_argcount:
            return
        first = frame.f_locals.get(code.co_varnames[0])
        kind = type(first)
        is_class = issubclass(kind, type)  # isinstance would ask the object for its class
        cls: Any = first if is_class else kind
        if (id(code), id(cls)) in self._met:
            return
        self._met.add((id(code), id(cls)))
        if not any(map(is_users_class, cls.__mro__)):
            return
        names = {*code.co_names, *code.co_freevars}
        if is_class or not names.isdisjoint(_OF_CLASSES):
            self._observer.members_are_read(cls, code.co_names)
        if not is_class and not names.isdisjoint(_RAW):
            self._observer.dictionary_is_read(first)
        order = cls.__mro__ + (kind.__mro__ if is_class else ())  # those of its metaclass
        for number, base in enumerate(order):
            name = self._name(base, code) if is_users_class(base) else None
            if name is None:
                continue
            for before in order[:number]:
                if self._own(before, name) is MISSING or function_of(self._own(before, name)):
                    self._tell(before, name)
            self._tell(base, name)
            return

    def _tell(self, base: type, name: str) -> Any:
        member = self._own(base, name)
        if is_users_class(base):
            self._observer.member(base, name, member)
            if isinstance(member, singledispatchmethod):
                self._observer.visit(member.dispatcher, f"{base.__name__}.{name}")
            function = member if type(member) is CachedFunction else function_of(member)
            if function is not None:
                self._observer.visit(function, f"{base.__name__}.{name}")
        return member

    def _name(self, cls: type, code: CodeType) -> str | None:
        """The name of the member of a class that runs this code."""
        likely = function_of(self._own(cls, code.co_name))
        if likely is not None and likely.__code__ is code:
            return code.co_name
        for name in vars(cls):
            function = function_of(self._own(cls, name))
            if function is not None and function.__code__ is code:
                return name
        return None
