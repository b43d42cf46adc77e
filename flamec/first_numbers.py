"""Numbers in containers as a trace first saw them, which the traced function may set meanwhile.

In: the entries that the trace meets. Out: whether the function has set one of them, and sources of
inputs that give the numbers as they were. Invariant: an entry keeps the number noted first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flamec.guarded_values import MISSING, same_constant
from flamec.host_actions import UNSET, Swap
from flamec.sources import InputSource

Entry = tuple[int, Any]  # a container's id, and a key


class FirstNumbers:
    """Of one trace. ``swaps``: the entries that have tracers, which know what was there before."""

    def __init__(self, swaps: Mapping[Entry, Swap]) -> None:
        self._swaps = swaps
        self._numbers: dict[Entry, Any] = {}
        self._set: list[tuple[Any, Any]] = []  # read as others than at first

    def note(self, owner: Any, key: Any, value: Any) -> None:
        """The trace meets an entry."""
        self._numbers.setdefault((id(owner), key), value)

    def read(self, source: InputSource) -> Any:
        """The number that an input was when the trace first saw it."""
        return self._at_first(source).read((), {})

    def _at_first(self, source: InputSource) -> InputSource:
        if source.kind != "number" or not source.path:
            return source
        key = source.path[0]
        entry = id(source.container), key
        swap = self._swaps.get(entry)
        first = UNSET if swap is None else swap.original
        if first is UNSET:
            first = self._numbers.get(entry, MISSING)
        return source if first is MISSING else replace(source, container={key: first})

    def is_set(self, owner: Any, key: Any) -> bool:
        """Whether a number in a container is another than when the trace first saw it."""
        first = self._numbers.get((id(owner), key), MISSING)
        if first is MISSING or same_constant(first, owner[key]):
            return False
        self._set.append((owner, key))
        return True

    def was_set(self, owner: Any, key: Any) -> bool:
        """Whether ``is_set`` has been true of an entry."""
        return any(o is owner and k == key for o, k in self._set)

    def keep(self, sources: list[InputSource], effects: list[str]) -> None:
        """Let the program of a call whose Python code has effects read numbers as they were before.

        A number that the function itself has set by now is such an effect. The trace is over.
        """
        firsts = [self._at_first(source) for source in sources]
        for first, source in zip(firsts, sources, strict=True):
            if first is not source and (
                self.was_set(source.container, source.path[0])
                or not same_constant(first.read((), {}), source.read((), {}))
            ):
                effects.append(f"it changes {source.name or source.path[0]}, which it has read")
        if effects:
            sources[:] = firsts

    def clear(self) -> None:
        """Let go of the containers."""
        self._numbers.clear()
        self._set.clear()
