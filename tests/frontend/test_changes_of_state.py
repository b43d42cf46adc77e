"""What functions change in Python's state in rarer ways: at each call as in eager mode."""

from __future__ import annotations

import collections
import contextlib
import enum
import functools
import heapq
import mmap
import os
import types
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import flamec
from flamec.cached_functions import forget_tensors

T = flamec.Tensor


class Owner:
    rate: Any = 1.0

    def __init__(self) -> None:
        self.scale = 0.5
        self.last: T | None = None

    @functools.cached_property
    def grid(self) -> T:
        return flamec.arange(3.0) * self.scale


def counted(state: Any, x: T) -> T:
    state["losses"] = float(x.mean())
    state["calls"] += 1
    return x * state["calls"]


def deleted_and_set(state: Owner, x: T) -> T:
    del state.scale
    state.scale = 2.0
    return x * state.scale


def set_and_deleted(state: Owner, x: T) -> T:
    state.rate = 2.0
    y = x * state.rate
    del state.rate
    return y


@contextlib.contextmanager
def rated(value: float) -> Iterator[None]:
    before, Owner.rate = Owner.rate, value
    try:
        yield
    finally:
        Owner.rate = before


def set_on_the_class_for_a_block(state: Owner, x: T) -> T:
    state.last = x.mean()
    with rated(2.0):
        return x * state.rate


def computed_once(state: Owner, x: T) -> T:
    state.last = x.mean()
    return x * state.grid


@functools.cache
def frequencies(count: int) -> tuple[T, list[T]]:
    return flamec.arange(count) * 0.5, [flamec.ones(count)]


@functools.lru_cache(maxsize=2)
def mask(count: int) -> T:
    return flamec.arange(count) * 2.0


def with_tables(state: Owner, x: T) -> T:
    state.last = x.mean()
    count = int(x.shape[0])
    return x * frequencies(count)[0] + mask(count) + frequencies(count)[1][0]


def counted_by_size(state: dict[Any, int], x: T) -> T:
    state[x.shape[0]] = state.get(x.shape[0], 0) + 1
    state[len(x), "twice"] = 2 * x.shape[0]
    return x * 2


def sizes_seen(state: set[Any], x: T) -> T:
    state.add(x.shape[0])
    state.add((x.shape[0], "x"))
    return x * len(state)


class Access(Owner):
    def __init__(self) -> None:
        super().__init__()
        self.flags: Any = enum.Flag("Own", ["READ", "WRITE", "RUN"], module=__name__)
        self.held = self.flags.READ


def flags_combined(state: Access, x: T) -> T:
    """Python makes the combination where it is met first, and keeps it."""
    state.scale = state.scale * 0.5
    held = state.held | state.flags.RUN
    state.held = state.flags.WRITE if held & state.flags.RUN else state.flags.READ
    return x * state.scale * (state.flags.READ | state.flags.RUN).value


class Other(Owner):
    rate = 3.0


INNER: Any = Owner()


def of_another_class(state: Owner, x: T) -> T:
    state.scale = state.scale * 0.5
    INNER.__class__ = Other if type(INNER) is Owner else Owner
    return x * INNER.rate * state.scale


def in_the_environment(state: Owner, x: T) -> T:
    state.scale = state.scale * 0.5
    os.environ["FLAMEC_TEST_COUNT"] = str(int(os.environ.get("FLAMEC_TEST_COUNT", "0")) + 1)
    state.last = x.sum()
    return x * float(os.environ["FLAMEC_TEST_COUNT"])


class Holder(Owner):
    def __init__(self) -> None:
        super().__init__()
        self.waiting = [0.5, 1.5, 2.5, 3.5]
        self.cells = array("d", [0.5, 1.5])
        self.bytes = bytearray(b"\1\2")
        self.mapped = mmap.mmap(-1, 2)
        self.every_second = memoryview(array("d", [0.5, 1.5, 2.5, 3.5]))[::2]

    def __str__(self) -> str:
        return repr((self.cells, self.bytes, self.mapped[:], self.every_second.tolist()))


def first_taken(state: Holder, x: T) -> T:
    return x * state.waiting.pop(0)


def least_taken(state: Holder, x: T) -> T:
    return x * heapq.heappop(state.waiting) + state.waiting[0]


def taken_until_it_fails(state: Holder, x: T) -> T:
    for _ in range(2):
        state.waiting.remove(min(state.waiting))
    return x * state.waiting[0]


def buffers_written(state: Holder, x: T) -> T:
    """The trace begins again, because the scale varies."""
    state.scale = state.scale * 0.5
    for cells in (state.cells, state.bytes, state.mapped, state.every_second):
        cells[0] = cells[0] * 2 + 1
    state.bytes.append(3)
    state.rate = str(state)
    return x * state.scale * sum(state.bytes)


