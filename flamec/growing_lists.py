"""Lists and deques of Python's state to which a function only appends: ``losses.append(loss)``.

In: places that hold a list which was another after a trace than before. While the function is
traced they hold a ``GrowingList`` (``GrowingDeque``) with the same elements, which notes what is
appended and whether anything else is asked of it. Out: an ``Append`` for each thing that a call
appends; the elements are not guarded. Invariants: a list is one tracer, wherever it is found; one
that the function reads, or reaches by another way than a place, is no tracer in the next trace.
"""

from __future__ import annotations

import operator
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from flamec.host_actions import Append
from flamec.host_numbers import Expression, Place
from flamec.structures import flatten

if TYPE_CHECKING:
    from flamec.host_state import HostState

MOST_LISTS = 16  # of one trace, because each is compared with each
_OTHERS = (  # whatever is neither to append nor to clear
    *("__len__", "__getitem__", "__iter__", "__contains__", "__reversed__", "__repr__"),
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__add__", "__mul__"),
    *("__rmul__", "__setitem__", "__delitem__", "__imul__", "__copy__", "__reduce__"),
    *("__reduce_ex__", "copy", "count", "index", "insert", "pop", "popleft", "remove"),
    *("reverse", "rotate", "sort"),
)


class Noting:
    """A list or deque. ``calls``: the methods that gave it elements, with these; ``was_read``:
    whether something else was asked before it was cleared (``is_cleared``)."""

    calls: list[tuple[str, Any]]
    was_read = False
    is_cleared = False
    on_read: Callable[[], None]  # called first: what is in the list must not be changed unseen

    def append(self, value: Any) -> None:
        super().append(value)  # type: ignore[misc]  # of the list
        self.calls.append(("append", value))

    def extend(self, values: Iterable[Any]) -> None:
        for value in list(values):
            self.append(value)

    def clear(self) -> None:
        super().clear()  # type: ignore[misc]  # of the list
        self.is_cleared = True

    def __iadd__(self, values: Iterable[Any]) -> Any:
        self.extend(values)
        return self

    def __radd__(self, other: Any) -> Any:
        return other + type(other)(iter(self))  # type: ignore[call-overload]  # of the list


