"""Memory that several tensors lie in although they are no views of one: two ``from_numpy`` of one
array, windows of one buffer, a parameter over the memory of another tensor.

A trace knows memory by its ``Storage``. Storages over the same bytes are different to it, and what
is written through one would not be read through the other. In: the arrays that are the inputs of a
graph, which of them it writes, and memory that Python reads beside them. Out: Uncompiled
from the trace (``InputMemory``), and conditions of later calls (``separate_memory.py``). Invariant:
no program writes bytes that another of its inputs lies in. Of a function that writes to none of its
inputs nothing is asked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import numpy as np

from flamec.dlpack import ForeignMemory
from flamec.errors import Uncompiled, user_location
from flamec.gpu import byte_range, may_overlap
from flamec.guarded_values import buffer_of

_MOST_WORK: Any = 10_000  # to find out whether strided arrays have an element in common


def _owner(array: Any) -> Any:
    """What alone owns the memory of an array: of two arrays with different owners, neither lies in
    the other's memory. None where something else may own it, too: a view, memory of others."""
    if array.__class__ is np.ndarray:
        return array if array.flags.owndata else None
    memory = getattr(array, "memory", None)
    return None if memory.__class__ is ForeignMemory else memory


def share_memory(one: Any, other: Any) -> bool:
    """Whether two arrays have an element in common; True if that takes long to find out."""
    owner, other_owner = _owner(one), _owner(other)
    if owner is not other_owner and owner is not None and other_owner is not None:
        return False
    if isinstance(one, np.ndarray):
        if not (isinstance(other, np.ndarray) and np.may_share_memory(one, other)):
            return False
        try:
            return np.shares_memory(one, other, max_work=_MOST_WORK)
        except np.exceptions.TooHardError:
            return True
    return not isinstance(other, np.ndarray) and may_overlap(one, other)


def memory_of(value: Any) -> np.ndarray | None:
    """An array that lies where an array or a buffer does; None for another object. It does not keep
    a buffer from being given other memory, so only its place may be looked at."""
    if isinstance(value, np.ndarray):
        return value
    view = buffer_of(value)
    if view is None:
        return None
    with view:
        if not view.nbytes:
            return np.zeros(0, np.uint8)
        array = np.frombuffer(view, np.uint8) if view.contiguous else np.asarray(view)
        interface = array.__array_interface__
        del array
    return np.asarray(SimpleNamespace(__array_interface__=interface))


def _bytes_of(array: Any) -> tuple[int, int]:
    """The addresses from the first byte of an array to behind the last; (0, 0) if it has none."""
    if not array.size:
        return 0, 0
    is_on_host = isinstance(array, np.ndarray)
    address = array.__array_interface__["data"][0] if is_on_host else array.address
    if array.flags.c_contiguous:
        return address, address + array.nbytes
    return byte_range(array, address)


class InputMemory:
    """The arrays that a trace has met as inputs, by their positions, and which it has written."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}
        self._arrays: list[Any] = []
        self._names: list[str] = []
        self._ranges = np.zeros((0, 2), np.int64)  # with room for more
        self._written = np.zeros(0, np.bool_)

    def read(self, position: int | None, array: Any, name: str) -> None:
        """An input is met, or memory (None) whose elements Python reads; Uncompiled if
        its memory was written as another's."""
        number = len(self._arrays)
        if position is not None:
            self._known[position] = number
        self._arrays.append(array)
        self._names.append(name)
        if number == len(self._written):
            more = max(16, number)
            self._ranges = np.concatenate([self._ranges, np.zeros((more, 2), np.int64)])
            self._written = np.concatenate([self._written, np.zeros(more, np.bool_)])
        self._ranges[number] = _bytes_of(array)
        for other in self._meeting(number, self._written):
            raise self._error(other, number)

    def write(self, position: int) -> None:
        """An input is written; Uncompiled if another was met that lies in its memory."""
        number = self._known.get(position)
        if number is None or self._written[number]:
            return
        self._written[number] = True
        for other in self._meeting(number, True):
            raise self._error(number, other)

    def _meeting(self, number: int, among: Any) -> list[int]:
        """The others that share memory with an input."""
        (low, high), ranges = self._ranges[number], self._ranges
        (found,) = np.nonzero((ranges[:, 0] < high) & (low < ranges[:, 1]) & among)
        array = self._arrays[number]
        return [int(i) for i in found if i != number and share_memory(array, self._arrays[i])]

    def _error(self, written: int, other: int) -> Uncompiled:
        one, two = self._names[written], self._names[other]
        return Uncompiled(
            f"it writes to {one}, and {two}, which is not a view of the same tensor, lies in the "
            f"same memory (at {user_location()}; make both views of one tensor, or clone() one)"
        )


class Ranges:
    """Arrays in the order of their addresses. ``numbers``: what they are called."""

    def __init__(self, arrays: Sequence[Any], numbers: Sequence[int]) -> None:
        found = [(*_bytes_of(a), n, a) for a, n in zip(arrays, numbers, strict=True)]
        found.sort(key=lambda one: one[0])
        self._starts = [start for start, _, _, _ in found]
        self._reach = list(accumulate((end for _, end, _, _ in found), max))
        self._found = found
        owners = [_owner(array) for array in arrays]
        self._owners = frozenset(map(id, owners))
        self._are_owned = all(owner is not None for owner in owners)

    def meet(self, array: Any, number: int = -1) -> bool:
        """Whether one of them, other than ``number``, shares memory with an array."""
        if self._are_owned:  # as nearly always, and known at once
            owner = _owner(array)
            if owner is not None and id(owner) not in self._owners:
                return False
        start, end = _bytes_of(array)
        i = bisect_left(self._starts, end) - 1
        while i >= 0 and self._reach[i] > start:
            _, _, other, there = self._found[i]
            if other != number and share_memory(array, there):
                return True
            i -= 1
        return False
