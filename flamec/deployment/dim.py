"""Sizes and whole numbers that vary from call to call of an exported program, as users name them.

A multiple of a ``Dim`` plus a number is a ``DerivedDim``; ``Dim.AUTO``, ``Dim.DYNAMIC`` and
``Dim.STATIC`` say of a size without a name whether it varies. All as in ``torch.export``.
"""

from __future__ import annotations

import enum
import operator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from flamec.size_bounds import SizeBounds


class DimHint(enum.Enum):
    """Whether a size varies: if the function allows it, in any case, never."""

    AUTO = "AUTO"
    DYNAMIC = "DYNAMIC"
    STATIC = "STATIC"

    def __repr__(self) -> str:
        return f"Dim.{self.value}"


@dataclass(frozen=True)
class Dim:
    """A size, or a whole number, that varies from call to call of an exported program.

    ``name``: sizes of one name are equal. ``min``, ``max`` (both included; sizes are at least 0)
    and ``multiple_of`` are checked at each call: branches that they decide for sizes are no
    condition of the program, and its kernels may rely on them. As ``torch.export.Dim``: ``2 * dim``
    and ``dim + 1`` are sizes, too, and ``Dim.AUTO``, ``Dim.DYNAMIC`` and ``Dim.STATIC`` are sizes
    without a name that vary if the function allows it, in any case, and never.
    """

    AUTO: ClassVar[Literal[DimHint.AUTO]] = DimHint.AUTO
    DYNAMIC: ClassVar[Literal[DimHint.DYNAMIC]] = DimHint.DYNAMIC
    STATIC: ClassVar[Literal[DimHint.STATIC]] = DimHint.STATIC

    name: str
    min: int | None = None
    max: int | None = None
    multiple_of: int = 1

    def __post_init__(self) -> None:
        none = self.min is not None and self.max is not None and self.max < self.min
        if (
            self.multiple_of < 1
            or none
            or (self.max is not None and self.multiple_of > 1 > self.max)
        ):
            raise ValueError(f"Dim: no number is {self}")

    def allows(self, number: int) -> bool:
        above = self.min is None or self.min <= number
        return above and (self.max is None or number <= self.max) and not number % self.multiple_of

    @property
    def bounds(self) -> SizeBounds:
        """Those of a size."""
        return SizeBounds(max(self.min or 0, 0), self.max, self.multiple_of)

    def __mul__(self, factor: Any) -> DerivedDim:
        return DerivedDim(self, _whole(factor), 0)

    def __add__(self, offset: Any) -> DerivedDim:
        return DerivedDim(self, 1, _whole(offset))

    def __sub__(self, offset: Any) -> DerivedDim:
        return self + -_whole(offset)

    __rmul__, __radd__ = __mul__, __add__

    def __str__(self) -> str:
        parts = [] if self.min is None else [f"at least {self.min}"]
        parts += [] if self.max is None else [f"at most {self.max}"]
        parts += [] if self.multiple_of == 1 else [f"a multiple of {self.multiple_of}"]
        return " and ".join(parts) or "any number"


@dataclass(frozen=True)
class DerivedDim:
    """The size ``factor * root + offset``."""

    root: Dim
    factor: int
    offset: int

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"Dim: {self.root.name} times {self.factor}; a factor is at least 1")

    @property
    def name(self) -> str:
        product = self.root.name if self.factor == 1 else f"{self.factor}*{self.root.name}"
        sign = "-" if self.offset < 0 else "+"
        return product if not self.offset else f"{product} {sign} {abs(self.offset)}"

    def of(self, root: int) -> int:
        return self.factor * root + self.offset

    def root_of(self, size: int) -> int:
        """What the root is for a size. ValueError if that is no whole number."""
        root, rest = divmod(size - self.offset, self.factor)
        if rest:
            raise ValueError(f"{size}, which is {self.name} for no {self.root.name}")
        return root

    def declared(self) -> Dim:
        """What is known of the size by itself."""
        root = self.root
        divisor = 1 if self.offset else self.factor * root.multiple_of
        low, high = [None if end is None else self.of(end) for end in (root.min, root.max)]
        return Dim(self.name, low, high, divisor)

    def __mul__(self, factor: Any) -> DerivedDim:
        return DerivedDim(self.root, self.factor * _whole(factor), self.offset * factor)

    def __add__(self, offset: Any) -> DerivedDim:
        return DerivedDim(self.root, self.factor, self.offset + _whole(offset))

    def __sub__(self, offset: Any) -> DerivedDim:
        return self + -_whole(offset)

    __rmul__, __radd__ = __mul__, __add__


def _whole(number: Any) -> int:
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise TypeError(f"Dim: a size is multiplied and added to by whole numbers, not {number!r}")
    return operator.index(number)
