"""Classes of sizes: for which sizes a GPU program over symbols gets code of its own.

In: the values of a program's symbols at a call. Out: a ``SizeClass``, which says what all sizes of
the class have in common (an upper bound, a divisor), as substitutions for the graph and as options
of code generation. Invariants: the class of a call depends on its sizes alone, so that equal calls
give equal bits whatever was called before; a program has finitely many classes, and neighbouring
sizes share one.

A class is what schedules ask of a size. Rows of at most 64 elements lie in a block of 64, whatever
their length; wide loads and the copy engine need strides that are multiples of 16 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flamec.ir.shape import Dim, SymbolicDim

SMALLEST_BOUND = 4
SMALLEST_DIVISIBLE = 64  # below, wide loads gain nothing
DIVISORS = (16, 8, 4)  # by which sizes are told apart, the largest first
MOST_ELEMENTS = 1 << 30  # of an array whose indices are 32-bit numbers


@dataclass(frozen=True)
class SizeRange:
    """The sizes that are multiples of ``divisor`` and at most ``bound``."""

    bound: int
    divisor: int

    def text(self, symbol: str) -> str:
        """In words, for a symbol."""
        multiple = "" if self.divisor == 1 else f", a multiple of {self.divisor}"
        return f"{symbol} <= {self.bound}{multiple}"


@dataclass(frozen=True)
class SizeClass:
    """A range for each symbol of a program. ``narrow``: no array has ``MOST_ELEMENTS``."""

    ranges: tuple[SizeRange, ...]
    narrow: bool

    def text(self, symbols: Sequence[str]) -> str:
        """In words, for messages and cache keys."""
        words = [r.text(s) for r, s in zip(self.ranges, symbols, strict=True)]
        return "; ".join([*words, *([] if self.narrow else ["64-bit indices"])])

    def symbols(self, symbols: Sequence[str]) -> tuple[str, ...]:
        """The symbols of the class's own program, in the same order."""
        return tuple(
            s if r.divisor == 1 else f"{s}_{r.divisor}"
            for r, s in zip(self.ranges, symbols, strict=True)
        )

    def substitutions(self, symbols: Sequence[str]) -> list[tuple[Dim, Dim]]:
        """What the program's symbols are equal to, for ``settle_sizes``."""
        return [
            (SymbolicDim.symbol(old), r.divisor * SymbolicDim.symbol(new))
            for r, old, new in zip(self.ranges, symbols, self.symbols(symbols), strict=True)
            if r.divisor > 1
        ]

    def bounds(self, symbols: Sequence[str]) -> dict[str, int]:
        """The largest value of each of the class's symbols: a power of two."""
        names = self.symbols(symbols)
        return {n: r.bound // r.divisor for n, r in zip(names, self.ranges, strict=True)}

    def values(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The values of the class's symbols for sizes of the class."""
        return tuple([n // r.divisor for n, r in zip(sizes, self.ranges, strict=True)])


def size_class(sizes: Sequence[int], most_elements: int) -> SizeClass:
    """The class of sizes whose largest array has ``most_elements``."""
    return SizeClass(tuple(map(_range, sizes)), most_elements < MOST_ELEMENTS)


def _range(size: int) -> SizeRange:
    bound = max(SMALLEST_BOUND, 1 << max(0, size - 1).bit_length())
    if size < SMALLEST_DIVISIBLE:
        return SizeRange(bound, 1)
    return SizeRange(bound, next((d for d in DIVISORS if size % d == 0), 1))
