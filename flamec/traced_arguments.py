"""The names of the arguments of a traced call, one for each leaf."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from flamec.structures import Structure


def argument_labels(function: Callable[..., Any], structure: Structure) -> Iterator[str]:
    """A readable name for each argument leaf."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    names = list(code.co_varnames[: code.co_argcount]) if code is not None else []
    if hasattr(function, "__func__"):
        names = names[1:]
    positional, keyword = structure.children
    for position, child in enumerate(positional.children):
        label = names[position] if position < len(names) else f"arg{position}"
        yield from _child_labels(child, label)
    for key, child in zip(keyword.keys, keyword.children, strict=True):
        yield from _child_labels(child, str(key))


def _child_labels(structure: Structure, label: str) -> Iterator[str]:
    if structure.kind is None:
        yield label
        return
    keys = structure.keys or range(len(structure.children))
    for key, child in zip(keys, structure.children, strict=True):
        yield from _child_labels(child, f"{label}_{key}")
