"""Which variables of closures a traced function takes from Python's state.

In: the code that a trace runs, before it does. Out: of each closure the variables that are state:
those that were there before the trace. The locals around a function that is made in the trace are
none, and what a function only hands on to functions within it counts when these run.
"""

from __future__ import annotations

import dis
import gc
from collections.abc import Iterator
from types import CellType, CodeType, FunctionType


class Closures:
    """Of one trace."""

    def __init__(self) -> None:
        self._older: dict[int, list[CellType]] = {}  # by the id of a code made within another
        self._kept: list[CodeType] = []

    def note(self, code: CodeType) -> None:
        """Remember the variables of the functions that ``code`` has made by now."""
        inner = [c for c in _inner_codes(code) if c.co_freevars]
        fresh = {id(c): c for c in inner if id(c) not in self._older}
        if fresh:
            self._kept.append(code)
            self._older.update((identity, []) for identity in fresh)
            gc.unfreeze()  # what is frozen is not among referrers
            for function in gc.get_referrers(*fresh.values()):
                if isinstance(function, FunctionType) and id(function.__code__) in fresh:
                    self._older[id(function.__code__)].extend(function.__closure__ or ())

    def used(self, function: FunctionType) -> list[tuple[str, CellType]]:
        """The variables that are state, and that the function's own code names."""
        code = function.__code__
        older = self._older.get(id(code))
        named = {i.argval for i in dis.get_instructions(code) if i.opname.endswith("DEREF")}
        within = [self._older[id(c)] for c in _inner_codes(code) if id(c) in self._older]
        found = []
        for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            if older is not None and not any(cell is c for c in older):
                continue
            for known in within:
                known.append(cell)
            if variable in named and variable != "__class__":
                found.append((variable, cell))
        return found


def _inner_codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _inner_codes(constant)
