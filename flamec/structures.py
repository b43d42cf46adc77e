"""Nested Python structures of tensors: lists, tuples, dicts, dataclasses.

``flatten`` gives the leaves and a ``Structure`` that puts leaves back together.
Everything that is not one of these containers is a leaf.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Structure:
    """``kind``: the container's class, or None for a leaf; ``keys``: dict keys or field names."""

    kind: type | None
    keys: tuple[Any, ...] = ()
    children: tuple[Structure, ...] = ()

    @property
    def leaf_count(self) -> int:
        return 1 if self.kind is None else sum(c.leaf_count for c in self.children)


LEAF = Structure(None)


def is_namedtuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(type(value), "_fields")


def flatten(value: Any) -> tuple[list[Any], Structure]:
    """The leaves of ``value`` in order, and the structure that holds them."""
    leaves: list[Any] = []
    return leaves, _flatten(value, leaves)


def _flatten(value: Any, leaves: list[Any]) -> Structure:
    found = parts(value)
    if found is None:
        leaves.append(value)
        return LEAF
    keys, held = found
    return Structure(type(value), keys, tuple([_flatten(part, leaves) for part in held]))


def parts(value: Any) -> tuple[tuple[Any, ...], list[Any]] | None:
    """The keys or field names of a container, and what it holds; None of a leaf."""
    kind = type(value)
    if kind in (list, tuple) or is_namedtuple(value):
        return (), list(value)
    if kind in (dict, OrderedDict):
        return tuple(value), list(value.values())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = tuple(f.name for f in dataclasses.fields(value))
        return names, [getattr(value, name) for name in names]
    return None


def children_of(structure: Structure, value: Any) -> Iterator[tuple[Structure, Any]]:
    """The parts of a container of this structure, each with its own."""
    if structure.kind is not None:
        found = parts(value)
        assert found is not None
        yield from zip(structure.children, found[1], strict=True)


def leaves_of(structure: Structure, value: Any) -> Iterator[Any]:
    """The leaves of a value of this structure, of whose leaves some may be containers."""
    if structure.kind is None:
        yield value
    for child, part in children_of(structure, value):
        yield from leaves_of(child, part)


def unflatten(structure: Structure, leaves: Iterator[Any]) -> Any:
    """The inverse of ``flatten``."""
    kind = structure.kind
    if kind is None:
        return next(leaves)
    return rebuild(structure, [unflatten(c, leaves) for c in structure.children])


def rebuild(structure: Structure, children: list[Any]) -> Any:
    """The container that ``structure`` describes, with these parts."""
    kind = structure.kind
    assert kind is not None
    if kind is list:
        return children
    if kind is tuple:
        return tuple(children)
    if issubclass(kind, dict):
        return kind(zip(structure.keys, children, strict=True))
    if issubclass(kind, tuple):
        return kind(*children)
    result = object.__new__(kind)
    for name, child in zip(structure.keys, children, strict=True):
        object.__setattr__(result, name, child)
    return result


def access_paths(structure: Structure, root: str) -> Iterator[tuple[str, Structure]]:
    """Python expressions that reach every container and leaf, outermost first."""
    yield root, structure
    kind = structure.kind
    if kind is None:
        return
    for position, child in enumerate(structure.children):
        if issubclass(kind, dict):
            step = f"[{structure.keys[position]!r}]"
        elif issubclass(kind, (list, tuple)):
            step = f"[{position}]"
        else:
            step = f".{structure.keys[position]}"
        yield from access_paths(child, root + step)


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """``value`` with ``function`` applied to each leaf."""
    leaves, structure = flatten(value)
    return unflatten(structure, iter([function(leaf) for leaf in leaves]))
