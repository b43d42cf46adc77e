"""How many nodes passes looked at: what compile time grows with, counted rather than timed.

``rewrite`` counts the nodes of which it asks a rule, other passes those that they walk over; the
pass manager notes the sum of each run.
"""

from __future__ import annotations

import threading


class _Visits(threading.local):
    count = 0


_visits = _Visits()


def count_visits(count: int) -> None:
    """Add to this thread's number."""
    _visits.count += count


def visits() -> int:
    """This thread's number so far."""
    return _visits.count
