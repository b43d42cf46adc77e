"""Functions that remember their results (``functools.lru_cache``): state that a trace relies on.

In: such functions, as a trace meets them. Out: what they remember, which a program needs to be
there still, and for a trace that is given up: that nothing is remembered which it has computed.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterable
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from flamec.guarded_values import Guard, cache_of, remembered

if TYPE_CHECKING:
    from flamec.tensor import Tensor

CachedFunction = type(functools.lru_cache(len))
_MOST_NESTED = 6  # containers around a tensor in what a function remembers
_WITHOUT_TENSORS = (type, FunctionType, ModuleType)


class CachesMet:
    """Of one trace, the functions that remember their results."""

    def __init__(self) -> None:
        self._before: dict[Any, tuple[str, list[Any]]] = {}

    def met(self, function: Any, name: str) -> None:
        """One is met, before it is called."""
        self._before[function] = name, list(cache_of(function))

    def guards(self) -> list[Guard]:
        """That they remember what they do now."""
        return [
            Guard("cache", function, None, {id(v): v for v in remembered(function)}, name)
            for function, (name, _) in self._before.items()
        ]

    def results(self) -> list[Any]:
        """What they remember."""
        return [value for function in self._before for value in remembered(function)]

    def grew(self) -> bool:
        """Whether one has computed something that it did not remember."""
        return any(
            not set(map(id, cache_of(function))) <= set(map(id, before))
            for function, (_, before) in self._before.items()
        )

    def forget(self) -> None:
        """Take away what they have remembered since they were met, of bounded ones all."""
        for function, (_, before) in self._before.items():
            cache, known = cache_of(function), set(map(id, before))
            kept = [(key, value) for key, value in cache.items() if id(key) in known]
            if len(kept) < len(cache):
                function.cache_clear()  # keys with sizes of a trace have another hash by now
                if function.cache_parameters()["maxsize"] is None:  # else there is a list besides
                    cache.update(kept)


def forget_tensors(tensors: Iterable[Tensor]) -> None:
    """Empty the caches of functions that hold one of ``tensors``, of a trace that is given up:
    nothing else gives these functions back what they held, also where the trace did not meet them.

    They are found by their type. To look through all objects would be to hold tuples that other
    threads are making, and CPython 3.11 cannot make one that somebody holds (SystemError).
    """
    wanted = set(map(id, tensors))
    if not wanted:
        return
    gc.unfreeze()  # what is frozen is not among referrers
    for function in gc.get_referrers(CachedFunction):
        if type(function) is not CachedFunction:
            continue
        if _reaches([*remembered(function), *cache_of(function)], wanted):
            function.cache_clear()


def _reaches(found: list[Any], wanted: set[int]) -> bool:
    """Whether one of the objects, or what they contain, is ``wanted`` (ids)."""
    seen: set[int] = set()
    for depth in range(_MOST_NESTED):
        fresh = {id(v): v for v in found if id(v) not in seen}
        if not wanted.isdisjoint(fresh):
            return True
        seen.update(fresh)
        found = [part for value in fresh.values() for part in _parts(value, depth == 0)]
    return False


def _parts(value: Any, with_attributes: bool) -> Iterable[Any]:
    """The elements of a container, or the attributes of an object that was remembered."""
    kind = type(value)
    if issubclass(kind, dict):
        return [*dict.keys(value), *dict.values(value)]
    if issubclass(kind, (tuple, list, set, frozenset)):
        return list(value)
    if not with_attributes or issubclass(kind, _WITHOUT_TENSORS):
        return ()
    try:
        return list(object.__getattribute__(value, "__dict__").values())
    except AttributeError:
        return ()
