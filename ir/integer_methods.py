"""What Python's int has besides arithmetic and comparisons, for symbolic sizes.

In: operators and methods that the user's code applies to a size. Out: sizes where the result is a
polynomial or quotient of sizes, else integers, for which the size is the one at hand (``int(size)``
asks the oracle, so it becomes a guard).
"""

from __future__ import annotations

from typing import Any


class IntegerMethods:
    """To be inherited by a class with ``+``, ``-``, ``*``, ``//``, ``%``, ``<`` and ``int()``."""

    __slots__ = ()

    def __pos__(self) -> Any:
        return self

    def __abs__(self: Any) -> Any:
        return -self if self < 0 else self

    def __divmod__(self: Any, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self: Any, other: Any) -> Any:
        return other // self, other % self

    def __lshift__(self: Any, other: Any) -> Any:
        return self * (1 << int(other)) if _is_integer(other) else NotImplemented

    def __rlshift__(self: Any, other: Any) -> Any:
        return other << int(self)

    def __rshift__(self: Any, other: Any) -> Any:
        return self // (1 << int(other)) if _is_integer(other) else NotImplemented

    def __rrshift__(self: Any, other: Any) -> Any:
        return other >> int(self)

    def __and__(self: Any, other: Any) -> Any:
        if not _is_integer(other):
            return NotImplemented
        mask = int(other)
        if mask > 0 and mask & (mask + 1) == 0:  # the lowest bits
            return self % (mask + 1)
        return int(self) & mask

    __rand__ = __and__

    def __or__(self: Any, other: Any) -> Any:
        return int(self) | int(other) if _is_integer(other) else NotImplemented

    __ror__ = __or__

    def __xor__(self: Any, other: Any) -> Any:
        return int(self) ^ int(other) if _is_integer(other) else NotImplemented

    __rxor__ = __xor__

    def __invert__(self: Any) -> Any:
        return -self - 1

    def __round__(self: Any, ndigits: int | None = None) -> Any:
        return self if ndigits is None or ndigits >= 0 else round(int(self), ndigits)

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
        """The number of bits of the size at hand."""
        return int(self).bit_length()

    def bit_count(self: Any) -> int:
        """The number of ones among the bits of the size at hand."""
        return int(self).bit_count()

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
