"""What code names of Python's state: globals, and attributes of modules.

In: the code of functions as they begin. Out: an observer is told of what there is under the names
in it. A module that code hands on, imports, or has from elsewhere may be read by any code.
"""

from __future__ import annotations

import builtins
import dis
import os
import sys
from collections import deque
from collections.abc import Sequence
from types import CodeType, FunctionType, ModuleType
from typing import Any, Protocol

import numpy as np

from flamec.config import ENVIRONMENT
from flamec.conversions import is_stand_in
from flamec.effects import Effects
from flamec.followed_modules import is_followed, is_ours, is_user_module
from flamec.guarded_values import MISSING, Guard, class_attribute

_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR")
_BETWEEN = ("CACHE", "EXTENDED_ARG", "PRECALL", "RESUME")  # say nothing of the next instruction


class StateObserver(Protocol):
    """What is told of state. ``effects``: in words what a program cannot repeat."""

    effects: Effects

    def add(self, kind: str, owner: Any, key: Any, value: Any, name: str) -> bool:
        """Guard a value; False if the function has put it there."""

    def find(self, kind: str, owner: Any, key: Any, value: Any, name: str) -> None:
        """Guard a value and what it leads to."""

    def visit(self, value: Any, name: str) -> None:
        """A value that the function can reach."""

    def looked_up(self, cls: type, name: str) -> None:
        """A member of a class is found by its order."""


class NamedState:
    """Of one trace."""

    def __init__(self, observer: StateObserver) -> None:
        self._observer = observer
        self._codes: list[CodeType] = []
        self._passed_on: dict[int, ModuleType] = {}  # modules, whose attributes any code may read
        self._imports: set[str] = set()  # names of modules
        self._absent: dict[int, tuple[dict[str, Any], set[str]]] = {}  # namespaces, and names

    def note_imports(self) -> None:
        """Look at modules that code imports, as far as that has happened."""
        for name in list(self._imports):
            module = sys.modules.get(name)
            if module is not None:
                self._imports.discard(name)
                if is_user_module(module):
                    self.pass_on(module)

    def absent(self) -> list[Guard]:
        """That no global has come before a function of Python's, and that modules still lack what
        code asks them for."""
        return [
            Guard("absent", held, None, frozenset(names), held.get("__name__", "a namespace"))
            for held, names in self._absent.values()
        ]

    def scan(self, code: CodeType, variables: dict[str, Any]) -> None:
        """Guard the globals that ``code`` names, through chains of modules."""
        self._codes.append(code)
        for passed in list(self._passed_on.values()):
            self._read_by(code, passed)
        module: Any = None
        given: deque[Any] = deque(maxlen=2)  # the constants before an import: its level, and names
        for instruction in dis.get_instructions(code):
            goes_on = instruction.opname in (*_ATTRIBUTES, *_BETWEEN)
            if module is not None and is_user_module(module) and not goes_on:
                self.pass_on(module)
            if instruction.opname in ("LOAD_CONST", "LOAD_SMALL_INT"):
                given.append(instruction.argval)
            elif instruction.opname == "IMPORT_NAME":
                self._imported(instruction.argval, given, variables)
            if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                name = instruction.argval
                self._observer.add("item", variables, name, variables.get(name, MISSING), name)
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                name = instruction.argval
                module = None
                if name in variables and not is_stand_in(variables[name]):
                    value = variables[name]
                    self._observer.find("item", variables, name, value, name)
                    module = value if is_followed(value) or isinstance(value, type) else None
                elif hasattr(builtins, name):
                    self._lacks(variables, {name})
                else:
                    self._observer.add("item", variables, name, MISSING, name)
            elif instruction.opname in _ATTRIBUTES and module is not None:
                name, owner = instruction.argval, module
                if isinstance(module, type):
                    if isinstance(class_attribute(module, name), FunctionType):
                        self._observer.looked_up(module, name)
                    module = None
                    continue
                if module is np:
                    if name == "random":
                        self._observer.effects.happen("NumPy's random numbers are drawn")
                    module = None
                    continue
                if module is os:
                    if name in ("environ", "getenv"):
                        self._observer.visit(ENVIRONMENT, f"os.{name}")
                    module = None
                    continue
                value = vars(module).get(name, MISSING)
                if is_ours(module):
                    module = value if is_ours(value) else None
                    if isinstance(value, FunctionType):  # which something else may replace
                        self._observer.add(
                            "attribute", vars(owner), name, value, f"{owner.__name__}.{name}"
                        )
                    continue
                label = f"{module.__name__}.{name}"
                if value is not MISSING:
                    self._observer.find("attribute", vars(module), name, value, label)
                else:
                    self._observer.add("attribute", vars(module), name, value, label)
                module = value if is_user_module(value) or isinstance(value, type) else None
            elif instruction.opname not in _BETWEEN:
                module = None

    def pass_on(self, module: ModuleType) -> None:
        """A module is known under another name than its own."""
        if id(module) not in self._passed_on:
            self._passed_on[id(module)] = module
            for code in list(self._codes):
                self._read_by(code, module)

    def _read_by(self, code: CodeType, module: ModuleType) -> None:
        """Guard what code may read from a module in a variable, also by ``getattr``."""
        self._module(module, names_in(code))
        missing = {name for name in _texts(code) if name not in vars(module)}
        if missing:
            self._lacks(vars(module), missing)

    def _lacks(self, variables: dict[str, Any], names: set[str]) -> None:
        self._absent.setdefault(id(variables), (variables, set()))[1].update(names)

    def _module(self, module: ModuleType, names: Sequence[str]) -> None:
        """Guard what code that has these names may read from a module in a variable."""
        held = vars(module)
        for name in names:
            if name in held and not is_stand_in(held[name]):
                label = f"{module.__name__}.{name}"
                found = self._observer.add("attribute", held, name, held[name], label)
                if is_user_module(held[name]):
                    self._module(held[name], [n for n in names if n != name])
                elif found:
                    self._observer.visit(held[name], label)

    def _imported(self, name: str, given: Sequence[Any], variables: dict[str, Any]) -> None:
        """Code imports a module: it may read whatever it names from it."""
        level, names = given
        if level:
            package = (variables.get("__package__") or "").split(".")
            name = ".".join([*package[: len(package) - level + 1], *name.split(".")]).rstrip(".")
        first = name.partition(".")[0]
        if first in sys.stdlib_module_names or first in ("numpy", "flamec"):
            return
        self._imports.update((name,) if names else (name, first))
        self.note_imports()


def names_in(code: CodeType) -> list[str]:
    """What code may call an attribute."""
    return [*code.co_names, *_texts(code)]


def _texts(code: CodeType) -> list[str]:
    return [c for c in code.co_consts if isinstance(c, str) and c.isidentifier()]
