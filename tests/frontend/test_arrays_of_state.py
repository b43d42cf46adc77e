"""NumPy arrays in state that functions read and change by NumPy's means."""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec.errors import CompileError

T = flamec.Tensor
pytestmark = pytest.mark.filterwarnings("ignore:.*run at each call:RuntimeWarning")


class State:
    def __init__(self) -> None:
        self.array = np.array([3.0, 1.0, 2.0])
        self.shared = np.array([3.0, 1.0, 2.0])
        self.tensor = flamec.from_numpy(self.shared)
        self.calls = itertools.count()


def read_then_scaled(s: State, x: T) -> T:
    y = x + flamec.tensor(s.array)
    s.array *= 1.5
    return y + float(s.array[0])


def parts_then_sorted(s: State, x: T) -> T:
    y = x[:2] + flamec.tensor([s.array[:2], s.array[1:]]).sum(0)
    s.array.sort()
    return y


def as_integers_then_filled(s: State, x: T) -> T:
    y = x + flamec.tensor(s.array, dtype=flamec.int32)
    s.array.fill(y.shape[0])
    return y


def read_between(s: State, x: T) -> T:
    y = x * flamec.tensor(s.array)
    np.add(s.array, 1.0, out=s.array)
    return y + flamec.tensor(s.array[::-1].copy())


@pytest.mark.parametrize("backend", ["c", "evaluate"])
@pytest.mark.parametrize(
    "function", [read_then_scaled, parts_then_sorted, as_integers_then_filled, read_between]
)
def test_an_array_that_changes_after_it_was_read(
    function: Callable[[State, T], T], backend: str
) -> None:
    mine, other, x = State(), State(), flamec.ones(3, dtype=flamec.float64)
    compiled = flamec.compile(lambda x: function(mine, x), backend=backend)
    for _ in range(3):
        assert compiled(x).tolist() == function(other, x).tolist()
        assert mine.array.tolist() == other.array.tolist()


def test_memory_that_numpy_changes_while_a_tensor_has_it() -> None:
    """The program would read what is there when it runs."""
    state = State()

    def step(x: T) -> T:
        y = x + state.tensor
        state.shared[0] = 5.0
        return y

    with pytest.raises(CompileError, match=r"content of state.shared changes by other means"):
        flamec.compile(step)(flamec.ones(3, dtype=flamec.float64))

    def beside(x: T) -> Any:  # what nobody has a tensor of may change
        state.array[0] += 1.0
        return x + state.tensor

    compiled = flamec.compile(beside, backend="evaluate")
    for first in (4.0, 5.0):
        compiled(flamec.ones(3, dtype=flamec.float64))
        assert state.array[0] == first


def test_what_has_happened_does_not_happen_again_because_of_shared_memory() -> None:
    """That an argument is a view of a tensor of the state is found after the count."""
    state, memory = State(), flamec.ones(4, 3)

    def step(x: T) -> T:
        number = next(state.calls)
        return x + memory.sum(0) * number

    compiled = flamec.compile(step, backend="evaluate")
    with pytest.raises(CompileError, match=r"two views.*before that .*calls.*iterator.*clone"):
        compiled(memory[1])
    assert next(state.calls) == 1


@pytest.mark.parametrize("make", [bytearray, lambda size: mmap.mmap(-1, size)])
def test_a_buffer_that_is_read_beside_a_tensor_over_it(make: Callable[[int], Any]) -> None:
    def step(x: T, buffer: Any) -> T:
        over = flamec.frombuffer(buffer, dtype=flamec.uint8)
        over.add_(1)
        return x + over + buffer[0]  # which is in the memory that was written

    mine, other = make(2), make(2)
    compiled = flamec.compile(lambda x: step(x, mine), backend="evaluate")
    x = flamec.zeros(2)
    assert compiled(x).tolist() == step(x, other).tolist() == [2.0, 2.0]
    with pytest.warns(RuntimeWarning, match=r"the array mine, .* the same memory"):
        assert compiled(x).tolist() == step(x, other).tolist() == [4.0, 4.0]

    def changed(x: T) -> T:
        y = x + flamec.frombuffer(mine, dtype=flamec.uint8)
        mine[0] += 1
        return y

    with pytest.raises(CompileError, match=r"content of mine changes by other means"):
        flamec.compile(changed, backend="evaluate")(x)


def test_a_buffer_may_grow_after_a_program_has_read_it() -> None:
    buffer = bytearray(b"\1")
    compiled = flamec.compile(lambda x: x.add_(buffer[-1]), backend="evaluate")
    for number in (1, 2, 3):
        assert compiled(flamec.zeros(1)).item() == number
        buffer.append(number + 1)
