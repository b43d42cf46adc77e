"""Conditions on calls of programs that write: what is written is the memory of one input alone.

In: a trace, in which it was so (``common_memory.InputMemory``). Out: conditions on the arrays of
arguments, and on those of captured tensors whenever these have others. A program that writes to
none of its inputs gets none.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import TYPE_CHECKING, Any

from flamec.common_memory import Ranges, memory_of, share_memory
from flamec.segments import array_of
from flamec.sources import InputSource

if TYPE_CHECKING:
    from flamec.capture import Captured
    from flamec.guard_code import CheckBuilder

_MOST_PAIRS = 8  # of arguments that are compared one by one


class SeparateMemory:
    """The arrays of captured tensors, and memory that Python reads: they must not meet each other
    or arguments where one is written. Those of the last ``refresh()`` count."""

    def __init__(self, captured: Captured) -> None:
        updates = captured.graph.updates
        self._sources: list[InputSource] = []
        self._written: list[bool] = []
        for position, source in enumerate(captured.sources):
            if source.position < 0 and source.kind != "number":
                self._sources.append(source)
                self._written.append(position in updates)
        found = [memory_of(guard.owner) for guard in captured.guards if guard.kind == "content"]
        self._read = [memory for memory in found if memory is not None]
        self._written += [False] * len(self._read)
        self._arrays: list[Any] = []
        self.refresh()

    @property
    def any(self) -> bool:
        return bool(self._written)

    @property
    def writes(self) -> bool:
        return any(self._written)

    def _now(self) -> list[Any]:
        """The arrays; None for a gradient that is gone."""
        return [*map(_captured_array, self._sources), *self._read]

    def refresh(self) -> None:
        """Look where the captured tensors are now."""
        now = self._now()
        if len(now) == len(self._arrays) and all(map(is_, now, self._arrays)):
            return
        numbers = [i for i, array in enumerate(now) if array is not None]
        written = [i for i in numbers if self._written[i]]
        self.all = Ranges([now[i] for i in numbers], numbers)
        self.changing = Ranges([now[i] for i in written], written)
        self._apart = not any(self.all.meet(now[i], i) for i in written)
        self._arrays = now

    def hold(self) -> bool:
        """Whether they are where they were at the last ``refresh``, in memory of their own."""
        return all(map(is_, self._now(), self._arrays)) and self._apart

    def free(self, array: Any) -> bool:
        """Whether an array that is read is not in memory that is written."""
        return not self.changing.meet(array)

    def unread(self, array: Any) -> bool:
        """Whether an array that is written is not in any of the memory."""
        return not self.all.meet(array)


def _captured_array(source: InputSource) -> Any:
    if source.owner is not None and source.owner._grad is None:
        return None
    return array_of(source, (), {})


def _apart(arrays: Sequence[Any], written: Sequence[int]) -> bool:
    """Whether no array shares memory with one of those that are written."""
    ranges = Ranges(arrays, range(len(arrays)))
    return not any(ranges.meet(arrays[i], i) for i in written)


def add_separate_memory(b: CheckBuilder, captured: Captured) -> None:
    """Guard that what the program writes is memory of one input alone; arguments are in variables
    ``a0``, …"""
    updates = captured.graph.updates
    if not updates:
        return
    given = [
        (f"a{s.position}.{'_array' if s.kind == 'argument' else '_storage.base'}", i in updates, s)
        for i, s in enumerate(captured.sources)
        if s.position >= 0 and s.kind != "number"
    ]
    pairs = [(x, y) for i, x in enumerate(given) for y in given[:i] if x[1] or y[1]]
    if len(pairs) <= _MOST_PAIRS:
        for (one, _, first), (other, _, second) in pairs:
            names = f"{second.name or 'an argument'} and {first.name or 'an argument'}"
            text = f"not {b.name(share_memory)}({one}, {other})"
            b.add(text, f"{names} are not in the same memory")
    else:
        arrays = ", ".join(text for text, _, _ in given)
        written = b.name([i for i, (_, writes, _) in enumerate(given) if writes])
        text = f"{b.name(_apart)}(({arrays}), {written})"
        b.add(text, "no two arguments, one of them written, are in the same memory")
    memory = SeparateMemory(captured)
    if not memory.any:
        return
    b.refreshes.append(memory.refresh)
    name = b.name(memory)
    b.add(f"{name}.hold()", "captured tensors are not in the same memory", captured=True)
    for text, writes, source in given:
        if writes or memory.writes:
            question = "unread" if writes else "free"
            label = source.name or "an argument"
            meaning = f"{label} is not in the memory of a captured tensor"
            b.add(f"{name}.{question}({text})", meaning)
