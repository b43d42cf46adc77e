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
    kind = type(value)
    if kind in (list, tuple) or is_namedtuple(value):
        return Structure(kind, (), tuple(_flatten(v, leaves) for v in value))
    if kind in (dict, OrderedDict):
        return Structure(kind, tuple(value), tuple(_flatten(v, leaves) for v in value.values()))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = tuple(f.name for f in dataclasses.fields(value))
        children = tuple(_flatten(getattr(value, n), leaves) for n in names)
        return Structure(kind, names, children)
    leaves.append(value)
    return LEAF


def is_container(value: Any) -> bool:
    """Whether a value is no leaf."""
    kind = type(value)
    if kind in (list, tuple, dict, OrderedDict) or is_namedtuple(value):
        return True
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def parts(value: Any) -> tuple[Structure, list[Any]]:
    """What a container is, without structures of its parts, and these."""
    if isinstance(value, (list, tuple)):
        return Structure(type(value)), list(value)
    if isinstance(value, dict):
        return Structure(type(value), tuple(value)), list(value.values())
    names = tuple(f.name for f in dataclasses.fields(value))
    return Structure(type(value), names), [getattr(value, n) for n in names]


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
