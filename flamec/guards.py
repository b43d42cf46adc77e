"""What a trace assumed about Python: state that the function read while it ran.

``Recorder`` watches the traced function: attribute reads of objects (by
temporarily instrumenting their classes), and globals and closure cells that
the called functions refer to. Each read becomes a ``Guard``; the guards of a
program are compiled into one check function (``guard_code.py``).
"""

from __future__ import annotations

import gc
import io
import sys
import threading
import weakref
from abc import ABCMeta
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FrameType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np

from flamec.cached_functions import CachedFunction, CachesMet
from flamec.class_members import (
    ClassMembers,
    function_of,
    is_computed,
    is_shadowed,
    is_users_class,
    is_users_descriptor,
)
from flamec.closures import Closures
from flamec.common_memory import memory_of
from flamec.config import ENVIRONMENT
from flamec.conversions import Conversions
from flamec.effects import Effects, effect_of
from flamec.errors import CONTEXTLIB, is_framework_file, user_frame, user_location
from flamec.followed_modules import is_user_module
from flamec.growing_lists import can_grow
from flamec.guarded_values import (
    MISSING,
    Guard,
    buffer_of,
    class_attribute,
    content_of,
    dictionary_of,
    is_constant,
    is_overridden,
    raw_content,
    registered,
)
from flamec.host_state import HostState
from flamec.instrumented_classes import InstrumentedClasses
from flamec.made_objects import MadeObjects
from flamec.named_state import NamedState
from flamec.number_types import asks_by_call, asks_for_types, asks_types, may_ask
from flamec.state import thread
from flamec.tensor import Tensor
from flamec.watching import STDLIB, Watch, unwatched

_IMPORTING = "<frozen importlib"
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR")
_NAMING = ("_path", "_name")  # what things are called; no result depends on it
_GROUPS = ".param_groups["  # in the names of settings of an optimizer
_CONTAINERS = (dict, list, tuple, set, frozenset, deque, np.ndarray)
_DESCRIPTORS = (staticmethod, classmethod, property, partial, weakref.ref)
_SPECIAL = ("__call__", "__bool__", "__len__")  # of an object, which always has an answer
_OPAQUE = (ModuleType, BuiltinFunctionType, CodeType, CellType)


