"""The programs that a thread has bound to sizes, the most recently used ones.

In: a plan's symbols and what makes a program for their values. Out: ``BoundPrograms``, a bounded
table of each thread's own: a bound program keeps addresses of the last call, so threads share none.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Bound = TypeVar("Bound")

_MOST = 64  # choices of sizes


class BoundPrograms(threading.local, Generic[Bound]):
    """Programs by the values of ``symbols``, in that order, and by who asks for them."""

    def __init__(self, symbols: tuple[str, ...]) -> None:
        self._symbols = symbols
        self._known: OrderedDict[tuple[int, ...], Bound] = OrderedDict()

    def of(
        self,
        sizes: tuple[int, ...],
        make: Callable[[tuple[int, ...]], Bound],
        key: tuple[int, ...] | None = None,
    ) -> Bound:
        """This thread's program for these sizes, made if there is none.

        ``key``: what stands for the sizes of callers who know more of them than the program needs:
        each keeps what it has set in the program, so callers with other keys have other programs.
        ValueError if there are more or fewer sizes than symbols.
        """
        key = sizes if key is None else key
        bound = self._known.get(key)
        if bound is not None:
            self._known.move_to_end(key)
            return bound
        if len(sizes) != len(self._symbols):
            raise ValueError(
                f"the program has {len(self._symbols)} sizes "
                f"({', '.join(self._symbols)}), {len(sizes)} were given"
            )
        bound = self._known[key] = make(sizes)
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return bound
