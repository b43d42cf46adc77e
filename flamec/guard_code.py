"""From guards to one generated check function.

Each condition is a Python expression with a description. The check function is
their conjunction and returns the tensors and sizes that the program needs, so
that guarding and unpacking the arguments are one pass. The same expressions,
tried one by one, tell which assumption failed.
"""

from __future__ import annotations

import operator
from abc import get_cache_token
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any

from flamec.guarded_values import (
    MISSING,
    Guard,
    dictionary_of,
    is_constant,
    registered,
    same_constant,
    same_content,
    still_remembers,
)
from flamec.host_actions import HostCondition
from flamec.host_numbers import ExpressionWriter
from flamec.host_sizes import HostSize
from flamec.ir.shape import Dim, SymbolicDim, format_dim, multiple_of_symbol
from flamec.state import process, thread
from flamec.structures import Structure, access_paths
from flamec.tensor import Tensor


@dataclass(eq=False, slots=True)
class Condition:
    """A Python expression over the check function's variables, and what it means.

    ``meaning``: an object whose text that is, or a function that gives the text.
    ``captured``: it is about captured tensors alone and holds as long as their arrays are the
    same objects, which the call path compares anyway (``call_path.py``). ``keys``: it says that
    the dict of this name has these string keys in this order. ``merged``: another condition
    says the same and more, so it is evaluated only to find what failed.
    """

    text: str
    meaning: Any
    captured: bool = False
    keys: tuple[str, tuple[str, ...]] | None = None
    merged: bool = False

    @property
    def description(self) -> str:
        return str(self.meaning() if callable(self.meaning) else self.meaning)


