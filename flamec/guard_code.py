"""From guards to one generated check function.

Each condition is a Python expression with a description. The check function is
their conjunction and returns the tensors and sizes that the program needs, so
that guarding and unpacking the arguments are one pass. The same expressions,
tried one by one, tell which assumption failed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flamec.guards import MISSING, Guard, is_constant, same_constant, same_content
from flamec.ir.shape import Dim, SymbolicDim, format_dim
from flamec.state import process, thread
from flamec.structures import Structure, access_paths
from flamec.tensor import Tensor


@dataclass(frozen=True)
class Condition:
    """A Python expression over the check function's variables, and what it means."""

    text: str
    description: str


class CheckBuilder:
    """Collects conditions and the objects that they name."""

    def __init__(self) -> None:
        self.conditions: list[Condition] = []
        self.namespace: dict[str, Any] = {
            "M": MISSING,
            "same": same_constant,
            "same_content": same_content,
            "is_": operator.is_,
            "thread": thread,
            "process": process,
            "Tensor": Tensor,
        }
        self._names: dict[int, str] = {}

    def name(self, value: Any) -> str:
        """A variable of the check function that holds ``value`` itself."""
        known = self._names.get(id(value))
        if known is None:
            known = self._names[id(value)] = f"o{len(self._names)}"
            self.namespace[known] = value
        return known

    def add(self, text: str, description: str) -> None:
        self.conditions.append(Condition(text, description))

    # arguments ------------------------------------------------------------------
    def add_structure(self, structure: Structure, root: str) -> list[str]:
        """Conditions on nesting; returns the expressions of the leaves, in order."""
        leaves: list[str] = []
        for path, part in access_paths(structure, root):
            kind = part.kind
            if kind is None:
                leaves.append(path)
            elif issubclass(kind, dict):
                self.add(
                    f"type({path}) is {self.name(kind)} and list({path}) == "
                    f"{self.name(list(part.keys))}",
                    f"keys of {path}",
                )
            elif issubclass(kind, (list, tuple)):
                self.add(
                    f"type({path}) is {self.name(kind)} and len({path}) == {len(part.children)}",
                    f"length of {path}",
                )
            else:
                self.add(f"type({path}) is {self.name(kind)}", f"type of {path}")
        return leaves

    def add_tensor(
        self, variable: str, path: str, tensor: Tensor, shape: Sequence[Dim], sizes: dict[str, str]
    ) -> None:
        """Conditions on a tensor argument; binds symbols that occur alone for the first time."""
        self.add(
            f"type({variable} := {path}) is {self.name(type(tensor))}",
            f"{path} is a {type(tensor).__name__}",
        )
        self.add(
            f"({variable}_t := {variable}._type).dtype is {self.name(tensor.dtype)}",
            f"{path}.dtype is {tensor.dtype!r}",
        )
        device = self.name(tensor.device)
        self.add(
            f"({variable}_t.device is {device} or {variable}_t.device == {device})",
            f"{path}.device is {tensor.device}",
        )
        self.add(f"{variable}._array is not None", f"{path} holds data")
        if not any(isinstance(d, SymbolicDim) for d in shape):
            self.add(f"{variable}_t.shape == {tuple(shape)!r}", f"{path}.shape is {list(shape)}")
            return
        self.add(
            f"len({variable}_s := {variable}_t.shape) == {len(shape)}",
            f"{path} has {len(shape)} dimensions",
        )
        for axis, dim in enumerate(shape):
            text = format_dim(dim)
            if isinstance(dim, SymbolicDim) and text.isidentifier() and text not in sizes:
                sizes[text] = text
                self.add(
                    f"({text} := {variable}_s[{axis}]) >= 0", f"{path}.shape[{axis}] is {text}"
                )
            else:
                self.add(f"{variable}_s[{axis}] == {text}", f"{path}.shape[{axis}] == {text}")

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
            case "attribute" | "item" if expected is MISSING:
                present = f"{owner}.get({self.name(guard.key)}, M)"
            case "attribute":
                present = f"{owner}[{guard.key!r}]"
            case "item" if isinstance(guard.owner, dict):
                present = f"{owner}[{self._key_text(guard.key)}]"
            case "item":
                present = f"{owner}[{guard.key}]"
            case "slot":
                present = f"getattr({owner}, {guard.key!r}, M)"
            case "length":
                self.add(f"len({owner}) == {expected}" if expected else f"not {owner}", str(guard))
                return
            case "keys":
                self._add_keys(owner, guard)
                return
            case "content":
                self.add(f"same_content({owner}, {self.name(expected)})", str(guard))
                return
            case _:
                present = f"{owner}.cell_contents"
        name = self.name(expected)
        if expected is None or isinstance(expected, bool):
            self.add(f"{present} is {expected}", str(guard))
        elif is_constant(expected):
            self.add(f"((v := {present}) is {name} or same(v, {name}))", str(guard))
        else:
            self.add(f"{present} is {name}", str(guard))

    def _key_text(self, key: Any) -> str:
        return repr(key) if isinstance(key, (str, int)) else self.name(key)

    def _add_keys(self, owner: str, guard: Guard) -> None:
        if not guard.expected:
            self.add(f"not {owner}", str(guard))
        elif all(isinstance(k, str) for k in guard.expected):
            self.add(f"list({owner}) == {self.name(list(guard.expected))}", str(guard))
        else:
            keys = self.name(guard.expected)
            self.add(
                f"len({owner}) == {len(guard.expected)} and all(map(is_, {owner}, {keys}))",
                str(guard),
            )

    # result ---------------------------------------------------------------------
    def build(self, result: str) -> Check:
        return Check(tuple(self.conditions), dict(self.namespace), result)


class Check:
    """The compiled check of one program."""

    def __init__(
        self, conditions: tuple[Condition, ...], namespace: dict[str, Any], result: str
    ) -> None:
        self.conditions = conditions
        self.namespace = namespace
        body = "\n        and ".join(c.text for c in conditions) or "True"
        self.source = (
            f"def check(args, kwargs):\n    return (\n        {body}\n    ) and {result}\n"
        )
        variables = dict(namespace)
        exec(compile(self.source, "<flamec guards>", "exec"), variables)
        self._check: Callable[[Any, Any], Any] = variables["check"]

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The program's tensors and sizes, or False if an assumption does not hold."""
        try:
            return self._check(args, kwargs)
        except (ValueError, IndexError, AttributeError, KeyError, TypeError):
            return False  # the state guarded no longer has the form that was guarded

    def first_failure(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """What failed, for people; empty if every assumption holds."""
        variables = {**self.namespace, "args": args, "kwargs": kwargs}
        for condition in self.conditions:
            try:
                holds = eval(condition.text, variables)
            except (ValueError, IndexError, AttributeError, KeyError, TypeError) as error:
                return f"{condition.description}: {type(error).__name__}: {error}"
            if not holds:
                return condition.description
        return ""
