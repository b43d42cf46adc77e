"""A reader of pickles that executes nothing.

A pickle is a program for a small stack machine, which can import any name and call it.
This machine knows the opcodes that build plain data; a name is only text to it, and a
call is looked up in a table that the caller gives. What is not in the table is refused
before anything is done with it.

Opcodes: the comments of ``pickletools`` in the standard library.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flamec.saving.errors import FileFormatError, MissingDeviceError

__all__ = ["Name", "run"]


@dataclass(frozen=True)
class Name:
    """An imported name, ``module.name``: not the object."""

    text: str


_MARK = object()

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
    "MARK": lambda: _MARK,
}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"),
    *(
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
        "BINSTRING",
        "SHORT_BINSTRING",
        "STRING",
    ),
}
_NOTHING = {"PROTO", "FRAME"}
_DEEPEST, _HEAVIEST = 200, 10**8  # of tuples in tuples


def run(
    data: bytes,
    calls: Mapping[str, Callable[..., Any]],
    constants: Mapping[str, Any],
    states: Mapping[type, Callable[[Any, Any], None]],
    persistent: Callable[[Any], Any],
) -> Any:
    """The value that a pickle describes.

    ``calls``: name -> what stands for calling it. ``constants``: name -> the value that it
    stands for. ``states``: type -> how an object of it gets a state. ``persistent``: what a
    persistent id stands for.

    Raises FileFormatError that says which name or opcode was refused.
    """
    machine = _Machine(calls, constants, states, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except (FileFormatError, MissingDeviceError):
        raise
    except Exception as error:  # whatever a damaged program makes the machine or a call do
        raise FileFormatError(f"the pickle is damaged ({error!r})") from error
    raise FileFormatError("the pickle has no end")


class _Machine:
    def __init__(
        self,
        calls: Mapping[str, Callable[..., Any]],
        constants: Mapping[str, Any],
        states: Mapping[type, Callable[[Any, Any], None]],
        persistent: Callable[[Any], Any],
    ) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.weights: dict[int, tuple[Any, int, int]] = {}  # of tuples: itself, depth, elements
        self.calls = calls
        self.constants = constants
        self.states = states
        self.persistent = persistent

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise FileFormatError("the pickle is damaged (a mark where a value should be)")
        return value

    def pop_to_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _VALUES:
            self.stack.append(argument)
        elif name in _NOTHING:
            pass
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[int(argument)] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[int(argument)])
        elif name == "GLOBAL":
            self.stack.append(self.imported(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            last, module = self.pop(), self.pop()
            self.stack.append(self.imported(f"{module}.{last}"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = self.pop(), self.pop()
            self.stack.append(self.weighed(self.called(function, arguments)))
        elif name == "BINPERSID":
            self.stack.append(self.persistent(self.pop()))
        elif name == "BUILD":
            state = self.pop()
            self.set_state(self.stack[-1], state)
        elif not self.build(name):
            raise FileFormatError(f"the pickle uses opcode {name}, which plain data does not need")

    def build(self, name: str) -> bool:
        """Tuples, and what is added to containers; whether ``name`` is such an opcode."""
        stack = self.stack
        if name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            items = [self.pop() for _ in range(count)][::-1]
            stack.append(self.weighed(tuple(items)))
        elif name in ("TUPLE", "LIST", "FROZENSET"):
            made: Any = {"TUPLE": tuple, "LIST": list, "FROZENSET": frozenset}[name]
            items = self.pop_to_mark()
            stack.append(self.weighed(made(items)))
        elif name == "DICT":
            items = self.pop_to_mark()
            stack.append(dict(zip(items[::2], items[1::2], strict=True)))
        elif name in ("APPEND", "APPENDS"):
            items = [self.pop()] if name == "APPEND" else self.pop_to_mark()
            self.container(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [self.pop(), self.pop()][::-1] if name == "SETITEM" else self.pop_to_mark()
            self.container(dict).update(zip(items[::2], items[1::2], strict=True))
        elif name == "ADDITEMS":
            items = self.pop_to_mark()
            self.container(set).update(items)
        else:
            return False
        return True

    def weighed(self, value: Any) -> Any:
        """A value, unless hashing it would exhaust the stack or never end.

        Python hashes a tuple by hashing what is in it, without a bound to the depth; a short
        pickle can nest many, or say one twice in another and so on.
        """
        if not isinstance(value, (tuple, frozenset)):
            return value
        known = [self.weights[id(v)] for v in value if id(v) in self.weights]
        depth = 1 + max((d for _, d, _ in known), default=0)
        weight = len(value) + sum(w for _, _, w in known)
        if depth > _DEEPEST or weight > _HEAVIEST:
            raise FileFormatError(
                f"the pickle is damaged (tuples nested {depth} deep, with {weight} elements)"
            )
        self.weights[id(value)] = value, depth, weight
        return value

    def container(self, kind: Any) -> Any:
        value = self.stack[-1]
        if not isinstance(value, kind):
            raise FileFormatError(f"the pickle is damaged ({kind.__name__} expected)")
        return value

    def imported(self, name: str) -> Any:
        if name in self.constants:
            return self.constants[name]
        if name not in self.calls:
            raise FileFormatError(
                f"the file asks for {name}, which is neither a tensor nor a plain container: it "
                "was refused, and nothing was executed. Save a state_dict (tensors, numbers, text) "
                "instead of objects"
            )
        return Name(name)

    def called(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise FileFormatError(f"the file calls {function!r}, which is not a function")
        return self.calls[function.text](*arguments)

    def set_state(self, target: Any, state: Any) -> None:
        for kind, set_state in self.states.items():
            if isinstance(target, kind):
                set_state(target, state)
                return
        raise FileFormatError(f"the file sets attributes of a {type(target).__name__}")
