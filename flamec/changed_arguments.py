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
from operator import is_
from typing import TYPE_CHECKING, Any

from flamec.structures import Structure, access_paths, children_of, flatten, parts, rebuild

if TYPE_CHECKING:
    from flamec.host_state import HostState


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


class OwnContainer:
    """A part of a new content, or of a result: this very container, as it stands."""

    def __init__(self, container: Any) -> None:
        self.container = container


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


def firsts(found: list[Any]) -> tuple[int, ...]:
    """For each object the position of the first that is the same."""
    identities = list(map(id, found))
    return tuple(map(identities.index, identities))


def _containers(structure: Structure, value: Any) -> Iterator[Any]:
    if can_change(structure):
        yield value
    for child, part in children_of(structure, value):
        yield from _containers(child, part)


def copied(
    structure: Structure, leaves: Iterator[Any], value: Any, known: dict[int, Any] | None = None
) -> Any:
    """As ``unflatten``: the arguments ``value`` with other ``leaves``. A container that is there
    several times has one copy."""
    if structure.kind is None:
        return next(leaves)
    known = {} if known is None else known
    parts = [copied(child, leaves, part, known) for child, part in children_of(structure, value)]
    copy = rebuild(structure, parts)
    return known.setdefault(id(value), copy) if can_change(structure) else copy


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

    ``shared``: containers that a copy is not the same as (``shared_results.py``), by id.
    ``first``: the position of the first container behind the leaves, to be set after the function.
    """

    first = 0
    shared: frozenset[int] = frozenset()

    def __init__(self, structure: Structure, copies: tuple[Any, Any], host: HostState) -> None:
        self._host = host
        found = containers(structure, copies)
        self._before = {id(copy): (copy, _content(copy)) for copy in found}
        self._positions = {id(copy): i for i, copy in enumerate(found)}
        self.count = len(found)

    def refills(self) -> list[Refill]:
        """What the function has changed."""
        found = []
        for copy, before in self._before.values():
            now = _content(copy)
            if _is_same(before, now):
                continue
            leaves, structure = flatten(self._parts(now))
            position = self.first + self._positions[id(copy)]
            found.append(Refill(position, structure, tuple(leaves)))
        return found

    def is_known(self, identity: int) -> bool:
        """Whether a container is the caller's, or is or stands for one of Python's state, by id."""
        is_tracer = any(identity == id(tracer) for tracer in self._host.ignored)
        return is_tracer or identity in self._positions or self._host.is_old(identity)

    def referring(self, value: Any) -> Any:
        """``value`` with a ``CallersContainer`` for each container that is the caller's, and an
        ``OwnContainer`` for each that was there before the trace or is shared."""
        position = self._positions.get(id(value))
        if position is not None:
            return CallersContainer(self.first + position)
        return self._parts(value)

    def _parts(self, value: Any) -> Any:
        found = parts(value)
        if found is None:
            return value
        is_old = self._host.is_old(id(value)) and not isinstance(value, tuple)
        if is_old or id(value) in self.shared:
            return OwnContainer(value)
        keys, before = found
        now = [self.referring(part) for part in before]
        if all(map(is_, now, before)):
            return value
        return rebuild(Structure(type(value), keys), now)


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
