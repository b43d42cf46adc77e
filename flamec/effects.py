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


class EffectAhead(BaseException):  # code that handles errors must not handle it
    """A trace that may have to begin again stops before its first effect, and begins again as one
    that will not."""


class Effects:
    """What the Python code of a traced function does beside computing, in words.

    ``stops``: the trace may have to begin again, so it ends by EffectAhead before the first.
    ``is_counted``: else so does one with loops whose steps are to be counted.
    ``asks``: its code may ask what kind of object a number is (``number_types.py``).
    """

    def __init__(self, stops: bool = False) -> None:
        self.stops = stops
        self.begin()

    def begin(self) -> None:
        """Another trace begins."""
        self.found: list[str] = []
        self.asks, self.is_counted = False, True
        self._set: dict[ContextVar[Any], list[str]] = {}  # those that were set and not reset yet

    def happen(self, effect: str) -> None:
        """Note what is about to be done."""
        if (self.stops or not self.is_counted) and not only_looks(effect):
            raise EffectAhead
        self.found.append(effect)

    def called(self, function: Any, effect: str) -> None:
        """Note a call with an effect, or take away what it undoes."""
        variable = getattr(function, "__self__", None)
        if not isinstance(variable, ContextVar):
            self.happen(effect)
            return
        pending = self._set.setdefault(variable, [])
        if function.__name__ == "reset" and pending:
            self.found.remove(pending.pop())
            return
        if function.__name__ == "set":  # which most code resets, and may do twice
            pending.append(effect)
        self.found.append(effect)

    def left(self) -> list[str]:
        """Those that a function which began anew would have twice."""
        return [effect for effect in self.found if not only_looks(effect)]


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
