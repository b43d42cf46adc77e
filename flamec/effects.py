"""Calls into Python's library whose results or traces a compiled program cannot repeat.

In: functions written in C that the traced code calls. Out: what those are called in messages that
print, read or write files, tell the time, draw random numbers or ask for context. Setting a context
variable (``numpy.errstate`` does) has no effect if the traced code resets it.
"""

from __future__ import annotations

import builtins
import io
import random
import time
from contextvars import ContextVar
from typing import Any

_BUILTINS = frozenset({"print", "input", "open"})
_FILES = frozenset(
    {"write", "writelines", "read", "readline", "readlines", "readinto", "truncate", "seek"}
)
_LOOKS = ("time.", "datetime.", "date.", "get() of a context variable", "globals()")


class ContextVariables:
    """Of one trace, the context variables that were set and not reset yet."""

    def __init__(self) -> None:
        self._set: dict[int, tuple[ContextVar[Any], list[str]]] = {}  # by id, the effects

    def called(self, function: Any, effect: str, effects: list[str]) -> None:
        """A call with an effect was seen: add it to ``effects``, or take away what it undoes."""
        variable = getattr(function, "__self__", None)
        if isinstance(variable, ContextVar):
            pending = self._set.setdefault(id(variable), (variable, []))[1]
            if function.__name__ == "set":
                pending.append(effect)
            elif function.__name__ == "reset" and pending:
                effects.remove(pending.pop())
                return
        effects.append(effect)


def effect_of(function: Any) -> str | None:
    """The effect of calling ``function``, in words."""
    owner = getattr(function, "__self__", None)
    if owner is None:
        return None
    name = function.__name__
    if owner is builtins:
        return f"{name}()" if name in _BUILTINS else None
    if owner is time:
        return f"time.{name}()"
    if isinstance(owner, io.IOBase):
        return f"{type(owner).__name__}.{name}()" if name in _FILES else None
    if isinstance(owner, random.Random):
        return f"{name}() of Python's random numbers"
    if isinstance(owner, ContextVar):
        return f"{name}() of a context variable"
    if owner.__class__ is type and owner.__module__ == "datetime":
        return f"{owner.__name__}.{name}()" if name in ("now", "today", "utcnow") else None
    return None


def only_looks(effect: str) -> bool:
    """Whether a call that had an effect may begin anew, as nothing is left of it."""
    return effect.startswith(_LOOKS) and not effect.startswith("time.sleep")
