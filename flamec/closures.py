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

    def note(self, code: CodeType, is_known: bool = True) -> list[FunctionType]:
        """Remember the variables of the functions that ``code`` has made by now.

        The functions of ``code`` itself that may have variables which are state, unless they are
        known. Both are looked for at once, because that is to look at all objects.
        """
        inner = [c for c in _inner_codes(code) if c.co_freevars]
        fresh = {id(c): c for c in inner if id(c) not in self._older}
        is_known |= not code.co_freevars or self._older.get(id(code)) == []
        wanted = [*fresh.values()] if is_known else [code, *fresh.values()]
        found = []
        if fresh:
            self._kept.append(code)
            self._older.update((identity, []) for identity in fresh)
        if wanted:
            gc.unfreeze()  # what is frozen is not among referrers
            for function in gc.get_referrers(*wanted):
                if not isinstance(function, FunctionType):
                    continue
                if id(function.__code__) in fresh:
                    self._older[id(function.__code__)].extend(function.__closure__ or ())
                elif not is_known and function.__code__ is code:
                    found.append(function)
        return found

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
