"""Loops and branches whose steps only the values tell, run by the host.

In: a ``Loop`` or ``Branch`` of a plan, the steps of its bodies, and how memory is read. Out: a step
that is called with a stream: it reads predicates and counts, which waits for the device, and
puts the steps that they ask for into the stream. Invariant: a window's address is set before the
steps that use it are called, and stays until they are in the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from flamec.ir.plan import Branch, Loop, Window
from flamec.ir.shape import evaluate_dim

Run = Callable[[Any], None]
SetAddress = Callable[[int], None]


class ControlMemory(Protocol):
    """What control flow does to memory, in the order of a stream."""

    def read_integer(self, address: int, nbytes: int, stream: Any) -> int:
        """The integer there, once all work before is done."""

    def write_integer(self, address: int, value: int, stream: Any) -> None:
        """Store an int64."""

    def copy(self, to: int, source: int, nbytes: int, stream: Any) -> None:
        """Copy bytes; the ranges do not overlap."""

    def zero(self, to: int, nbytes: int, stream: Any) -> None:
        """Set bytes to 0."""


class BranchStep:
    """Runs the steps of one of two lists. ``at``: the address of each of ``buffers``."""

    def __init__(
        self, branch: Branch, first: Sequence[Run], second: Sequence[Run], memory: ControlMemory
    ) -> None:
        self.buffers = (branch.predicate,)
        self.at: dict[int, int] = {}
        self._predicate = branch.predicate
        self._first = tuple(first)
        self._second = tuple(second)
        self._memory = memory

    def __call__(self, stream: Any) -> None:
        chosen = self._memory.read_integer(self.at[self._predicate], 1, stream)
        for run in self._first if chosen else self._second:
            run(stream)

    def update_node(self, graph: Any, node: Any, stream: Any) -> None:
        raise ValueError("a branch is not part of a graph")


class LoopStep:
    """Runs the steps of a loop's body as often as a value says.

    ``at``: the address of each of ``buffers``, which lie around the loop; ``moves``: how the steps
    of the body and of the test are told where the loop's windows and carried values are.
    """

    def __init__(
        self,
        loop: Loop,
        bindings: Mapping[str, int],
        test: Sequence[Run],
        body: Sequence[Run],
        moves: Mapping[int, Sequence[SetAddress]],
        memory: ControlMemory,
    ) -> None:
        self._loop = loop
        self._most = None if loop.count is None else evaluate_dim(loop.count, bindings)
        self._windows = [self._bound(w, bindings) for w in loop.windows]
        self._stacked = [self._bound(w, bindings) for w in loop.stacked]
        self._sizes = [evaluate_dim(c.bytes, bindings) for c in loop.carried]
        self._test = tuple(test)
        self._body = tuple(body)
        self._moves = moves
        self._memory = memory
        around = [w.base for w in (*loop.windows, *loop.stacked)]
        around += [b for c in loop.carried for b in (c.start, c.last, c.other)]
        around += [loop.counter, loop.predicate, loop.made]
        self.buffers = tuple(dict.fromkeys(b for b in around if b >= 0))
        self.at: dict[int, int] = {}

    @staticmethod
    def _bound(window: Window, bindings: Mapping[str, int]) -> tuple[int, int, int]:
        return window.buffer, window.base, evaluate_dim(window.stride, bindings)

    def __call__(self, stream: Any) -> None:
        loop, memory, at = self._loop, self._memory, self.at
        count = self._most
        if loop.counter >= 0:
            assert count is not None
            count = max(0, min(count, memory.read_integer(at[loop.counter], 8, stream)))
        places = [at[c.start] for c in loop.carried]
        step = 0
        while count is None or step < count:
            for carried, place in zip(loop.carried, places, strict=True):
                self._move(carried.old, place)
            for run in self._test:
                run(stream)
            if loop.predicate >= 0 and not memory.read_integer(at[loop.predicate], 1, stream):
                break
            element = step
            if loop.reverse:
                assert count is not None
                element = count - 1 - step
            for buffer, base, stride in self._windows:
                self._move(buffer, at[base] + element * stride)
            places = [at[c.other if step % 2 else c.last] for c in loop.carried]
            for carried, place in zip(loop.carried, places, strict=True):
                self._move(carried.new, place)
            for run in self._body:
                run(stream)
            step += 1
        for carried, place, size in zip(loop.carried, places, self._sizes, strict=True):
            if place != at[carried.last] and size:
                memory.copy(at[carried.last], place, size, stream)
        for _, base, stride in self._stacked:
            assert self._most is not None
            rest = (self._most - step) * stride
            if rest:
                memory.zero(at[base] + step * stride, rest, stream)
        if loop.made >= 0:
            memory.write_integer(at[loop.made], step, stream)

    def _move(self, buffer: int, address: int) -> None:
        for set_address in self._moves.get(buffer, ()):
            set_address(address)

    def update_node(self, graph: Any, node: Any, stream: Any) -> None:
        raise ValueError("a loop that values end is not part of a graph")
