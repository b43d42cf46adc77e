"""An exported program for a GPU that has code for classes of sizes, and for all others.

In: the plans of a file, loaded. Out: ``LoadedClasses``, a ``Runner`` that takes the code for the
class of a call's sizes if the file has it. As in a compiled function the class follows from the
sizes alone (``flamec.size_classes``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flamec.ir.shape import Dim, format_dim, parse_dim
from flamec.prepared import DeviceMemory, Invocation, Runner
from flamec.size_classes import SizeClass, SizeRange
from flamec.sized_runner import class_of


class LoadedClasses:
    """``general``: for all sizes; ``runners``: for classes; ``counts``: see ``element_counts``."""

    threads = 1

    def __init__(
        self,
        general: Runner,
        runners: Mapping[SizeClass, Runner],
        symbols: Sequence[str],
        counts: Sequence[Dim],
    ) -> None:
        self._general, self._runners = general, dict(runners)
        self._symbols, self._counts = tuple(symbols), list(counts)

    @property
    def memory(self) -> DeviceMemory:
        return self._general.memory

    def bind(self, sizes: tuple[int, ...]) -> Invocation:
        known = class_of(self._symbols, self._counts, sizes)
        runner = self._runners.get(known)
        return self._general.bind(sizes) if runner is None else runner.bind(known.values(sizes))


def describe_class(known: SizeClass) -> dict[str, Any]:
    """As JSON."""
    ranges = [[r.bound, r.divisor, r.typical] for r in known.ranges]
    return {"ranges": ranges, "narrow": known.narrow}


def read_class(data: Mapping[str, Any]) -> SizeClass:
    """What ``describe_class`` wrote; ValueError or TypeError for anything else."""
    ranges = tuple(SizeRange(*map(int, r)) for r in data["ranges"])
    return SizeClass(ranges, bool(data["narrow"]))


def describe_counts(counts: Sequence[Dim]) -> list[str]:
    """As JSON."""
    return [format_dim(count) for count in counts]


def read_counts(texts: Sequence[str]) -> list[Dim]:
    """What ``describe_counts`` wrote."""
    return [parse_dim(text) for text in texts]
