"""Lists, dicts and dataclasses among the arguments that a function changes: the caller's change.

A traced function is given copies of the containers, made of tracers. In: these copies, before and
after it. Out: for each that it has changed, what a call puts into the caller's (``Refill``).
Containers are numbered in the order of ``access_paths``; in a call they follow the leaves of the
arguments. Invariant: the caller's containers stay the same objects, inside of others, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flamec.errors import CompileError, user_location
from flamec.structures import Structure, access_paths, flatten


@dataclass(frozen=True, eq=False)
class Refill:
    """A call gives the caller's container at ``position`` the content of this structure."""

    position: int
    structure: Structure
    operands: tuple[Any, ...]


class CallersContainer:
    """A part of a new content, or of a result: the caller's container at this position."""

    def __init__(self, position: int) -> None:
        self.position = position


def can_change(structure: Structure) -> bool:
    """Whether this is a container whose content may change."""
    kind = structure.kind
    return kind is not None and not issubclass(kind, tuple)


def container_paths(structure: Structure) -> list[str]:
    """Python expressions for the containers among ``args`` and ``kwargs``."""
    roots = zip(structure.children, ("args", "kwargs"), strict=True)
    found = []
    for child, name in roots:
        inside = access_paths(child, name)
        found += [path for path, part in inside if path != name and can_change(part)]
    return found


def containers(structure: Structure, arguments: tuple[Any, Any]) -> list[Any]:
    """The containers among the arguments of a call."""
    found = []
    for child, value in zip(structure.children, arguments, strict=True):
        inside = list(_containers(child, value))
        found += inside[1:] if can_change(child) else inside
    return found


def _containers(structure: Structure, value: Any) -> Iterator[Any]:
    kind = structure.kind
    if kind is None:
        return
    if can_change(structure):
        yield value
    for position, child in enumerate(structure.children):
        if issubclass(kind, dict):
            part = value[structure.keys[position]]
        elif issubclass(kind, (list, tuple)):
            part = value[position]
        else:
            part = getattr(value, structure.keys[position])
        yield from _containers(child, part)


def _content(container: Any) -> Any:
    """What a container holds, as a new list or dict."""
    if isinstance(container, list):
        return list(container)
    if isinstance(container, dict):
        return dict(container)
    fields = [f.name for f in dataclasses.fields(container)]
    names = [*fields, *(n for n in getattr(container, "__dict__", ()) if n not in fields)]
    return {name: getattr(container, name) for name in names if hasattr(container, name)}


def _is_same(before: Any, now: Any) -> bool:
    if isinstance(before, dict):
        same_keys = list(before) == list(now)
        return same_keys and all(before[key] is now[key] for key in before)
    return len(before) == len(now) and all(a is b for a, b in zip(before, now, strict=True))


class ArgumentCopies:
    """The containers that a traced function is given, and what they held before it.

    ``first``: the position of the first container behind the leaves, to be set after the function.
    """

    first = 0

    def __init__(
        self, structure: Structure, copies: tuple[Any, Any], arguments: tuple[Any, Any]
    ) -> None:
        self._copies = containers(structure, copies)
        self._before = [_content(copy) for copy in self._copies]
        self._originals = containers(structure, arguments)
        self._positions = {id(copy): i for i, copy in enumerate(self._copies)}
        self.count = len(self._copies)

    def refills(self, name: str) -> list[Refill]:
        """What the function has changed. CompileError where one container was given twice."""
        found = []
        for number, (copy, before) in enumerate(zip(self._copies, self._before, strict=True)):
            now = _content(copy)
            if _is_same(before, now):
                continue
            original = self._originals[number]
            if sum(original is other for other in self._originals) > 1:
                raise CompileError(
                    f"{name} changes a {type(original).__name__} that is among its arguments twice "
                    f"(at {user_location()}); pass it once, or a copy"
                )
            leaves, structure = flatten(self._parts(now))
            position = self.first + self._positions[id(copy)]
            found.append(Refill(position, structure, tuple(leaves)))
        return found

    def referring(self, value: Any) -> Any:
        """``value`` with a ``CallersContainer`` for each container that is the caller's."""
        position = self._positions.get(id(value))
        if position is None:
            return self._parts(value)
        return CallersContainer(self.first + position)

    def _parts(self, value: Any) -> Any:
        if type(value) in (list, tuple):
            return type(value)([self.referring(v) for v in value])
        if type(value) is dict:
            return {key: self.referring(v) for key, v in value.items()}
        return value


def refill(container: Any, content: Any) -> None:
    """Let a container hold what ``content`` does, and nothing else."""
    if isinstance(container, list):
        container[:] = content
    elif isinstance(container, dict):
        container.clear()
        container.update(content)
    else:
        for name, value in content.items():
            object.__setattr__(container, name, value)
        for name in [n for n in _content(container) if n not in content]:
            object.__delattr__(container, name)
