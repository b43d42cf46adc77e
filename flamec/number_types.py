"""Whether traced code asks what kind of object a number that varies is.

While a function is traced, a number that changes from call to call is a tensor, ``RuntimeNumber``.
Code that asks ``isinstance(k, float)`` or ``hasattr(k, "shape")`` must not be told so: where a
question of this kind is found, the compiler takes the number as a constant.

In: frames of the user's code, at their start and where they call a function in C. Out: whether a
question is about a number of the trace.
"""

from __future__ import annotations

import builtins
import dis
from functools import lru_cache
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from flamec.tensor import RuntimeNumber, Tensor

_QUESTIONS = ("isinstance", "hasattr", "getattr", "callable")
_NESTED = 3  # containers in containers that are looked into
_ANY = ""  # a question about something else than a variable


def asks_by_call(frame: FrameType | None, function: Any) -> bool:
    """Whether ``frame``, which is about to call ``function``, asks it for a number's type."""
    name = getattr(function, "__name__", "")
    if frame is None or name not in _QUESTIONS or function is not getattr(builtins, name):
        return False
    before = [i for i in _instructions(frame.f_code) if i.offset <= frame.f_lasti]
    asked = [i for i, found in enumerate(before) if _loads(found, name)]
    variable = _variable(before, asked[-1] + 1) if asked else _ANY
    return _has_number(frame, {variable})


def asks_for_types(frame: FrameType | None) -> bool:
    """Whether the code of ``frame``, which begins, applies ``type`` or a class pattern to one."""
    asked = _typed_variables(frame.f_code) if frame is not None else frozenset()
    return frame is not None and bool(asked) and _has_number(frame, asked)


def asks_types(code: CodeType) -> bool:
    """Whether code applies ``type`` or a class pattern to anything."""
    return bool(_typed_variables(code))


def may_ask(code: CodeType) -> bool:
    """Whether code names anything that asks for types."""
    return not set(_QUESTIONS).isdisjoint(code.co_names) or asks_types(code)


def _has_number(frame: FrameType, names: set[str] | frozenset[str]) -> bool:
    known = frame.f_locals
    if names <= known.keys():
        return any(_holds_number(known[n], _NESTED) for n in names)
    variables, read = frame.f_globals, frame.f_code.co_names
    values = [*known.values(), *(variables[n] for n in read if n in variables)]
    return any(_holds_number(value, _NESTED) for value in values)


def _holds_number(value: Any, depth: int) -> bool:
    if isinstance(value, RuntimeNumber):
        return True
    if not depth:
        return False
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        value = _attributes(value)
    return any(_holds_number(v, depth - 1) for v in value)


def _attributes(value: Any) -> Any:
    """The values of an object's attributes; none of what has no numbers of its own to ask about."""
    if isinstance(value, (Tensor, ModuleType, FunctionType)):
        return ()
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return ()
    return found.values()


@lru_cache(maxsize=1024)
def _instructions(code: CodeType) -> tuple[dis.Instruction, ...]:
    return tuple(i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "PUSH_NULL"))


@lru_cache(maxsize=1024)
def _typed_variables(code: CodeType) -> frozenset[str]:
    """The variables whose types code asks for by ``type(v)`` or ``case float()``."""
    found = set()
    for inner in code.co_consts:
        if isinstance(inner, CodeType) and _typed_variables(inner):
            found.add(_ANY)
    instructions = _instructions(code)
    for position, instruction in enumerate(instructions):
        if _loads(instruction, "type"):
            found.add(_variable(instructions, position + 1))
        elif instruction.opname == "MATCH_CLASS":
            found.add(_ANY)
    return frozenset(found)


def _loads(instruction: dis.Instruction, name: str) -> bool:
    return instruction.argval == name and instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")


def _variable(instructions: Any, position: int) -> str:
    """The local variable that an instruction reads."""
    if position >= len(instructions):
        return _ANY
    read = instructions[position]
    if not read.opname.startswith(("LOAD_FAST", "LOAD_DEREF")):
        return _ANY
    return str(read.argval[0] if isinstance(read.argval, tuple) else read.argval)
