"""Python's ``int``, ``float``, ``range`` and ``type`` of what varies while a function is traced.

What ``int`` gives is an int and no tracer, so a program would depend on the number at hand. Code of
the user that converts what varies finds other classes in its globals under these names, which give
tracers: until the trace ends, in the modules where that was seen. So does code that asks for a
``type`` where sizes vary; it is told that they are ints. A ``range`` takes its length from sizes
instead of each of them, so that a loop over parts has a program for each number of parts.
In: conversions, and the code that begins (``guards.Recorder``). Out: ConversionWanted where the
trace must begin again with such classes.
Invariant: to other code they are Python's in all but identity; where code compares by that, or
makes classes, the names are left as they are.
"""

from __future__ import annotations

import dis
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import index
from types import CodeType, FrameType
from typing import Any

import numpy as np

from flamec.errors import is_framework_file
from flamec.host_numbers import computed, computed_of_sizes
from flamec.ir.shape import SymbolicDim, maximum
from flamec.state import thread
from flamec.tensor import RuntimeNumber

_MOST_MODULES = 256
_TO_CONTAINERS_AND_CALLS = (
    *("BUILD_TUPLE", "LOAD_GLOBAL", "LOAD_ATTR", "LOAD_METHOD", "KW_NAMES", "PRECALL", "CALL"),
    *("CALL_KW", "COMPARE_OP", "CONTAINS_OP"),
)
_OTHER_USES = ("STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "STORE_NAME")
# ids of modules' globals, which this must not keep alive: stand-ins do no harm in others
_wanted: OrderedDict[int, None] = OrderedDict()


class ConversionWanted(BaseException):  # code that handles errors must not handle it
    """The trace must start again, with stand-ins for Python's classes in a module."""


class _StandInType(type):
    """The class of the stand-ins; ``_kind``: whose place one takes."""

    _kind: type

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        if cls._kind is range:
            return _range(*arguments, **options)
        if len(arguments) == 1 and not options:
            if cls._kind is type:
                return _type_of(arguments[0])
            found = _converted(cls._kind, arguments[0])
            if found is not None:
                return found
        return cls._kind(*arguments, **options)

    def __instancecheck__(cls, instance: Any) -> bool:
        return issubclass(_type_of(instance), cls._kind)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls._kind)

    def __eq__(cls, other: object) -> bool:
        return other is cls._kind or other is cls

    def __hash__(cls) -> int:
        return hash(cls._kind)

    def __getattr__(cls, name: str) -> Any:
        return np.dtype(cls._kind) if name == "dtype" else getattr(cls._kind, name)