class Recorder:
    """Collects guards while a function is traced; a context manager."""

    def __init__(self, host: HostState, effects: Effects) -> None:
        self.active = self._entered = False
        self.host = host
        host.is_old = lambda identity: identity in self.visited
        self.guards: dict[tuple[str, int, Any], Guard] = {}
        self.exempted: set[tuple[int, Any]] = set()
        self.effects = host.happenings = effects
        effects.begin()
        self.visited: set[int] = set()
        self._kept: list[Any] = []
        self.codes: dict[int, CodeType] = {}  # by identity: equal code may have other globals
        self._closures = Closures()
        self._conversions = Conversions()
        self._made = MadeObjects(lambda: self.active and thread.trace is not None)
        self._classes = InstrumentedClasses(self, self._made)
        self.read = self._classes.read
        self.caches = CachesMet()
        self._members = ClassMembers(self, self._classes.own)
        self._names: dict[int, str] = {}
        self._named = NamedState(self)
        self._groups_read: set[int] = set()  # settings of optimizers that the user's code has read
        self._watch = Watch(self)
        self._collects_garbage = False
        self.numbers_vary = self.number_was_asked = False  # see ``number_types.py``

    # life cycle ---------------------------------------------------------------
    def __enter__(self) -> Recorder:
        self._collects_garbage = gc.isenabled()
        self.active = self._entered = True
        gc.disable()  # callbacks of the collector are not the traced function's
        self._conversions.begin(sys._getframe(1).f_code)
        self._watch.begin()
        self._made.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Give back what was taken from the interpreter and the classes; may be repeated."""
        self.active = False
        if self._entered:
            self._made.end()
            self._watch.end()
            if self._collects_garbage:
                gc.enable()
            self._entered = False
        self._conversions.release()
        self._classes.release()
        self._kept.clear()

    @contextmanager
    def paused(self) -> Iterator[None]:
        previous, self.active = self.active, False
        try:
            yield
        finally:
            self.active = previous

    def finish(self) -> None:
        """The function has returned: guard what only now is there to be looked at."""
        with self.paused():
            self._named.note_imports()

    def result(self) -> list[Guard]:
        """The guards, without what the program reads anew at each call."""
        return (
            self._named.absent()
            + self.caches.guards()
            + [
                g
                for g in self.guards.values()
                if not self.host.is_lifted(g)
                and (
                    g.kind != "item"
                    or (id(g.owner), g.key) not in self.exempted
                    or id(g.owner) in self._groups_read
                )
            ]
        )

    # discoveries --------------------------------------------------------------
    def add(
        self, kind: str, owner: Any, key: Any, value: Any, name: str, unread: bool = False
    ) -> bool:
        """Guard a value; False if the function has put it there."""
        identity = (kind, id(owner), key)
        known = self.guards.get(identity)
        if known is not None:
            return known.expected is value
        if self.host.holds(owner, key):
            return False
        self.guards[identity] = guard = Guard(kind, owner, key, value, name, unread)
        return self.host.found(guard)

    def find(self, kind: str, owner: Any, key: Any, value: Any, name: str) -> None:
        """Guard a value and what it leads to."""
        if self.add(kind, owner, key, value, name):
            self.visit(value, name)

    def root(self, function: Any, name: str) -> None:
        """Watch the decorated function itself: its closure, globals and bound object."""
        if isinstance(function, MethodType):
            self.visit(function.__self__, f"{name}.__self__")
            function = function.__func__
        if isinstance(function, FunctionType):
            self._scan_function(function)
        else:
            self.visit(function, name)

    def visit(self, value: Any, name: str) -> None:
        """Watch a Python value that the function can reach."""
        if isinstance(value, Tensor) and value.__dict__ and value._trace is None:
            self._visit_attributes(value, name)
        if is_user_module(value):
            self._named.pass_on(value)
        if isinstance(value, (Tensor, *_OPAQUE)):
            return
        if is_constant(value) and (not is_users_class(type(value)) or isinstance(value, tuple)):
            return
        if type(value) is dict and "params" in value and _GROUPS not in name:
            self._groups_read.add(id(value))
        if isinstance(value, type(ENVIRONMENT)):
            held = getattr(value, "_data", None)  # CPython's: what the process was given
            if isinstance(held, dict):
                self.add("entries", held, None, dict(held), name)
            return
        if id(value) in self.visited or any(value is one for one in self.host.ignored):
            return
        if id(value) in self._made.ids:
            return
        self.host.lists.reached(value)
        self.visited.add(id(value))
        self._kept.append(value)
        self._names.setdefault(id(value), name)
        if isinstance(value, type):
            self._visit_class(value, name)
            return
        if isinstance(value, threading.local):  # each thread has other attributes
            self._dictionary(value, value.__dict__, name)
        kind = type(value)
        self._visit_kind(value, name)
        if isinstance(value, (set, frozenset, deque)) or is_overridden(value):
            content = raw_content(value)
            self.add("content", value, None, content, f"content of {name}")
            for item in content:
                self.visit(item, f"an element of {name}")
        elif isinstance(value, dict):
            self.add("keys", value, None, tuple(value), f"keys of {name}")
            for key, item in value.items():
                label = f"{name}[{key!r}]" if is_constant(key) else f"{name}[...]"
                self.find("item", value, key, item, label)
        elif isinstance(value, (list, tuple)):
            if isinstance(value, list):
                self.add("length", value, None, len(value), f"len({name})")
            for position, item in enumerate(value):
                label = f"{name}[{position}]"
                if isinstance(value, list):
                    self.find("item", value, position, item, label)
                else:
                    self.visit(item, label)
        elif (memory := memory_of(value)) is not None:
            if self.host.trace is not None and self.host.trace.memory is not None:
                self.host.trace.memory.read(None, memory, f"the array {name}")
            if memory is value:
                self.host.arrays.met(value)
            content = value.copy() if memory is value else content_of(buffer_of(value))
            self.add("content", value, None, content, f"content of {name}")
        elif isinstance(value, FunctionType):
            self._visit_function(value)
        elif isinstance(value, partial):
            for part in ("func", "args", "keywords"):
                self.find("slot", value, part, getattr(value, part), f"{name}.{part}")
        elif isinstance(value, MappingProxyType):
            for held in gc.get_referents(value):
                self.visit(held, name)
        elif isinstance(value, weakref.ref):
            self.visit(value(), name)
        elif isinstance(value, MethodType):
            self.visit(value.__self__, f"{name}.__self__")
            self.visit(value.__func__, name)
        elif isinstance(value, Iterator) and not isinstance(value, io.IOBase):
            self.effects.happen(f"{name} is an iterator, which a call uses up")
        elif kind.__module__.startswith("numpy.random"):
            self.effects.happen(f"{name} draws random numbers of NumPy")
        elif type(value) is CachedFunction:
            self.caches.met(value, name)
        if isinstance(value, (FunctionType, MethodType)):
            return
        if not self._classes.add(kind):
            self._visit_attributes(value, name)

    def _visit_kind(self, value: Any, name: str) -> None:
        """Guard of which class an object is, what that inherits from, and what Python looks for in
        a class alone, without a sign of it where there is nothing."""
        kind = type(value)
        if not any(map(is_users_class, kind.__mro__)):
            return
        self.add("slot", value, "__class__", kind, f"class of {name}")
        self._visit_bases(kind)
        for special in _SPECIAL:
            self._members.looked_up(kind, special)

    def _visit_bases(self, cls: type) -> None:
        for base in filter(is_users_class, cls.__mro__):
            self.add("slot", base, "__bases__", base.__bases__, f"{base.__name__}.__bases__")

    def _visit_attributes(self, value: Any, name: str) -> None:
        """Guard all attributes of an object whose reads are not seen, as its class was written in C
        (``types.SimpleNamespace``)."""
        held = getattr(value, "__dict__", None)
        if type(held) is not dict or isinstance(value, (*_CONTAINERS, *_DESCRIPTORS)):
            return
        self.add("keys", held, None, tuple(held), f"attributes of {name}")
        for attribute, item in held.items():
            label = f"{name}.{attribute}"
            self.find("attribute", held, attribute, item, label)

    def _visit_class(self, cls: type, name: str, names: Sequence[str] | None = None) -> None:
        """Guard what code may read, or call, of a class that serves as a namespace: plain values
        (with ``names``, those), also of classes that it inherits from, and static methods."""
        if type(cls) is not type:
            self.visit(type(cls), f"class of {name}")
        if isinstance(cls, ABCMeta):
            self.add("registered", cls, None, registered(cls), f"registry of {name}")
        self._visit_bases(cls)
        for base in filter(is_users_class, cls.__mro__):
            for attribute, value in list(vars(base).items()):
                if isinstance(value, staticmethod) and (names is None or attribute in names):
                    self._members.looked_up(cls, attribute)
                elif is_users_descriptor(value) and (names is None or attribute in names):
                    self._members.looked_up(cls, attribute)
                    self.visit(value, f"{name}.{attribute}")
                elif not (attribute.startswith("_") or hasattr(value, "__get__")):
                    found = class_attribute(cls, attribute)
                    if found is value and (names is None or attribute in names):
                        self.find("slot", cls, attribute, value, f"{name}.{attribute}")

    def members_are_read(self, cls: type, names: Sequence[str]) -> None:
        """Code that has these names may read plain values of a class."""
        self._visit_class(cls, cls.__name__, names)

    def member(self, cls: type, name: str, value: Any) -> None:
        """What a class itself has under a name; MISSING if nothing."""
        self.add("class", cls, name, value, f"{cls.__name__}.{name}")

    @unwatched
    def attribute(self, instance: Any, name: str, value: Any, unread: bool = False) -> None:
        """An attribute is read, or ``unread`` before it is written, with this value."""
        kind = type(instance)
        if name.startswith("__") or name in _NAMING:
            return
        found = class_attribute(kind, name)
        if is_computed(found) and not is_shadowed(instance, name, found):
            with self.paused():  # what its code reads is recorded when it runs
                self._members.looked_up(kind, name)
                held = dictionary_of(instance)
                if held is not None and not hasattr(found, "__set__"):
                    label = f"{self._names.get(id(instance), kind.__name__)}.{name}"
                    self.add("attribute", held, name, MISSING, label)
            return
        if isinstance(value, Tensor) and value._trace is not None:
            return  # the function has put it there
        with self.paused():
            owner = self._names.get(id(instance), kind.__name__)
            dictionary = dictionary_of(instance)
            if id(instance) in self._made.ids:
                if dictionary is not None and name in dictionary:
                    return
                dictionary = None  # guarded is what its class has
            else:
                self.add("slot", instance, "__class__", kind, f"class of {owner}")
                if dictionary is not None:
                    self._dictionary(instance, dictionary, owner)
            label = f"{owner}.{name}"
            if dictionary is not None and name in dictionary:
                value = dictionary[name]  # of which a __getattribute__ may make another
                if self.add("attribute", dictionary, name, value, label, unread) and not unread:
                    self.visit(value, label)
                return
            if value is MISSING:
                if found is MISSING:
                    self.add("slot", kind, name, MISSING, f"{kind.__name__}.{name}", unread)
                if dictionary is not None:
                    self.add("attribute", dictionary, name, MISSING, label, unread)
            elif function_of(found) is not None:  # which others may take the place of
                self._members.looked_up(kind, name)
                if dictionary is not None:
                    self.add("attribute", dictionary, name, MISSING, label)
            elif isinstance(value, (MethodType, FunctionType)):
                return
            elif id(instance) in self._made.ids:
                if not hasattr(type(found), "__get__"):
                    self.find("slot", kind, name, value, f"{kind.__name__}.{name}")
            elif (
                found is not MISSING
                and self.add("slot", instance, name, value, label, unread)
                and not unread
            ):
                self.visit(value, label)

    @unwatched
    def looked_up(self, cls: type, name: str) -> None:
        """A member of a class is found by its order, or is not."""
        self._members.looked_up(cls, name)

    def _dictionary(self, instance: Any, dictionary: Any, name: str) -> None:
        """Guard where an object keeps its attributes."""
        self.add("dictionary", instance, None, dictionary, f"__dict__ of {name}")

    def groups_are_read(self, groups: Any) -> None:
        """The user's code has read the settings of an optimizer."""
        self._groups_read.update(map(id, groups))

    def dictionary_is_read(self, instance: Any) -> None:
        """The user's code has read the dictionary of an object, where it finds all attributes."""
        if id(instance) not in self.visited or id(instance) in self._made.ids:
            return
        with self.paused():
            self._visit_attributes(instance, self._names.get(id(instance), ""))

    def may_be_swapped(self, owner: Callable[[], Any], name: str, value: Any) -> bool:
        """Whether a tracer may have taken the place of the value of an attribute."""
        return bool(self.host.swaps) and (can_grow(value) or self.host.holds(owner(), name))

    def attribute_is_missing(self, tensor: Tensor, name: str) -> None:
        """The function has asked a tensor from outside for an attribute that it lacks."""
        self.attribute(tensor, name, MISSING)

    # code that runs -------------------------------------------------------------
    def called(self, function: Any, file: str) -> None:
        """A function written in C is about to be called (``watching.Observer``)."""
        if thread.trace is None or file.startswith(_IMPORTING):
            return  # a module is read once; what its code does counts
        if self.numbers_vary and file != CONTEXTLIB:  # whose callers are asked about nothing
            self.number_was_asked |= asks_by_call(user_frame(), function)
        effect = effect_of(function)
        if function is globals and not file.startswith(STDLIB):
            effect = "globals()"  # where code finds more than what it names
        if effect is not None:
            place = f"{effect} is called (at {user_location()})"
            self.effects.called(function, place)

    def entered(self, frame: FrameType) -> None:
        """A Python function begins (``watching.Observer``)."""
        if thread.trace is None:
            return
        if self.numbers_vary:
            self.number_was_asked |= asks_for_types(user_frame())
        code = frame.f_code
        self._conversions.entered(frame)
        with self.paused():
            self._members.entered(frame)
            if id(code) in self.codes:
                return
            self._begin(code, frame.f_globals, self._closures.note(code, is_known=False))

    def _begin(
        self, code: CodeType, variables: dict[str, Any], functions: Iterable[FunctionType]
    ) -> None:
        self.codes[id(code)] = code
        if not self.effects.asks and not is_framework_file(code.co_filename):
            self.effects.asks = may_ask(code)
        if self.host.lifted.has_lists:
            self.host.lists.types_are_asked |= asks_types(code)
        self._named.scan(code, variables)
        for function in functions:
            self._scan_closure(function)

    def _scan_function(self, function: FunctionType) -> None:
        code = function.__code__
        if is_framework_file(code.co_filename) or code.co_filename.startswith(STDLIB):
            return
        self._closures.note(code)
        self._begin(code, function.__globals__, [function])
        self._visit_function(function)

    def _visit_function(self, function: FunctionType) -> None:
        """Guard what a function is; what it reads is guarded when it begins."""
        code = function.__code__
        if is_framework_file(code.co_filename):
            return
        if code.co_filename.startswith(STDLIB):  # around a user's: __wrapped__, registry
            self._visit_attributes(function, function.__name__)
            return
        self.add("slot", function, "__code__", code, f"{function.__name__}.__code__")
        if function.__dict__:
            self._visit_attributes(function, function.__name__)
        for name in ("__defaults__", "__kwdefaults__"):
            value = getattr(function, name)
            if value:
                label = f"{function.__name__}.{name}"
                self.add("slot", function, name, value, label)
                self.visit(value, label)

    def _cell(self, cell: CellType, variable: str, code: CodeType) -> None:
        try:
            value = cell.cell_contents
        except ValueError:
            value = MISSING
        if id(value) in self._made.ids or (isinstance(value, Tensor) and value._trace is not None):
            return  # a local of the traced function, seen from a function made within it
        found = self.add("cell", cell, None, value, variable)
        if found and value is not MISSING:
            self.visit(value, variable)

    def _scan_closure(self, function: FunctionType) -> None:
        for variable, cell in self._closures.used(function):
            self._cell(cell, variable, function.__code__)
