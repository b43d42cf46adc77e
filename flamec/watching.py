"""Which of our own code is not watched while a user's function is traced.

A trace looks at every call that Python makes, to find what the function reads
(``guards.Recorder``). That costs more than tracing itself, and most calls are of our own code,
which reads no state of the user. Invariant: what is ``unwatched`` runs no code of the user.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from sys import setprofile
from typing import Any, TypeVar

from flamec.state import thread

F = TypeVar("F", bound=Callable[..., Any])


def unwatched(function: F) -> F:
    """A function whose calls, and those that it makes, are not looked at."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        watch = thread.watch
        if watch is None:
            return function(*args, **kwargs)
        setprofile(None)
        thread.watch = None
        try:
            return function(*args, **kwargs)
        finally:
            thread.watch = watch
            setprofile(watch)

    return call  # type: ignore[return-value]