def _range(*arguments: Any, **options: Any) -> Sequence[Any]:
    """A ``range`` of the numbers that one over sizes has, or a tuple where these vary, too."""
    kinds = {type(a) for a in arguments}
    if options or SymbolicDim not in kinds or not kinds <= {int, SymbolicDim}:
        return range(*arguments, **options)
    if not 1 <= len(arguments) <= 3 or (len(arguments) == 3 and arguments[2] == 0):
        return range(*map(index, arguments))  # which says what is wrong
    start, stop, step = (0, *arguments, 1) if len(arguments) == 1 else (*arguments, 1)[:3]
    span, stride = (stop - start, step) if step > 0 else (start - stop, -step)
    count = index(maximum((span + stride - 1) // stride, 0))
    if isinstance(start, SymbolicDim) or isinstance(step, SymbolicDim):
        return tuple([start + i * step for i in range(count)])
    return range(start, start + count * step, step)


def _converted(kind: type, value: Any) -> Any:
    """What ``kind`` makes of what varies; None for other values."""
    if type(value) is SymbolicDim:
        return value if kind is int else computed_of_sizes(kind, value)
    if not isinstance(value, RuntimeNumber):
        return None
    found = computed(kind, value)
    return computed_of_sizes(kind, value) if found is None else found


def _type_of(value: Any) -> type:
    """The class of a value; of what varies the one that it has in a call."""
    kind = type(value)
    if kind is RuntimeNumber:
        found: type = value._kind
        return found
    return int if kind is SymbolicDim else kind


_STAND_INS: dict[str, Any] = {
    kind.__name__: _StandInType(kind.__name__, (), {"_kind": kind})
    for kind in (int, float, range, type)
}


def is_stand_in(value: Any) -> bool:
    """Whether a value is a stand-in for a class of Python."""
    return type(value) is _StandInType


def ask(kind: type, frame: FrameType) -> None:
    """What varies is about to be converted by ``frame``: ConversionWanted if a stand-in would do
    that better."""
    variables, name, trace = frame.f_globals, kind.__name__, thread.trace
    host = None if trace is None else trace.host
    if host is None or not host.tracing or host.happened or host.happenings.found:
        return
    if id(variables) in _wanted or name in variables or is_framework_file(_file(frame)):
        return
    if name in _called(frame.f_code) and name not in _compared(frame.f_code):
        _wanted[id(variables)] = None
        if len(_wanted) > _MOST_MODULES:
            _wanted.popitem(last=False)
        raise ConversionWanted


def _file(frame: FrameType) -> str:
    return frame.f_code.co_filename


class Conversions:
    """The stand-ins of one trace."""

    def __init__(self) -> None:
        self._placed: dict[int, dict[str, Any]] = {}
        self._tracing: CodeType | None = None

    def begin(self, tracing: CodeType) -> None:
        """The code ``tracing`` is about to call the traced function."""
        self._tracing = tracing

    def entered(self, frame: FrameType) -> None:
        """A function begins."""
        code, variables = frame.f_code, frame.f_globals
        names = ("int", "float", "range") if id(variables) in _wanted else ()
        if "type" in code.co_names and "type" in _called(code) and _sizes_vary():
            names = (*names, "type")
        if not _named(code) or not (names or id(variables) in self._placed):
            return
        compared = self._compared_by_callers(frame)
        self._remove(variables, compared)
        self._placed[id(variables)] = variables
        for name in names:
            if name not in compared:
                variables.setdefault(name, _STAND_INS[name])

    def _compared_by_callers(self, frame: FrameType | None) -> frozenset[str]:
        """The names that must be left as they are for this function, and for those of its module
        that go on when it returns."""
        assert frame is not None
        variables, found = frame.f_globals, frozenset[str]()
        while frame is not None and frame.f_code is not self._tracing:
            if frame.f_globals is variables and _named(frame.f_code):
                found |= _compared(frame.f_code)
            frame = frame.f_back
        return found

    def release(self) -> None:
        """Let the modules be as before; may be repeated."""
        for variables in self._placed.values():
            self._remove(variables, _STAND_INS)
        self._placed.clear()

    @staticmethod
    def _remove(variables: dict[str, Any], names: Iterable[str]) -> None:
        for name in names:
            if is_stand_in(variables.get(name)):
                del variables[name]


def _sizes_vary() -> bool:
    return thread.trace is not None and bool(thread.trace.oracle.hints)


def _named(code: CodeType) -> bool:
    return any(name in code.co_names for name in _STAND_INS)


@lru_cache(maxsize=1024)
def _called(code: CodeType) -> frozenset[str]:
    """The names that code calls as functions of globals."""
    return frozenset(
        i.argval
        for i in dis.get_instructions(code)
        if i.opname == "LOAD_GLOBAL" and i.argval in _STAND_INS and _is_call(i)
    )


def _is_call(load: dis.Instruction) -> bool:
    """Whether what a global variable holds is called: NULL is pushed with it."""
    assert load.arg is not None
    return bool(load.arg & 1)


@lru_cache(maxsize=1024)
def _compared(code: CodeType) -> frozenset[str]:
    """The names of classes with which code does anything for which identity may count."""
    instructions = [i for i in dis.get_instructions(code) if i.opname != "CACHE"]
    found = set()
    for instruction, following in zip(instructions, [*instructions[1:], None], strict=True):
        if instruction.opname == "LOAD_BUILD_CLASS":
            return frozenset(_STAND_INS)
        name = instruction.argval
        if not isinstance(name, str) or name not in _STAND_INS:
            continue
        after = "" if following is None else following.opname
        used = instruction.opname in _OTHER_USES
        if instruction.opname == "LOAD_GLOBAL" and not _is_call(instruction):
            used = after not in _TO_CONTAINERS_AND_CALLS
        if used:
            found.add(name)
    return frozenset(found)
