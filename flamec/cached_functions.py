"""Functions that remember their results (``functools.lru_cache``): state that a trace relies on.

In: such functions, as a trace meets them. Out: what they remember, which a program needs to be
there still, and for a trace that is given up: that nothing is remembered which it has computed.
"""

from __future__ import annotations

import functools
from typing import Any

from flamec.guarded_values import Guard, cache_of, remembered

CachedFunction = type(functools.lru_cache(len))


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
