"""Arguments of a traced call: their names, and whether the function changed their containers.

In: a function and the structure of its arguments. Out: a name for each leaf, and a warning where a
list, dict or dataclass among them is not what it was: the function has copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flamec.errors import warn_user
from flamec.structures import Structure, flatten


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


def warn_of_changed_containers(
    name: str, structure: Structure, proxies: Sequence[Any], arguments: tuple[Any, Any]
) -> None:
    """Warn of a list, dict or dataclass among the arguments that the function has changed."""
    leaves, found = flatten(arguments)
    if found == structure and all(a is b for a, b in zip(leaves, proxies, strict=True)):
        return
    warn_user(
        f"{name} changes a list, dict or dataclass among its arguments. A compiled function is "
        "given copies of them, so the caller's stay as they were: return what has changed.",
        RuntimeWarning,
    )
