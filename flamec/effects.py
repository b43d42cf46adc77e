"""Calls into Python's library whose results or traces a compiled program cannot repeat.

In: a function written in C that the traced code calls. Out: what it is called in messages if it
prints, reads or writes files, tells the time, draws random numbers or asks for context; else None.
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
