"""Objects that a compiled function makes while others of their classes are state."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

import flamec

T = flamec.Tensor


@dataclass
class State:
    time: int
    hidden: T
    parts: list[T] = field(default_factory=list)
    scale = 2.0


class Normal(NamedTuple):
    loc: T
    terms: list[T]
    count: int = 3


class Value:
    """A number of a graph that Python builds."""

    def __init__(self, data: T, operands: tuple[Value, ...] = ()) -> None:
        self.data, self.operands = data, list(operands)

    def __mul__(self, other: Value) -> Value:
        return Value(self.data * other.data, (self, other))


class Base:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.given = (args, kwargs)


class Mixin:
    pass


class Both(Mixin, Base):
    pass


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x: Any) -> None:
        self.x = x


class Log:
    def __init__(self) -> None:
        self.items: dict[str, Any] = {}
        self.count = 0

    def add(self, key: str, value: Any) -> Log:
        self.items[key] = value
        self.count += 1
        return self


start, prior, root = State(1, flamec.ones(2)), Normal(flamec.ones(2), []), Value(flamec.ones(2))
mixin, both, slotted, log = Mixin(), Both(0), Slotted(1.0), Log().add("x", 1.0)


def dataclasses_(x: T) -> T:
    state = State(start.time + 1, start.hidden + x, [x * 2])
    state = dataclasses.replace(state, time=state.time + 1)
    return state.hidden * state.time * state.scale + state.parts[0]


def named_tuples(x: T) -> T:
    other = Normal(x * 2, [x, x + 1])
    other = other._replace(loc=other.loc + 1)
    return (other.loc - prior.loc) * other.count + sum(other.terms)


def graphs(x: T) -> T:
    value = Value(x) * root
    value = value * value
    return value.data + value.operands[0].data


def slots_and_mixins(x: T) -> T:
    made = Both(x, scale=slotted.x)
    (held,), options = made.given
    return Slotted(held).x * options["scale"] + isinstance(mixin, Mixin) + both.given[0][0]


def copies(x: T) -> T:
    mine = copy.deepcopy(log).add("a", x).add("b", x * 2)
    other = copy.copy(log)
    other.items = {**other.items, "c": x}
    other.count += 1
    return mine.items["a"] + mine.items["b"] * mine.count + other.items["c"] * other.count


def made_by_new(x: T) -> T:
    """Nobody sees it begin, so what it holds is taken for state."""
    mine = Log.__new__(Log)
    mine.items, mine.count = {}, 0
    mine.add("a", x).add("b", x * 2)
    return mine.items["a"] + mine.items["b"] * mine.count + log.items["x"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("function", [dataclasses_, named_tuples, graphs, slots_and_mixins, copies])
def test_they_are_no_state(function: Callable[[T], T]) -> None:
    compiled = flamec.compile(function, backend="evaluate", fullgraph=True)
    for k in range(3):
        x = flamec.tensor([1.0 + k, 2.0])
        assert flamec.equal(compiled(x), function(x))
    assert compiled.stats.traces == 1


@pytest.mark.filterwarnings("ignore:.*Python code")
def test_what_is_made_unseen_is_run_by_python() -> None:
    compiled = flamec.compile(made_by_new, backend="evaluate")
    for k in range(3):
        x = flamec.tensor([1.0 + k, 2.0])
        assert flamec.equal(compiled(x), made_by_new(x))


def test_what_is_from_before_is_still_guarded() -> None:
    """Of their classes, in their lists, and of an object that a constructor finds."""

    class Shared:
        only: Any = None
        factor = 1.0

        def __new__(cls) -> Shared:
            if cls.only is None:
                cls.only = object.__new__(cls)
            return cls.only  # type: ignore[no-any-return]

    terms, kept = [2.0], Shared()

    def f(x: T) -> T:
        made = Normal(x, terms)  # type: ignore[arg-type]
        state = State(1, x)
        shared = Shared()
        return made.loc * made.terms[0] * state.scale * shared.factor

    compiled, x = flamec.compile(f, backend="evaluate"), flamec.ones(2)
    assert compiled(x).tolist() == [4.0, 4.0]
    terms[0] = 3.0
    assert compiled(x).tolist() == [6.0, 6.0]
    try:
        State.scale = 5.0
        assert compiled(x).tolist() == [15.0, 15.0]
    finally:
        State.scale = 2.0
    kept.factor = 10.0
    assert compiled(x).tolist() == [60.0, 60.0]


def test_constructors_are_as_before() -> None:
    named_init = vars(Mixin).get("__init__"), vars(State)["__init__"], vars(Normal)["_make"]

    @flamec.compile(backend="evaluate")
    def f(x: T) -> T:
        with pytest.raises(TypeError, match="takes no arguments"):
            Mixin(1)  # type: ignore[call-arg]
        Mixin()
        return x + isinstance(mixin, Mixin) + start.time + len(prior.terms) + both.given[0][0]

    assert f(flamec.ones(1)).tolist() == [3.0]
    assert named_init == (
        vars(Mixin).get("__init__"),
        vars(State)["__init__"],
        vars(Normal)["_make"],
    )
    assert copy.deepcopy(log).count == 1 and pickle.loads(pickle.dumps(slotted)).x == 1.0
