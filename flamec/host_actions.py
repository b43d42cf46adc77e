"""What the trace of a call notes of Python's state, and what a call does in Python.

``Swap``: a place with a tracer. ``HostCondition``: what Python decided by numbers that vary.
``Write``, ``Append``, ``Act`` and ``LastAct``: the steps of a call, in order, beside ``Refill``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flamec.host_numbers import Expression, Place
from flamec.ir.graph import Location
from flamec.structures import Structure

UNSET: Any = object()  # what a place held that has a tracer only since some act
UNREAD: Any = object()  # the tracer of a place that the function wrote before it read it


@dataclass
class Swap:
    """A place that holds a tracer, or will be written. ``value``: what it held; ``moment``: when
    that was read; ``original``: what it held before the trace; ``guarded``: it holds that now."""

    place: Place
    value: Any
    tracer: Any
    moment: int
    original: Any = UNSET
    guarded: bool = False

    @property
    def in_place(self) -> Any:
        """What the trace has put there."""
        return self.value if self.tracer is UNREAD else self.tracer


@dataclass(frozen=True)
class HostCondition:
    """``expression`` is of type ``expected``, has its truth, or is it, by ``kind``."""

    kind: str
    expression: Expression
    expected: Any
    location: Location | None

    def __str__(self) -> str:
        text = ", ".join(self.expression.place_names()) or "a number"
        if self.kind == "type":
            return f"{text} is a {self.expected.__name__}"
        if self.kind == "value":
            return f"what is computed from {text} is {self.expected!r} (at {self.location})"
        return f"the condition on {text} is {self.expected} (at {self.location})"


@dataclass(frozen=True, eq=False)
class Write:
    """A call stores what ``operands`` are, in a container of this structure, in a place."""

    place: Place
    structure: Structure
    operands: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Append:
    """A call gives the list in a place what ``operands`` are, by this method (``append``)."""

    place: Place
    method: str
    structure: Structure
    operands: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Act:
    """A call runs ``function(*operands)``: expressions, or after the trace ``Result``s."""

    function: Callable[..., Any]
    operands: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class LastAct:
    """A call ends with ``function(prepare(*given), *operands)``; it prepares when it begins."""

    prepare: Callable[..., Any]
    given: tuple[Any, ...]
    function: Callable[..., Any]
    operands: tuple[Any, ...]