class CheckBuilder:
    """Collects conditions and the objects that they name."""

    def __init__(self) -> None:
        self.conditions: list[Condition] = []
        self.refreshes: list[Callable[[], None]] = []
        self.namespace: dict[str, Any] = {
            "M": MISSING,
            "same": same_constant,
            "same_content": same_content,
            "still_remembers": still_remembers,
            "dictionary_of": dictionary_of,
            "is_": operator.is_,
            "abc_token": get_cache_token,
            "registered": registered,
            "thread": thread,
            "process": process,
            "Tensor": Tensor,
        }
        self._names: dict[int, str] = {}
        self._members: dict[int, Any] = {}  # by the ids of classes, which have names
        self.leaves: list[str] = []  # expressions of the leaves of the arguments
        self.writer = ExpressionWriter(self.name, lambda position: self.leaves[position])

    def name(self, value: Any) -> str:
        """A variable of the check function that holds ``value`` itself."""
        known = self._names.get(id(value))
        if known is None:
            known = self._names[id(value)] = f"o{len(self._names)}"
            self.namespace[known] = value
        return known

    def add(self, text: str, meaning: Any, captured: bool = False, *, merged: bool = False) -> None:
        self.conditions.append(Condition(text, meaning, captured, merged=merged))

    # arguments ------------------------------------------------------------------
    def add_structure(self, structure: Structure, root: str, known: bool) -> list[str]:
        """Conditions on nesting; returns the expressions of the leaves, in order.

        ``known``: the type of the root itself is certain.
        """
        leaves: list[str] = []
        for path, part in access_paths(structure, root):
            kind = part.kind
            if kind is None:
                leaves.append(path)
                continue
            if path != root or not known:
                self.add(f"type({path}) is {self.name(kind)}", f"type of {path}")
            if issubclass(kind, dict):
                keys = f"list({path}) == {self.name(list(part.keys))}"
                self.add(keys if part.keys else f"not {path}", f"keys of {path}")
            elif issubclass(kind, (list, tuple)):
                self.add(f"len({path}) == {len(part.children)}", f"length of {path}")
        return leaves

    def add_tensor(
        self,
        variable: str,
        path: str,
        label: str,
        tensor: Tensor,
        shape: Sequence[Dim],
        sizes: dict[str, str],
    ) -> None:
        """Conditions on the tensor ``path``, called ``label``; binds symbols that occur alone for
        the first time."""
        self.add(
            f"type({variable} := {path}) is {self.name(type(tensor))}",
            f"{label} is a {type(tensor).__name__}",
        )
        self.add(
            f"({variable}_t := {variable}._type).dtype is {self.name(tensor.dtype)}",
            f"{label}.dtype is {tensor.dtype!r}",
        )
        device = self.name(tensor.device)
        self.add(
            f"({variable}_t.device is {device} or {variable}_t.device == {device})",
            f"{label}.device is {tensor.device}",
        )
        self.add(f"{variable}._array is not None", f"{label} holds data")
        if not any(isinstance(d, SymbolicDim) for d in shape):
            self.add(f"{variable}_t.shape == {tuple(shape)!r}", f"{label}.shape is {list(shape)}")
            return
        self.add(
            f"len({variable}_s := {variable}_t.shape) == {len(shape)}",
            f"{label} has {len(shape)} dimensions",
        )
        for axis, dim in enumerate(shape):
            text = format_dim(dim)
            factor, symbol = multiple_of_symbol(dim) or (0, "")
            if factor and symbol not in sizes:
                sizes[symbol] = symbol
                size = f"{variable}_s[{axis}]"
                known = f"({symbol} := {size}) >= 0"
                if factor > 1:
                    known = f"({symbol} := {size} // {factor}) * {factor} == {size}"
                self.add(known, f"{label}.shape[{axis}] is {text}")
            else:
                self.add(f"{variable}_s[{axis}] == {text}", f"{label}.shape[{axis}] == {text}")

    def add_constant(self, path: str, value: Any) -> None:
        name = self.name(value)
        if is_constant(value):
            self.add(f"({path} is {name} or same({path}, {name}))", f"{path} == {value!r}")
        else:
            self.add(f"{path} is {name}", f"{path} is the same {type(value).__name__}")

    # Python state ---------------------------------------------------------------
    def add_guard(self, guard: Guard) -> None:
        owner, expected = self.name(guard.owner), guard.expected
        match guard.kind:
            case "attribute" if expected is MISSING:
                self.add(f"{self._key_text(guard.key)} not in {owner}", guard)
                return
            case "item" if expected is MISSING:
                present = f"{owner}.get({self.name(guard.key)}, M)"
            case "dictionary" if _reads_plainly(type(guard.owner)):
                self.add(f"{owner}.__dict__ is {self.name(expected)}", guard)
                return
            case "dictionary":
                self.add(f"dictionary_of({owner}) is {self.name(expected)}", guard)
                return
            case "absent":
                self.add(f"{owner}.keys().isdisjoint({self.name(expected)})", guard)
                return
            case "class" if expected is MISSING:
                self.add(f"{guard.key!r} not in {self._members_of(guard.owner)}", guard)
                return
            case "class":
                members = self._members_of(guard.owner)
                self.add(f"{members}[{guard.key!r}] is {self.name(expected)}", guard)
                return
            case "attribute":
                present = f"{owner}[{guard.key!r}]"
            case "item" if isinstance(guard.owner, dict):
                present = f"{owner}[{self._key_text(guard.key)}]"
            case "item":
                present = f"{owner}[{guard.key}]"
            case "slot" if guard.key == "__class__" and type(guard.owner) is expected:
                present = f"type({owner})"
            case "slot" if expected is not MISSING and _is_name(guard.key):
                present = f"{owner}.{guard.key}"
            case "slot":
                present = f"getattr({owner}, {guard.key!r}, M)"
            case "length":
                self.add(f"len({owner}) == {expected}" if expected else f"not {owner}", guard)
                return
            case "keys":
                self._add_keys(owner, guard)
                return
            case "entries":
                self.add(f"{owner} == {self.name(expected)}", guard)
                return
            case "cache":
                self.add(f"still_remembers({owner}, {self.name(expected)})", guard)
                return
            case "registered":
                known = f"registered({owner}) == {self.name(expected)}"  # where any class was since
                self.add(f"(abc_token() == {get_cache_token()} or {known})", guard)
                return
            case "content":
                self.add(f"same_content({owner}, {self.name(expected)})", guard)
                return
            case _:
                present = f"{owner}.cell_contents"
        name = self.name(expected)
        if expected is None or isinstance(expected, bool):
            self.add(f"{present} is {expected}", guard)
        elif is_constant(expected):
            self.add(f"((v := {present}) is {name} or same(v, {name}))", guard)
        else:
            self.add(f"{present} is {name}", guard)

    def add_host_condition(self, condition: HostCondition) -> None:
        """A condition on what Python computes of numbers that vary."""
        text = self.writer.text(condition.expression)
        expected = self.name(condition.expected)
        if condition.kind == "type":
            text = f"type({text}) is {expected}"
        elif condition.kind == "truth":
            text = f"bool({text}) is {condition.expected}"
        else:
            text = f"same({text}, {expected})"
        self.add(text, condition)

    def add_host_size(self, size: HostSize) -> None:
        """Binds the symbol of a size that numbers of Python decide on."""
        text = self.writer.text(size.expression)
        sign = "-" if size.sign < 0 else ""
        self.add(f"0 <= ({size.symbol} := {sign}{text}) < {2**63}", size)

    def _members_of(self, cls: type) -> str:
        """A variable with the one dictionary of a class, which it makes a proxy of when asked."""
        return self.name(self._members.setdefault(id(cls), vars(cls)))

    def _key_text(self, key: Any) -> str:
        return repr(key) if isinstance(key, (str, int)) else self.name(key)

    def _add_keys(self, owner: str, guard: Guard) -> None:
        if not guard.expected:
            self.add(f"not {owner}", guard)
        elif len(guard.expected) == 1:
            key = guard.expected[0]
            text = f"{key!r} in {owner}" if isinstance(key, str) else f"{self.name(key)} in {owner}"
            self.add(f"len({owner}) == 1 and {text}", guard)
        elif all(isinstance(k, str) for k in guard.expected):
            text = f"list({owner}) == {self.name(list(guard.expected))}"
            self.conditions.append(Condition(text, guard, keys=(owner, guard.expected)))
        else:
            keys = self.name(guard.expected)
            self.add(
                f"len({owner}) == {len(guard.expected)} and all(map(is_, {owner}, {keys}))",
                guard,
            )

    # result ---------------------------------------------------------------------
    def build(self, result: str) -> Check:
        return Check(tuple(self.conditions), dict(self.namespace), result, self.refreshes)


