"""What Python's int has besides arithmetic and comparisons, for symbolic sizes.

In: operators and methods that the user's code applies to a size. Out: sizes where the result is a
polynomial or quotient of sizes; others Python computes at each call (``_computed``).
"""

from __future__ import annotations

import operator
from typing import Any


class IntegerMethods:
    """To be inherited by a class with ``+``, ``-``, ``*``, ``//``, ``%``, ``<``, ``_computed``."""

    __slots__ = ()

    def __pos__(self) -> Any:
        return self

    def __divmod__(self: Any, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self: Any, other: Any) -> Any:
        return other // self, other % self

    def __lshift__(self: Any, other: Any) -> Any:
        if isinstance(other, int):
            return self * (1 << other)
        return self._computed(operator.lshift, self, other) if _is_size(other) else NotImplemented

    def __rlshift__(self: Any, other: Any) -> Any:
        return (
            self._computed(operator.lshift, other, self) if _is_integer(other) else NotImplemented
        )

    def __rshift__(self: Any, other: Any) -> Any:
        if isinstance(other, int):
            return self // (1 << other)
        return self._computed(operator.rshift, self, other) if _is_size(other) else NotImplemented

    def __rrshift__(self: Any, other: Any) -> Any:
        return (
            self._computed(operator.rshift, other, self) if _is_integer(other) else NotImplemented
        )

    def __and__(self: Any, other: Any) -> Any:
        if not _is_integer(other):
            return NotImplemented
        if isinstance(other, int) and other > 0 and other & (other + 1) == 0:  # the lowest bits
            return self % (other + 1)
        return self._computed(operator.and_, self, other)

    __rand__ = __and__

    def __or__(self: Any, other: Any) -> Any:
        return self._computed(operator.or_, self, other) if _is_integer(other) else NotImplemented

    __ror__ = __or__

    def __xor__(self: Any, other: Any) -> Any:
        return self._computed(operator.xor, self, other) if _is_integer(other) else NotImplemented

    __rxor__ = __xor__

    def __invert__(self: Any) -> Any:
        return -self - 1

    def __round__(self: Any, ndigits: int | None = None) -> Any:
        if ndigits is None or ndigits >= 0:
            return self
        return self._computed(round, self, ndigits)

    def __trunc__(self) -> Any:
        return self

    __floor__ = __ceil__ = __trunc__

    def conjugate(self) -> Any:
        """The number itself, as it is real."""
        return self

    def is_integer(self) -> bool:
        """True."""
        return True

    def bit_length(self: Any) -> int:
        """The number of bits of the size."""
        return self._computed(int.bit_length, self)

    def bit_count(self: Any) -> int:
        """The number of ones among the bits of the size."""
        return self._computed(int.bit_count, self)

    def as_integer_ratio(self) -> tuple[Any, int]:
        """Numerator and denominator."""
        return self, 1

    @property
    def real(self) -> Any:
        """The number itself."""
        return self

    numerator = real

    @property
    def imag(self) -> int:
        """0."""
        return 0

    @property
    def denominator(self) -> int:
        """1."""
        return 1


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, IntegerMethods))


def _is_size(value: Any) -> bool:
    return isinstance(value, IntegerMethods)