CASES: dict[str, tuple[Callable[[], Any], Callable[[Any, T], T]]] = {
    "an entry of a Counter": (lambda: collections.Counter(calls=1), counted),
    "an attribute that is deleted first": (Owner, deleted_and_set),
    "an attribute that is deleted again": (Owner, set_and_deleted),
    "an attribute of the class for a block": (Owner, set_on_the_class_for_a_block),
    "a tensor in a cached property": (Owner, computed_once),
    "tables that are computed once": (Owner, with_tables),
    "entries by size": (dict, counted_by_size),
    "a set of sizes": (set, sizes_seen),
    "combinations of flags": (Access, flags_combined),
    "the class of an object": (Owner, of_another_class),
    "the environment": (Owner, in_the_environment),
    "a queue": (Holder, first_taken),
    "a heap": (Holder, least_taken),
    "a list that becomes too short": (Holder, taken_until_it_fails),
    "buffers": (Holder, buffers_written),
}


def test_caches_that_hold_tensors_of_a_trace_are_found() -> None:
    """Whatever is around the tensors, also where the trace has not met the cached function."""
    tensor, other = flamec.ones(2), flamec.ones(2)
    nested = functools.cache(lambda: {"table": [(tensor, 1)]})
    bounded = functools.lru_cache(4)(
        lambda number: collections.namedtuple("Pair", "a b")(1, tensor)
    )
    an_object = functools.cache(lambda: types.SimpleNamespace(table=[tensor]))
    an_argument = functools.cache(lambda x: 2)
    unconcerned = functools.cache(lambda: [other])
    every = nested, an_object, unconcerned, functools.partial(bounded, 3)
    for function in (*every, functools.partial(an_argument, tensor)):
        function()
    forget_tensors([tensor])
    left = [f.cache_info().currsize for f in (nested, bounded, an_object, an_argument, unconcerned)]
    assert left == [0, 0, 0, 0, 1]


def content(state: Any) -> Any:
    held = dict(state) if isinstance(state, dict) else state
    held = vars(state) if isinstance(state, Owner) else held
    if isinstance(held, set):
        return sorted(map(repr, held))
    plain = [
        v.tolist() if isinstance(v, T) else str(v)
        for k, v in held.items()
        if k not in ("mapped", "every_second")
    ]
    return [repr(key) for key in held], plain


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", CASES)
def test_as_in_eager_mode(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, function = CASES[name]
    seen = []
    for wrap in (lambda f: f, functools.partial(flamec.compile, backend="evaluate")):
        monkeypatch.setenv("FLAMEC_TEST_COUNT", "0")
        frequencies.cache_clear()
        mask.cache_clear()
        INNER.__class__ = Owner
        state = make()
        wrapped = wrap(functools.partial(function, state))
        found = []
        for rows in (3, 3, 3) if isinstance(state, Owner) else (3, 4, 5, 4, 6):
            result: Any
            try:
                result = wrapped(flamec.full((rows,), float(rows))).tolist()
            except (IndexError, ValueError) as error:
                result = str(error)
            found.append((result, content(state)))
        seen.append(found)
    assert seen[0] == seen[1]


class Note:
    def __init__(self, size: int) -> None:
        self.size, self.kept = size, {size}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_objects_that_are_made_and_returned_are_new_ones() -> None:
    old = Note(5)

    def step(x: T) -> tuple[T, set[int], Note, Note]:
        return x * 2, {1, 2}, Note(3), old

    for f in (step, flamec.compile(step, backend="evaluate")):
        for _ in range(3):
            _, numbers, note, same = f(flamec.ones(2))
            assert (numbers, note.size, note.kept, same is old) == ({1, 2}, 3, {3}, True)
            numbers.clear()
            note.size = 0

    def known(x: T) -> tuple[T, Note, type]:
        return x * old.size, old, Note

    compiled = flamec.compile(known, backend="evaluate")
    assert [compiled(flamec.ones(2))[1:] for _ in range(3)] == [(old, Note)] * 3
    assert (compiled.stats.traces, compiled.stats.python_runs) == (1, 0)


def test_caches_forget_a_trace_that_ends_as_it_asked_for_a_number() -> None:
    """An attribute that varies is traced first as a number of any type."""

    def run(wrap: Callable[[Any], Any]) -> list[Any]:
        mask.cache_clear()
        state = {"n": 0}

        def function(x: T) -> T:
            y = x * mask(3)
            state["n"] += 1
            return y + 1 if type(state["n"]) is int else y

        function = wrap(function)
        return [(function(flamec.ones(3)).tolist(), state["n"]) for _ in range(4)]

    assert run(flamec.compile) == run(lambda function: function)
