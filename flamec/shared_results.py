"""Containers in a function's result that somebody else holds, too, so that a copy is not the same.

In: the result of a trace, made of Python's own containers. Out: which of these the function has put
elsewhere as well (into Python's state, an object, a tuple), and which stand in the result several
times. What nobody else holds is known by CPython's counts of references: the function has returned.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flamec.structures import parts


@dataclass(frozen=True)
class SharedResults:
    """Ids of containers: ``outside``, that others hold; ``inside``, that only the result does,
    several times."""

    outside: frozenset[int] = frozenset()
    inside: frozenset[int] = frozenset()


def shared_results(result: list[Any], is_known: Callable[[int], bool]) -> SharedResults:
    """The shared containers of ``result[0]``, which nothing but this list holds. Those that
    ``is_known`` are left out, by id, with what they hold."""
    found = _shared(result, is_known)
    if found.outside:
        gc.collect()  # local functions that call themselves hold their variables until then
        found = _shared(result, is_known)
    return found


def _shared(result: list[Any], is_known: Callable[[int], bool]) -> SharedResults:
    held: dict[int, Any] = {}
    uses: Counter[int] = Counter()
    _look(result[0], is_known, held, uses)
    (alone,) = _references({0: []}).values()
    counts = _references(held)
    outside = frozenset(i for i, count in counts.items() if count > alone + uses[i])
    inside = frozenset(i for i in held if uses[i] > 1) - outside
    return SharedResults(outside, inside)


def _references(held: dict[int, Any]) -> dict[int, int]:
    """How many references there are to each value."""
    return {i: sys.getrefcount(value) for i, value in held.items()}


def _look(
    value: Any, is_known: Callable[[int], bool], held: dict[int, Any], uses: Counter[int]
) -> bool:
    """Note the containers in a value that can change, and tuples of some; whether there are any."""
    found = parts(value)
    if found is None or is_known(id(value)):
        return False
    identity = id(value)
    uses[identity] += 1
    if identity in held:
        return True
    held[identity] = value
    changes = [_look(part, is_known, held, uses) for part in found[1]]
    if isinstance(value, tuple) and not any(changes):
        del held[identity]
    return identity in held
