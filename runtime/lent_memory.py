"""Temporaries in the memory of outputs that are not written yet.

In: a layout, and the array of a bound program's addresses. Out: addresses of the guests, which
follow those of their outputs.
"""

from __future__ import annotations

from typing import Any

from flamec.ir.plan import MemoryLayout


class LentMemory:
    """Moves guests with the outputs that they are in. ``guests``: see ``guests_by_lender``."""

    __slots__ = ("_known", "guests")

    def __init__(self, layout: MemoryLayout) -> None:
        self.guests = layout.guests_by_lender()
        self._known: dict[int, Any] = dict.fromkeys(self.guests)

    def move(self, addresses: Any) -> None:
        """Take over the addresses of outputs that are not those of the last call."""
        known = self._known
        for lender, guests in self.guests.items():
            address = addresses[lender]
            if address != known[lender]:
                known[lender] = address
                for guest, offset in guests:
                    addresses[guest] = address + offset
