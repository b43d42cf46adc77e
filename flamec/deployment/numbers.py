"""Numbers of a call of a loaded program that may be others each time: arguments, and sizes.

In: entries of a file's manifest. Out: checks of what a call gives, with messages in the user's
names.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flamec.deployment.formulas import Formula, decode
from flamec.saving import structure as json_structure

_INT64 = 2**63
_KINDS = {"int": (int, np.integer), "float": (float, np.floating)}


@dataclass(frozen=True)
class Number:
    """``kind``: "int" or "float"; ``min``, ``max`` and ``multiple_of``: as ``Dim`` declares."""

    kind: str
    min: int | None = None
    max: int | None = None
    multiple_of: int = 1

    @staticmethod
    def of(data: Mapping[str, Any]) -> Number:
        if data["number"] not in _KINDS:
            raise ValueError(f"{data['number']!r} is no kind of numbers")
        return Number(str(data["number"]), *data.get("bounds", ()))

    def checked(self, value: Any, place: str) -> Any:
        """The number as Python's. TypeError and ValueError for another kind or out of bounds."""
        plain, of_numpy = _KINDS[self.kind]
        if isinstance(value, bool) or not isinstance(value, (plain, of_numpy)):
            article = "an" if self.kind == "int" else "a"
            raise TypeError(f"{place} must be {article} {self.kind}, not {type(value).__name__}")
        found = plain(value)
        if self.kind == "int" and not -_INT64 <= found < _INT64:
            raise ValueError(f"{place} is {found}, which does not fit int64")
        if self.min is not None and found < self.min:
            raise ValueError(f"{place} is {found}; it must be at least {self.min}")
        if self.max is not None and found > self.max:
            raise ValueError(f"{place} is {found}; it must be at most {self.max}")
        if self.multiple_of > 1 and found % self.multiple_of:
            raise ValueError(f"{place} is {found}; it must be a multiple of {self.multiple_of}")
        return found


@dataclass(frozen=True)
class NumberCondition:
    """As ``HostCondition``: the formula is of a type, has a truth, or is a number."""

    kind: str
    formula: Formula
    expected: Any

    @staticmethod
    def of(data: Mapping[str, Any], numbers: Container[int]) -> NumberCondition:
        kind, expected = str(data["kind"]), data["expected"]
        if kind not in ("type", "truth", "value"):
            raise ValueError(f"{kind!r} is no condition on numbers")
        if kind != "type":
            expected = json_structure.decode(expected["constant"], {})
        return NumberCondition(kind, decode(data["of"], numbers), expected)

    def holds(self, leaves: Sequence[Any], sizes: Mapping[str, int]) -> bool:
        value = self.formula.evaluate(leaves, sizes)
        if self.kind == "type":
            return bool(type(value).__name__ == self.expected)
        if self.kind == "truth":
            return bool(value) is self.expected
        return type(value) is type(self.expected) and repr(value) == repr(self.expected)

    def text(self, label: Callable[[int], str], named: Callable[[Any], str]) -> str:
        text = self.formula.text(label, named)
        if self.kind == "type":
            return f"{text} of type {self.expected}"
        if self.kind == "truth":
            return text if self.expected else f"not {text}"
        return f"{text} == {self.expected!r}"
