"""Which of PyTorch's names there are: the list in ``tier1.txt`` against this package.

In: the list, by family and place. Out: for each name the object, or that it is missing.
``tests/parity/test_surface_parity.py`` holds the list to PyTorch and the objects to the list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["Name", "families", "find", "is_present", "names"]

_MISSING = object()


@dataclass(frozen=True)
class Name:
    """``name`` in ``place``, a module or class below the package (``flamec`` is the package)."""

    family: str
    place: str
    name: str

    def __str__(self) -> str:
        return self.name if self.place == "flamec" else f"{self.place}.{self.name}"


@cache
def names() -> tuple[Name, ...]:
    """The list, in the order of its file."""
    return tuple(_parse((Path(__file__).parent / "tier1.txt").read_text()))


def _parse(text: str) -> Iterator[Name]:
    family = place = ""
    for line in text.splitlines():
        if line.startswith("#") or not line:
            continue
        if line.startswith("["):
            family = line.strip("[]")
            continue
        if not line.startswith(" "):
            place, _, line = line.partition(": ")
        for name in line.split():
            yield Name(family, place, name)


def families() -> dict[str, tuple[Name, ...]]:
    """The names of each family."""
    result: dict[str, list[Name]] = {}
    for name in names():
        result.setdefault(name.family, []).append(name)
    return {family: tuple(members) for family, members in result.items()}


def find(name: Name, package: str = "flamec") -> Any:
    """The object that ``package`` has under the name. Raises LookupError if there is none."""
    owner: Any = import_module(package)
    parts = [] if name.place == "flamec" else name.place.split(".")
    for part in (*parts, name.name):
        found = getattr(owner, part, _MISSING)
        if found is _MISSING and hasattr(owner, "__path__"):
            found = _submodule(f"{owner.__name__}.{part}")
        if found is _MISSING:
            raise LookupError(f"{package} has no {name}")
        owner = found
    return owner


def _submodule(path: str) -> Any:
    try:
        return import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        return _MISSING


def is_present(name: Name) -> bool:
    """Whether the package has the name."""
    try:
        find(name)
    except LookupError:
        return False
    return True
