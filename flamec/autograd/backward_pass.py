"""What hooks may ask of the backward pass that calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from flamec.ir.graph import Value


class BackwardPass:
    """``reached``: the values that may get a gradient, listed when a hook asks.

    Functions that wait for a number of gradients are called when those have come, or at the
    end of the pass with what there is.
    """

    def __init__(self, reached: Iterable[Value]) -> None:
        self._listing = reached
        self._waiting: dict[Callable[[BackwardPass], None], int] = {}
        self._seen: set[Any] = set()

    def reaches(self, value: Value | None) -> bool:
        """Whether a value may get a gradient."""
        return value in self._reached

    @cached_property
    def _reached(self) -> set[Value]:
        return set(self._listing)

    def is_first(self, key: Any) -> bool:
        """Whether the pass was not asked about ``key`` before."""
        is_new = key not in self._seen
        self._seen.add(key)
        return is_new

    def expect(self, call: Callable[[BackwardPass], None], number: int) -> None:
        """``call`` waits for this number of gradients."""
        self._waiting[call] = number

    def count(self, call: Callable[[BackwardPass], None]) -> None:
        """One of the gradients that ``call`` waits for has come."""
        self._waiting[call] -= 1
        if not self._waiting[call]:
            del self._waiting[call]
            call(self)

    def finish(self) -> None:
        """Call what still waits."""
        while self._waiting:
            call = next(iter(self._waiting))
            del self._waiting[call]
            call(self)
