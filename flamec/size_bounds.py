"""What is declared of a size that varies: its bounds, and a number that divides it.

In: declarations on tensors (``mark_dynamic``). Out: ``SizeBounds``, and what they say about
questions between sizes, so that these need no guard and no program of their own.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flamec.errors import user_location
from flamec.ir.shape import Dim, SymbolicDim, is_nonnegative_atom
from flamec.tensor import Tensor

Interval = tuple[int, int | None]  # both ends included; None: no end


@dataclass(frozen=True)
class SizeBounds:
    """``min <= size <= max`` (None: no limit), and ``size`` is a multiple of ``multiple_of``."""

    min: int = 0
    max: int | None = None
    multiple_of: int = 1

    def allows(self, size: int) -> bool:
        inside = self.min <= size and (self.max is None or size <= self.max)
        return inside and size % self.multiple_of == 0

    def allow_any(self) -> bool:
        """Whether there is such a size at all."""
        if self.min < 0 or self.multiple_of < 1:
            return False
        low, high = self.of_symbol()
        return high is None or low <= high

    def of_symbol(self) -> Interval:
        """The values of the symbol that is multiplied by ``multiple_of``."""
        return -(-self.min // self.multiple_of), (
            None if self.max is None else self.max // self.multiple_of
        )

    def __str__(self) -> str:
        limit = "" if self.max is None else f" and at most {self.max}"
        multiple = "" if self.multiple_of == 1 else f", a multiple of {self.multiple_of}"
        return f"at least {self.min}{limit}{multiple}"


ANY_SIZE = SizeBounds()


def mark_dynamic(
    tensor: Tensor,
    *axes: int | Sequence[int],
    min: int = 0,
    max: int | None = None,
    multiple_of: int = 1,
) -> None:
    """Make sizes of an argument symbolic from the first call.

    ``axes``: numbers of dimensions, or sequences of them. ``min``, ``max`` (both included) and
    ``multiple_of`` hold for each of the axes: branches that they decide need no program of their
    own, and kernels may rely on them. A call with another size, of a tensor without this mark, gets
    another program. IndexError for a bad axis, ValueError for impossible bounds and for a tensor
    that does not keep to them, TypeError for what is no tensor, no axis or no size.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"mark_dynamic: a tensor is marked, not a {type(tensor).__name__} "
            f"(at {user_location()})"
        )
    least, most = _whole(min, "min"), None if max is None else _whole(max, "max")
    bounds = SizeBounds(least, most, _whole(multiple_of, "multiple_of"))
    if not bounds.allow_any():
        raise ValueError(f"mark_dynamic: no size is {bounds} (at {user_location()})")
    declared = dict(tensor.__dict__.get("_dynamic_axes", {}))
    for given in axes:
        for axis in given if isinstance(given, (list, tuple)) else (given,):
            number = _whole(axis, "an axis")
            if not -tensor.ndim <= number < tensor.ndim:
                raise IndexError(
                    f"mark_dynamic: axis {number} of a tensor with {tensor.ndim} dimensions "
                    f"(at {user_location()})"
                )
            size = tensor.shape[number]
            if isinstance(size, int) and not bounds.allows(size):
                raise ValueError(
                    f"mark_dynamic: the size {size} of axis {number} is not {bounds} "
                    f"(at {user_location()})"
                )
            declared[number % tensor.ndim] = bounds
    tensor.__dict__["_dynamic_axes"] = declared


def _whole(value: Any, name: str) -> int:
    """A whole number, of which ``True`` is none."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(
            f"mark_dynamic: {name} is a whole number, not {value!r} (at {user_location()})"
        )
    return operator.index(value)


def declared_bounds(tensor: Tensor) -> dict[int, SizeBounds]:
    """What ``mark_dynamic`` said of a tensor's axes."""
    found: dict[int, SizeBounds] = tensor.__dict__.get("_dynamic_axes", {})
    return found


def answer(left: Dim, relation: str, right: Dim, symbols: Mapping[str, Interval]) -> bool | None:
    """Whether ``left relation right`` ("==", "<", "<=") for all sizes allowed; None: it depends."""
    difference = left - right
    if not isinstance(difference, SymbolicDim):
        low: int | None = difference
        high: int | None = difference
    else:
        low, high = _range(difference, symbols)
    if relation == "==":
        if (low is not None and low > 0) or (high is not None and high < 0):
            return False
        return True if low == high == 0 else None
    strict = relation == "<"
    if high is not None and (high < 0 or (high == 0 and not strict)):
        return True
    if low is not None and (low > 0 or (low == 0 and strict)):
        return False
    return None


def _range(dim: SymbolicDim, symbols: Mapping[str, Interval]) -> tuple[int | None, int | None]:
    """The least and the greatest value of a polynomial, as far as its terms tell."""
    low: int | None = 0
    high: int | None = 0
    for monomial, coefficient in dim.terms:
        if not all(map(is_nonnegative_atom, monomial)):
            return None, None
        least: int = 1
        most: int | None = 1
        for atom in monomial:
            first, last = symbols.get(atom[1], (0, None)) if atom[0] == "s" else (0, None)
            least *= first
            most = None if most is None or last is None else most * last
        ends = (least, most) if coefficient > 0 else (most, least)
        low = None if low is None or ends[0] is None else low + coefficient * ends[0]
        high = None if high is None or ends[1] is None else high + coefficient * ends[1]
    return low, high
