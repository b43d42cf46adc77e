"""Numbers that an object has from its class until the function gives it one of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import flamec
from flamec import nn

T = flamec.Tensor
pytestmark = pytest.mark.filterwarnings("ignore:.*run at each call")


def counts(self: Any, x: T) -> T:
    self.n += 1
    return x * self.n


def counts_twice(self: Any, x: T) -> T:
    self.n += 1
    self.n *= 2
    return x * self.n


def decides(self: Any, x: T) -> T:
    self.n += 1
    if self.n > 3:
        self.rate *= 0.5
    return x * self.rate


def writes(self: Any, x: T) -> T:
    self.n = 3
    return x * self.n


def writes_what_was_there(self: Any, x: T) -> T:
    self.n = 0
    return x * (self.n + 1)


def has_a_pair(self: Any, x: T) -> T:
    self.pair = (self.pair[0] + 1, self.pair[1] * 0.5)
    return x * self.pair[0] + self.pair[1]


def reads(self: Any, x: T) -> T:
    return x * self.n + self.rate


def deletes(self: Any, x: T) -> T:
    self.n += 1
    y = x * self.n
    del self.n
    return y


def is_a_size(self: Any, x: T) -> T:
    self.n += 1
    return x.expand(self.n, 2) * 2


TRACES = {  # nothing runs Python but the deletion
    counts: 2,
    counts_twice: 2,
    decides: 4,  # both answers
    writes: 2,
    writes_what_was_there: 1,
    has_a_pair: 2,
    reads: 1,
    deletes: 6,
    is_a_size: 2,
}


def _own_no_more(obj: Any, cls: type) -> None:
    vars(obj).pop("n", None)


def _in_the_class(obj: Any, cls: Any) -> None:
    cls.n = 7


def _in_the_object(obj: Any, cls: type) -> None:
    obj.n, obj.rate = 4, 0.25


def _another_type(obj: Any, cls: Any) -> None:
    cls.n = 1.5


CHANGES: list[dict[int, Callable[[Any, type], None]]] = [
    {},
    {1: _own_no_more},
    {1: _in_the_class},
    {0: _in_the_object, 3: _in_the_class},
    {1: _own_no_more, 2: _another_type, 3: _own_no_more},
]


def _run(function: Any, base: type, changes: Any, wrap: Any) -> tuple[list[Any], Any]:
    class Model(base):  # type: ignore[misc, valid-type]
        n, rate, pair = 0, 0.5, (1, 2.0)
        forward = function

    model = Model()
    other = Model()
    called = model if base is nn.Module else model.forward
    step, seen = wrap(lambda x: called(x)), []
    for k in range(6):
        try:
            result = step(flamec.ones(2) + k).tolist()
        except Exception as error:
            result = type(error)
        own = {key: v for key, v in vars(model).items() if key in ("n", "rate", "pair")}
        seen.append((result, own, Model.n, other.n))
        changes.get(k, lambda *_: None)(model, Model)
    return seen, step


@pytest.mark.parametrize("base", [object, nn.Module])
@pytest.mark.parametrize("function", TRACES, ids=lambda f: f.__name__)
def test_a_number_of_the_class_at_first(function: Any, base: type) -> None:
    for changes in CHANGES:
        expected, _ = _run(function, base, changes, lambda f: f)
        found, step = _run(
            function,
            base,
            changes,
            lambda f: flamec.compile(f, backend="evaluate", max_variants=20),
        )
        assert found == expected
        if not changes:
            assert step.stats.traces == TRACES[function]
            assert step.stats.python_runs == (6 if function is deletes else 0)
