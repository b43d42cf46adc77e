"""Members of classes that others take the place of between calls, however the function finds them.

Each case is run twice, eager and compiled; after each change results and state must be equal.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
import pickle
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

import flamec
from flamec import nn, optim

T = flamec.Tensor
Change = Callable[[Any], Any]


class Base:
    rate = 2.0

    def __init__(self) -> None:
        self.k = 1.0
        self.reads = 0

    def method(self, x: T, by: float = 2.0) -> T:
        return x * by

    @property
    def gain(self) -> float:
        return self.k * 2

    @classmethod
    def of_class(cls, x: T) -> T:
        return x * cls.rate

    @staticmethod
    def static(x: T) -> T:
        return x * 2.0

    def __mul__(self, x: T) -> T:
        return x * 3.0

    def __call__(self, x: T) -> T:
        return x * 4.0


class Derived(Base):
    def method(self, x: T, by: float = 2.0) -> T:
        return super().method(x) + self.__class__.rate


class Descriptor:
    rate = 2.0

    def __init__(self) -> None:
        self.factor = 3.0

    def __get__(self, instance: Any, owner: Any) -> Any:
        return self if instance is None else self.rate * self.factor


class Writing(Descriptor):
    def __set__(self, instance: Any, value: float) -> None:
        self.factor = value * 2


class Reading(Descriptor):
    def __get__(self, instance: Any, owner: Any) -> Any:
        return self.rate * self.factor


class Counting(Base):
    """Reads are changed, and counted where nobody sees it."""

    def __getattribute__(self, name: str) -> Any:
        held = object.__getattribute__(self, "__dict__")
        if name == "k":
            held["reads"] += 1
            return held["k"] + 1
        return object.__getattribute__(self, name)


def number(value: float, rate: float) -> Any:
    made = type("Own", (float,), {"__module__": __name__})(value)
    vars(made)["rate"] = rate
    return made


class Scaled(dict[str, float]):
    rate = 2.0

    def __getitem__(self, key: str) -> float:
        return super().__getitem__(key) * self.rate


class Moved(list[float]):
    rate = 1.0

    def __getitem__(self, place: Any) -> Any:
        return list.__getitem__(self, place) + self.rate

    def __len__(self) -> int:
        return 10


class Meta(type):
    rate: float
    shared = 2.0

    def __new__(cls, *arguments: Any) -> Any:  # a metaclass of its own for each
        own = type("Meta", (cls,), {"__module__": __name__, "shared": 2.0})
        return type.__new__(own, *arguments)

    def __init__(cls, *arguments: Any) -> None: ...

    @property
    def gain(cls) -> float:
        return cls.rate * 3

    def __getitem__(cls, number: int) -> float:
        return cls.rate + number


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", flamec.ones(2))

    def forward(self, x: T) -> T:
        return x + self.shift


def of(base: type, **members: Any) -> Any:
    """An instance of a class of its own."""
    return type("Own", (base,), {**members, "__module__": __name__})()


def put(name: str, value: Any) -> Change:
    return lambda s: setattr(type(s), name, value)


def on(base: str, name: str, value: Any) -> Change:
    """A change of a class that an instance inherits from."""
    return lambda s: setattr(next(c for c in type(s).__mro__ if c.__name__ == base), name, value)


def copied() -> Any:
    """An instance of a class that inherits from copies of Base and Derived."""
    own = {k: v for k, v in vars(Base).items() if k not in ("__dict__", "__weakref__")}
    base = type("Base", (), own)
    namespace = {"Base": base, "__name__": __name__}
    source = (
        "class Derived(Base):\n    def method(self, x, by=2.0):\n"
        "        return super().method(x) + self.__class__.rate\n"
    )
    exec(source, namespace)
    derived: Any = namespace["Derived"]
    return type("Own", (derived,), {"__module__": __name__})()


def memory() -> Any:
    @functools.lru_cache
    def remembered(n: int) -> T:
        return flamec.arange(n) * 1.0

    return remembered


def dispatched() -> Any:
    @functools.singledispatch
    def function(k: Any, x: T) -> T:
        return x * 1.0

    return function


def written(state: Any, x: T) -> T:
    y = x * state.gain
    state.gain = state.gain + 1
    return y


Case = tuple[Callable[[], Any], Callable[[Any, T], T], list[Change]]
CASES: dict[str, Case] = {
    "defaults and code of a method": (
        lambda: of(Base, method=lambda s, x, by=2.0: x * by),
        lambda s, x: s.method(x),
        [
            lambda s: setattr(type(s).method, "__defaults__", (3.0,)),
            lambda s: setattr(type(s).method, "__code__", (lambda s, x, by: x + by).__code__),
        ],
    ),
    "a property of a number that varies": (
        lambda: of(Base),
        lambda s, x: x * s.gain,
        [
            lambda s: setattr(s, "k", 5.0),
            put("gain", property(lambda s: s.k - 1)),
            put("gain", 7.0),
        ],
    ),
    "a property of an enumeration": (
        lambda: enum.Enum("Own", {"ADD": 1.0}, module=__name__).ADD,
        lambda s, x: x * getattr(s, "weight", 2.0),
        [put("weight", property(lambda s: s.value * 3)), put("weight", property(lambda s: 4.0))],
    ),
    "a base class's method": (
        copied,
        lambda s, x: s.method(x),
        [
            on("Base", "method", lambda s, x: x * 5),
            on("Base", "rate", 3.0),
            on("Derived", "rate", 4.0),
            put("rate", 9.0),
            put("method", lambda s, x: x),
        ],
    ),
    "class and static methods": (
        copied,
        lambda s, x: s.of_class(x) + type(s).of_class(x) + type(s).static(x) + s.static(x),
        [
            put("rate", 3.0),
            put("of_class", classmethod(lambda c, x: x - c.rate)),
            on("Base", "static", staticmethod(lambda x: x * 7)),
        ],
    ),
    "static methods that are found in a class alone": (
        copied,
        lambda s, x: type(s).static(x),
        [on("Base", "static", staticmethod(lambda x: x * 7)), put("static", staticmethod(abs))],
    ),
    "what operators call": (
        lambda: of(Base),
        lambda s, x: s(x) + s * x,
        [put("__mul__", lambda s, x: x), put("__call__", lambda s, x: x * 9)],
    ),
    "a descriptor": (
        lambda: of(Base, gain=Descriptor()),
        lambda s, x: x * s.gain,
        [
            lambda s: setattr(vars(type(s))["gain"], "factor", 5.0),
            lambda s: setattr(s, "gain", 8.0),
            lambda s: delattr(s, "gain"),
            put("gain", Descriptor()),
        ],
    ),
    "a descriptor that is written": (
        lambda: of(Base, gain=Writing()),
        written,
        [
            lambda s: setattr(vars(type(s))["gain"], "factor", 5.0),
            lambda s: setattr(type(s), "gain", Writing()),
        ],
    ),
    "a descriptor that is read from the class": (
        lambda: of(Base, gain=Reading()),
        lambda s, x: x * type(s).gain,
        [
            lambda s: setattr(vars(type(s))["gain"], "factor", 5.0),
            lambda s: setattr(type(s), "gain", Reading()),
            lambda s: setattr(vars(type(s))["gain"], "rate", 7.0),
        ],
    ),
    "a class that a class inherits from": (
        lambda: type("Own", (type("Between", (Base,), {"__module__": __name__}),), {}),
        lambda s, x: x * (2.0 if issubclass(s, Base) else 3.0),
        [lambda s: setattr(s, "__bases__", (Writing,)), lambda s: setattr(s, "__bases__", (Base,))],
    ),
    "what __getattribute__ makes of it": (
        lambda: of(Counting),
        lambda s, x: x * s.k,
        [lambda s: setattr(s, "k", 5.0), lambda s: setattr(s, "k", 7.0)],
    ),
    "a class that gets what a module registers": (
        lambda: of(Net),
        lambda s, x: s(x),
        [put("shift", 5.0), lambda s: delattr(type(s), "shift")],
    ),
    "how a module is called": (
        lambda: of(Net),
        lambda s, x: s(x),
        [put("__call__", lambda s, x: x * 10), lambda s: delattr(type(s), "__call__")],
    ),
    "results that are remembered": (
        memory,
        lambda s, x: x * s(2),
        [lambda s: s(2).add_(1), lambda s: s.cache_clear(), lambda s: s(2).add_(2)],
    ),
    "a function for each type": (
        dispatched,
        lambda s, x: s("a", x),
        [lambda s: s.register(str, lambda k, x: x - 1), lambda s: s.register(str, lambda k, x: x)],
    ),
    "a number with attributes": (
        lambda: [number(1.5, 2.0)],
        lambda s, x: x * s[0] * s[0].rate,
        [
            lambda s: setattr(s[0], "rate", 3.0),
            lambda s: s.__setitem__(0, number(1.5, 7.0)),
            lambda s: setattr(type(s[0]), "__rmul__", lambda n, x: x * 9),
        ],
    ),
    "another __dict__": (
        lambda: of(Base),
        lambda s, x: x * s.k,
        [
            lambda s: setattr(s, "__dict__", {"k": 2.0}),
            lambda s: setattr(s, "k", 3.0),
            lambda s: setattr(s, "__dict__", {"k": 4.0}),
        ],
    ),
    "what a metaclass has": (
        lambda: Meta("Own", (), {"rate": 1.0, "__module__": __name__}),
        lambda s, x: x * s.shared + s.gain + s[1],
        [
            lambda s: setattr(s, "rate", 2.0),
            put("shared", 7.0),
            put("gain", property(lambda c: 1.0)),
            put("__getitem__", lambda c, i: 9.0),
        ],
    ),
    "a dict that gives other than what it holds": (
        lambda: Scaled(k=1.0),
        lambda s, x: x * s["k"] + s.get("k"),
        [
            lambda s: setattr(s, "rate", 3.0),
            lambda s: dict.__setitem__(s, "k", 5.0),
            lambda s: delattr(s, "rate"),
        ],
    ),
    "a list that gives other than what it holds": (
        lambda: Moved([1.0]),
        lambda s, x: x * s[0] + len(s),
        [
            lambda s: setattr(s, "rate", 3.0),
            lambda s: s.append(2.0),
            lambda s: s.__setitem__(0, 5.0),
        ],
    ),
    "another function of a partial": (
        lambda: functools.partial(lambda x, k: x * k, k=2.0),
        lambda s, x: s(x),
        [lambda s: s.__setstate__((lambda x: x * 7, (), {}, {}))],
    ),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_member_that_is_replaced(name: str) -> None:
    make, read, changes = CASES[name]
    states = make(), make()
    eager, compiled = states[0], flamec.compile(lambda x: read(states[1], x), backend="evaluate")
    x = flamec.tensor([1.0, 2.0])
    for change in (lambda s: None, *changes):
        for state in states:
            change(state)
        for _ in range(2):
            assert compiled(x).tolist() == read(eager, x).tolist()
        for kept in ("k", "reads"):
            if isinstance(eager, Base):
                assert vars(states[1]).get(kept) == vars(eager).get(kept), kept


class Namespace:
    def scale(x: Any) -> Any:  # type: ignore[misc]
        return x * 2


def test_a_function_in_a_class_that_serves_as_a_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = flamec.compile(lambda x: Namespace.scale(x), backend="evaluate")
    assert compiled(flamec.ones(1)).item() == 2
    for factor in (3, 4):
        monkeypatch.setattr(Namespace, "scale", lambda x, by=factor: x * by)
        assert compiled(flamec.ones(1)).item() == compiled(flamec.ones(1)).item() == factor
    assert compiled.stats.traces == 3


def test_programs_serve_until_a_member_changes() -> None:
    state = copied()
    compiled = flamec.compile(lambda x: state.method(x) * state.gain, backend="evaluate")
    for _ in range(3):
        compiled(flamec.ones(2))
    assert compiled.stats.traces == 1


def test_hooks_of_steps() -> None:
    weight = flamec.ones(2).requires_grad_()
    optimizer = optim.SGD([weight], lr=0.5)

    @flamec.compile(backend="evaluate")
    def step() -> None:
        weight.grad = None
        weight.sum().backward()
        optimizer.step()

    step()
    handle = optimizer.register_step_post_hook(lambda *_: setattr(weight, "data", weight.data * 2))
    step()
    assert weight.tolist() == [0.0, 0.0]
    step()
    assert weight.tolist() == [-1.0, -1.0]
    handle.remove()
    step()
    assert weight.tolist() == [-1.5, -1.5]
    assert step.stats.traces == 3


@dataclasses.dataclass
class Point:  # has no hash
    k: float
    shift: float = dataclasses.field(default=0.0, compare=False)

    @flamec.compile(backend="evaluate")
    def moved(self, x: T) -> T:
        return x * self.k + self.shift


class Slots:
    __slots__ = ("k",)  # has no weak references

    def __init__(self, k: float) -> None:
        self.k = k

    moved = flamec.compile(lambda self, x: x * self.k, backend="evaluate")


class Pair(NamedTuple):
    k: float

    moved = flamec.compile(lambda self, x: x * self.k, backend="evaluate")


def test_methods_of_instances_that_are_equal() -> None:
    x = flamec.ones(1)
    equal = [Point(1.0, shift) for shift in (0.0, 5.0)]
    assert equal[0] == equal[1]
    assert [p.moved(x).item() for p in equal] == [1.0, 6.0]
    assert [s(k).moved(x).item() for s in (Slots, Pair) for k in (1.0, 2.0)] == [1.0, 2.0] * 2


class Held(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(flamec.ones(2))
        self.rate = 2.0
        self.run = flamec.compile(self.scaled, backend="evaluate")

    def scaled(self, x: T) -> T:
        return x * self.weight * self.rate

    def forward(self, x: T) -> T:
        return self.run(x)


@flamec.compile
def doubled(x: T) -> T:
    return x * 2


def test_copies_of_modules_that_hold_compiled_functions() -> None:
    module, x = Held(), flamec.ones(2)
    assert module(x).tolist() == [2.0, 2.0]
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        other.rate = 5.0
        assert other(x).tolist() == [5.0, 5.0]
        assert module(x).tolist() == [2.0, 2.0]
    assert copy.deepcopy(doubled) is pickle.loads(pickle.dumps(doubled)) is doubled


def test_attributes_of_threads() -> None:
    own = threading.local()
    own.rate = 1.0
    compiled = flamec.compile(lambda x: x * getattr(own, "rate", 9.0), backend="evaluate")
    x, seen = flamec.ones(1), []
    assert compiled(x).item() == 1.0

    def other() -> None:
        seen.append(compiled(x).item())
        own.rate = 7.0
        seen.append(compiled(x).item())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert [*seen, compiled(x).item()] == [9.0, 7.0, 1.0]
