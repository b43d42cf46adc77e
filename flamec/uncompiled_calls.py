"""Calls of a compiled function that ran without a program, and which calls like them are traced.

In: the arguments of such calls, and why they had no program. Out: Uncompiled for a call that need
not be traced to know that it has none.
"""

from __future__ import annotations

from typing import Any

from flamec.errors import Uncompiled
from flamec.varying_arguments import call_key


class UncompiledCalls:
    """Of one function, by ``call_key``: how many there were, and the last one's reason."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[int, str]] = {}

    def note(self, key: Any, reason: str) -> None:
        self._known[key] = self._known.get(key, (0, ""))[0] + 1, reason

    def leave(self, leaves: list[Any], structure: Any) -> None:
        """Uncompiled for calls like others that were: the 1st, 2nd, 3rd, 5th, 9th are traced."""
        if self._known:
            count, reason = self._known.get(call_key(leaves, structure), (0, ""))
            if count & (count - 1):
                raise Uncompiled(reason)

    def clear(self) -> None:
        self._known.clear()
