"""What a caller may say about the code to be generated; plain data, part of cache keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from flamec.ir.shape import Dim, evaluate_dim, symbols_of


@dataclass(frozen=True)
class CodegenOptions:
    """How to generate code.

    - ``fuse``: False makes one kernel of each task, for comparisons.
    - ``size_hints``: symbol -> a size that is typical for it. Code is right for every size and
      fast near the hints; hints with the same least power of two above them give the same code.
    - ``narrow``: the caller promises that no array of a call with symbolic sizes has 2**31 or
      more elements, so that indices on a GPU are 32-bit numbers.
    """

    fuse: bool = True
    size_hints: Mapping[str, int] = field(default_factory=dict)
    narrow: bool = False

    def __post_init__(self) -> None:
        buckets = {name: power_of_two(size) for name, size in sorted(self.size_hints.items())}
        object.__setattr__(self, "size_hints", buckets)

    def typical(self, size: Dim) -> int | None:
        """A size as a number, by the hints for its symbols; None where one has no hint."""
        if isinstance(size, int):
            return size
        if not symbols_of(size) <= set(self.size_hints):
            return None
        try:
            return max(1, evaluate_dim(size, self.size_hints))
        except ZeroDivisionError:
            return None

    @property
    def key(self) -> str:
        """All that code depends on, as text."""
        return json.dumps(vars(self), sort_keys=True)


def power_of_two(size: int) -> int:
    """The least power of two that is at least ``size`` and at least 1."""
    return 1 << max(0, size - 1).bit_length()