def _asking(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(self: Noting, *args: Any, **kwargs: Any) -> Any:
        if not self.is_cleared:
            self.was_read = True
            self.on_read()
        return method(self, *args, **kwargs)

    return call


def _others(base: type) -> dict[str, Any]:
    return {n: _asking(getattr(base, n)) for n in _OTHERS if hasattr(base, n)}


def _class_of(base: type) -> dict[str, Any]:
    return {"__class__": property(lambda self: base), **_others(base)}


GrowingList: Any = type("GrowingList", (Noting, list), _class_of(list))


class _Deque(Noting, deque):
    def appendleft(self, value: Any) -> None:
        super().appendleft(value)
        self.calls.append(("appendleft", value))

    def extendleft(self, values: Iterable[Any]) -> None:
        for value in list(values):
            self.appendleft(value)


GrowingDeque: Any = type("GrowingDeque", (_Deque,), _class_of(deque))


def can_grow(value: Any) -> bool:
    """Whether a value is a list or deque that a tracer can stand for."""
    return type(value) in (list, deque)


def elements(value: Any) -> list[Any]:
    """What a list or deque holds, without asking a tracer."""
    return list(deque.__iter__(value) if isinstance(value, deque) else list.__iter__(value))


@dataclass(eq=False)
class Growing:
    """A list of the state, its tracer, and the places where it was found."""

    original: Any
    tracer: Any
    expressions: list[Expression] = field(default_factory=list)  # of the places

    @property
    def places(self) -> list[Place]:
        return [e.place for e in self.expressions if isinstance(e.place, Place)]

    @property
    def calls(self) -> list[tuple[str, Any]]:
        """What a call does to the list."""
        if not self.tracer.is_cleared:
            return list(self.tracer.calls)
        return [("clear", None), *(("append", value) for value in elements(self.tracer))]

    @property
    def is_only_given(self) -> bool:
        """Whether nothing else was done, nor behind its methods' back (by ``heapq``)."""
        if self.tracer.is_cleared or self.tracer.was_read:
            return not self.tracer.was_read
        expected = self.original.copy()
        for method, value in self.tracer.calls:
            getattr(expected, method)(value)
        now = elements(self.tracer)
        return len(now) == len(expected) and all(map(operator.is_, now, expected))

    @property
    def state(self) -> tuple[Any, ...]:
        """What the tracer holds and was asked, to be given to ``reset``."""
        tracer = self.tracer
        return elements(tracer), list(tracer.calls), tracer.was_read, tracer.is_cleared

    def change_list(self) -> None:
        """Let the list hold what the tracer does, in this call."""
        content = elements(self.tracer)
        self.original.clear()
        self.original.extend(content)
        self.tracer.calls.clear()
        self.tracer.is_cleared = False

    def reset(self, state: tuple[Any, ...] | None) -> None:
        """Let the tracer be as it was; None: as the list."""
        tracer = self.tracer
        content, calls, was_read, is_cleared = state or (self.original, (), False, False)
        base: Any = deque if isinstance(tracer, deque) else list
        base.clear(tracer)
        base.extend(tracer, content)
        tracer.calls[:] = calls
        tracer.was_read, tracer.is_cleared = was_read, is_cleared


class GrowingLists:
    """Of one trace. ``arguments``: the containers among the arguments, which are none of these."""

    def __init__(self, host: HostState) -> None:
        self._host = host
        self._found: dict[int, Growing] = {}  # by the id of the list
        self._reached: set[int] = set()
        self.arguments: list[Any] = []
        self.types_are_asked = False  # by code that may ask for that of a tracer

    def __iter__(self) -> Iterator[Growing]:
        return iter(list(self._found.values()))

    @property
    def places(self) -> list[Place]:
        return [place for growing in self for place in growing.places]

    def take(self, place: Place) -> Any:
        """The tracer for the list in a place; None if none can stand for it."""
        value = place.get()
        known = self._found.get(id(value))
        if not can_grow(value) or any(value is argument for argument in self.arguments):
            return None
        if known is None:
            if len(self._found) >= MOST_LISTS or self._host.is_old(id(value)):
                return None
            tracer = (
                GrowingList(value) if type(value) is list else GrowingDeque(value, value.maxlen)
            )
            tracer.calls = []
            known = self._found[id(value)] = Growing(value, tracer)
            tracer.on_read = partial(self._host.give_up_list, known)
            self._host.ignored.append(tracer)
        host, expression = self._host, Expression(self._host, value, 0, place)
        host.require("type", expression, type(value))
        for other in [e for growing in self for e in growing.expressions]:
            host.decide(host.apply(operator.is_, (other, expression)))
        known.expressions.append(expression)
        return known.tracer

    def reached(self, value: Any) -> None:
        """Note that the function reaches a list by another way than a place with a tracer."""
        if id(value) in self._found:
            self._reached.add(id(value))

    def not_only_given(self) -> list[Growing]:
        """The lists that must not be tracers."""
        return [
            growing
            for identity, growing in self._found.items()
            if self.types_are_asked or identity in self._reached or not growing.is_only_given
        ]

    def left(self) -> list[tuple[Growing, weakref.ref[Any]]]:
        """Let go of the tracers; those that something still holds."""
        found = [(growing, weakref.ref(growing.tracer)) for growing in self]
        for growing in self:
            growing.tracer = None
        return [(growing, reference) for growing, reference in found if reference() is not None]

    def steps(self) -> Iterator[tuple[Growing, list[Append]]]:
        """What each call does to them."""
        for growing in self:
            place = growing.places[0]
            steps = []
            for method, value in growing.calls:
                leaves, structure = flatten(value)
                steps.append(Append(place, method, structure, tuple(leaves)))
            if steps:
                yield growing, steps