def _reads_plainly(kind: Any) -> bool:
    return bool(kind.__getattribute__ is object.__getattribute__)


def _is_name(key: Any) -> bool:
    """Whether ``x.key`` is what ``getattr(x, key)`` gives."""
    return isinstance(key, str) and key.isidentifier() and key.isascii() and not iskeyword(key)


_MISMATCHES = (ValueError, IndexError, AttributeError, KeyError, TypeError, ArithmeticError)


def _function(name: str, parameters: str, conditions: Sequence[str], result: str) -> str:
    """A function that gives ``result`` if all conditions hold, else False.

    What was guarded may no longer have the form that it had: then a condition raises.
    """
    body = "\n            and ".join(conditions) or "True"
    return (
        f"def {name}({parameters}):\n    try:\n        return (\n            {body}\n"
        f"        ) and {result}\n    except MISMATCHES:\n        return False\n"
    )


class Check:
    """The compiled check of one program.

    ``arguments(args, kwargs)`` leaves out what ``captured_hold()`` says: whether all is as traced
    that the arrays of captured tensors decide. A call checks both. ``refreshes`` look anew at
    the captured tensors that ``arguments`` compares arguments with.
    """

    def __init__(
        self,
        conditions: tuple[Condition, ...],
        namespace: dict[str, Any],
        result: str,
        refreshes: Sequence[Callable[[], None]],
    ) -> None:
        self._refreshes = tuple(refreshes)
        self.conditions = (
            *(c for c in conditions if c.captured),
            *(c for c in conditions if not c.captured),
        )
        conditions = tuple(c for c in conditions if not c.merged)
        self.namespace = namespace
        arguments = [c.text for c in conditions if not c.captured and c.keys is None]
        arguments += self._merged_keys([c for c in conditions if c.keys is not None])
        self.source = (
            _function("captured_hold", "", [c.text for c in conditions if c.captured], "True")
            + "\n\n"
            + _function("check", "args, kwargs", arguments, result)
        )
        variables = {**namespace, "MISMATCHES": _MISMATCHES}
        exec(compile(self.source, "<flamec guards>", "exec"), variables)
        self.captured_hold: Callable[[], bool] = variables["captured_hold"]
        self.arguments: Callable[[Any, Any], Any] = variables["check"]

    def _merged_keys(self, conditions: Sequence[Condition]) -> list[str]:
        """One comparison for the keys of all dicts.

        Equal if and only if each is: an entry that is guarded or read is one that its dict has, so
        with as many keys in all, no dict can have others.
        """
        if not conditions:
            return []
        expected: list[str] = []
        for condition in conditions:
            assert condition.keys is not None
            expected += condition.keys[1]
        self.namespace["all_keys"] = expected
        dicts = ", ".join(f"*{c.keys[0]}" for c in conditions if c.keys is not None)
        return [f"[{dicts}] == all_keys"]

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The program's arguments and sizes, or False if an assumption does not hold."""
        for refresh in self._refreshes:
            refresh()
        return self.captured_hold() and self.arguments(args, kwargs)

    def first_failure(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """What failed, for people; empty if every assumption holds."""
        variables = {**self.namespace, "args": args, "kwargs": kwargs}
        for condition in self.conditions:
            try:
                holds = eval(condition.text, variables)
            except _MISMATCHES as error:
                return f"{condition.description}: {type(error).__name__}: {error}"
            if not holds:
                return condition.description
        return ""


class TrustedCheck(Check):
    """The check of a program that is run once, for the call that was traced."""

    def __init__(self) -> None:
        super().__init__((), {}, "True", ())
