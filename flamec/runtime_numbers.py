"""Python numbers that a compiled program reads anew at each call.

An optimizer's learning rate changes from step to step; baked in as a constant
it would force a new compilation each time. ``runtime_number`` gives the plain
number when running eagerly and, while tracing, a scalar tensor that is an
input of the program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flamec.host_numbers import decide
from flamec.sources import fetch
from flamec.state import thread
from flamec.tensor import Tensor


def runtime_number(container: Any, *path: Any) -> Any:
    """``container[path[0]][path[1]]…``; while tracing, an input of the program.

    Tensors and values that are not numbers are returned as they are.
    """
    value = fetch(container, path)
    trace = thread.trace
    if trace is None or isinstance(value, (bool, Tensor)) or not isinstance(value, (int, float)):
        return value
    host, key = trace.host, path[0]
    if host is not None and (host.holds(container, key) or host.firsts.is_set(container, key)):
        return value  # which the function has just put there
    trace.exempt(container, path[0])
    return trace.number(container, path, "_".join(str(p) for p in path))


def static_condition(container: Any, key: Any, condition: Callable[[Any], bool]) -> bool:
    """``condition(container[key])``; while tracing only its truth is guarded, not the value."""
    value = container[key]
    decided = decide(condition, value)
    if decided is not None:
        return decided
    result = bool(condition(value))
    trace = thread.trace
    if trace is not None and not isinstance(value, Tensor):
        trace.exempt(container, key)
        trace.conditions.append((container, key, condition, result))
    return result


def unread(container: Any, key: Any) -> None:
    """Say that no program depends on ``container[key]``: its changes are not guarded."""
    if thread.trace is not None:
        thread.trace.exempt(container, key)
