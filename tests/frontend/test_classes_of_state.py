"""Which classes objects have, and what those count as, changes between calls.

Each function is compiled once; after each change it must give what the plain function gives.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import pytest

import flamec

T = flamec.Tensor


class One:
    def number(self) -> float:
        return 1.0


class Two:
    def number(self) -> float:
        return 2.0


class Derived(One):
    pass


class Abstract(abc.ABC):  # noqa: B024
    pass


class Kinds:
    """Classes that a case may change: each has its own."""

    def __init__(self) -> None:
        self.one: Any = type("One", (One,), {"__module__": __name__})
        self.two: Any = type("Two", (Two,), {"__module__": __name__})
        self.derived: Any = type("Derived", (self.one,), {"__module__": __name__})
        self.abstract: Any = abc.ABCMeta("Abstract", (), {"__module__": __name__})
        self.narrower: Any = abc.ABCMeta("Narrower", (self.abstract,), {"__module__": __name__})
        self.object: Any = self.derived()


def other_bases(s: Kinds) -> None:
    s.derived.__bases__ = (s.two,)


def other_class(s: Kinds) -> None:
    s.object.__class__ = s.two


def matched(s: Kinds, x: T) -> T:
    match s.object:
        case One():
            return x + 1
        case _:
            return x + 2


CASES: dict[str, tuple[Callable[[Kinds, T], T], Callable[[Kinds], Any]]] = {
    "isinstance, bases": (lambda s, x: x + (1 if isinstance(s.object, One) else 2), other_bases),
    "isinstance, class": (lambda s, x: x + (1 if isinstance(s.object, One) else 2), other_class),
    "issubclass": (lambda s, x: x + (1 if issubclass(s.derived, One) else 2), other_bases),
    "type": (lambda s, x: x + (1 if type(s.object) is s.derived else 2), other_class),
    "match": (matched, other_bases),
    "method": (lambda s, x: x + s.object.number(), other_bases),
    "registered": (
        lambda s, x: x + (1 if isinstance(s.object, s.abstract) else 2),
        lambda s: s.abstract.register(s.one),
    ),
    "registered with a subclass": (
        lambda s, x: x + (1 if issubclass(s.derived, s.abstract) else 2),
        lambda s: s.narrower.register(s.derived),
    ),
    "callable": (
        lambda s, x: x + (1 if callable(s.object) else 2),
        lambda s: setattr(s.one, "__call__", One.number),
    ),
    "truth": (
        lambda s, x: x + (1 if s.object else 2),
        lambda s: setattr(s.derived, "__bool__", lambda self: False),
    ),
    "truth by length": (
        lambda s, x: x + (1 if s.object else 2),
        lambda s: setattr(s.one, "__len__", lambda self: 0),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_change_of_classes_between_calls(name: str) -> None:
    function, change = CASES[name]
    state, x = Kinds(), flamec.zeros(1)
    compiled = flamec.compile(lambda x: function(state, x), backend="evaluate")
    before = function(state, x).item()
    assert compiled(x).item() == compiled(x).item() == before
    assert compiled.stats.traces == 1
    change(state)
    assert function(state, x).item() != before
    assert compiled(x).item() == compiled(x).item() == function(state, x).item()
    assert compiled.stats.traces == 2


def test_a_class_that_is_registered_elsewhere_changes_nothing() -> None:
    state, x = Kinds(), flamec.zeros(1)
    compiled = flamec.compile(
        lambda x: x + (1 if isinstance(state.object, state.abstract) else 2), backend="evaluate"
    )
    compiled(x)
    Abstract.register(Derived)
    assert compiled(x).item() == 2.0 and compiled.stats.traces == 1
