"""Classes of sizes: for which sizes a GPU program over symbols gets code of its own.

In: the values of a program's symbols at a call. Out: a ``SizeClass``, which says what all sizes of
the class have in common (an upper bound, a divisor), as substitutions for the graph and as options
of code generation. Invariants: the class of a call depends on its sizes alone, so that equal calls
give equal bits whatever was called before (as far as ``SizedRunner`` makes programs for classes);
neighbouring sizes share one.

A class is what schedules ask of a size. Rows of at most 64 elements lie in a block of 64, whatever
their length; wide loads and the copy engine need strides that are multiples of 16 bytes. Powers of
two are the sizes that are met most, and classes by themselves: from ``SMALLEST_CONSTANT`` on they
are numbers in the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flamec.ir.shape import Dim, SymbolicDim

SMALLEST_BOUND = 4  # below, sizes share everything
SMALLEST_CONSTANT = 64  # of powers of two; below, and of multiples, there is nothing to gain
DIVISORS = (16, 8, 4)  # by which sizes are told apart, the largest first
MOST_ELEMENTS = 1 << 30  # of an array whose indices are 32-bit numbers


@dataclass(frozen=True)
class SizeRange:
    """The sizes that are multiples of ``divisor``, at most ``bound``, and about ``typical``."""

    bound: int
    divisor: int
    typical: int

    @property
    def constant(self) -> bool:
        """Whether there is one size only."""
        return self.divisor == self.bound

    def text(self, symbol: str) -> str:
        """In words, for a symbol."""
        if self.typical == self.bound > SMALLEST_BOUND:
            return f"{symbol} = {self.bound}"
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
        """The symbols of the class's own program, in the same order, without constants."""
        return tuple(_own(s, r) for r, s in self._varying(symbols))

    def substitutions(self, symbols: Sequence[str]) -> list[tuple[Dim, Dim]]:
        """What the program's symbols are equal to, for ``settle_sizes``."""
        return [
            (SymbolicDim.symbol(s), r.bound)
            if r.constant
            else (SymbolicDim.symbol(s), r.divisor * SymbolicDim.symbol(_own(s, r)))
            for r, s in zip(self.ranges, symbols, strict=True)
            if r.divisor > 1
        ]

    def bounds(self, symbols: Sequence[str]) -> dict[str, int]:
        """The largest value of each of the class's symbols."""
        return {_own(s, r): r.bound // r.divisor for r, s in self._varying(symbols)}

    def typical(self, symbols: Sequence[str]) -> dict[str, int]:
        """A value of each of the class's symbols for which schedules are chosen."""
        return {_own(s, r): r.typical // r.divisor for r, s in self._varying(symbols)}

    def values(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The values of the class's symbols for sizes of the class."""
        pairs = zip(sizes, self.ranges, strict=True)
        return tuple([n // r.divisor for n, r in pairs if not r.constant])

    def _varying(self, symbols: Sequence[str]) -> list[tuple[SizeRange, str]]:
        pairs = zip(self.ranges, symbols, strict=True)
        return [(r, s) for r, s in pairs if not r.constant]


def _own(symbol: str, range: SizeRange) -> str:
    """What the class's program calls a symbol."""
    return symbol if range.divisor == 1 else f"{symbol}_{range.divisor}"


def size_class(sizes: Sequence[int], most_elements: int) -> SizeClass:
    """The class of sizes whose largest array has ``most_elements``."""
    return SizeClass(tuple(map(_range, sizes)), most_elements < MOST_ELEMENTS)


def _range(size: int) -> SizeRange:
    bound = max(SMALLEST_BOUND, 1 << max(0, size - 1).bit_length())
    if size == bound:
        return SizeRange(bound, bound if bound >= SMALLEST_CONSTANT else 1, bound)
    if bound == SMALLEST_BOUND:
        return SizeRange(bound, 1, bound)
    middle = bound - bound // 4
    if bound <= SMALLEST_CONSTANT:
        return SizeRange(bound, 1, middle)
    return SizeRange(bound, next((d for d in DIVISORS if size % d == 0), 1), middle)
