"""What ``export(dynamic=...)`` says of the arguments: which sizes and numbers vary, and how.

In: the example arguments and the user's words. Out: ``Varying``: symbols for sizes, leaves that are
numbers, and what is declared of both. Invariant: the examples keep to what is declared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flamec.size_bounds import SizeBounds
from flamec.structures import flatten
from flamec.tensor import Tensor
from flamec.traced_arguments import Dynamic


@dataclass(frozen=True)
class Dim:
    """A size, or a whole number, that varies from call to call of an exported program.

    ``name``: sizes of one name are equal. ``min``, ``max`` (both included; sizes are at least 0)
    and ``multiple_of`` are checked at each call: branches that they decide for sizes are no
    condition of the program, and its kernels may rely on them. As ``torch.export.Dim``.
    """

    name: str
    min: int | None = None
    max: int | None = None
    multiple_of: int = 1

    def __post_init__(self) -> None:
        none = self.min is not None and self.max is not None and self.max < self.min
        if (
            self.multiple_of < 1
            or none
            or (self.max is not None and self.multiple_of > 1 > self.max)
        ):
            raise ValueError(f"Dim: no number is {self}")

    def allows(self, number: int) -> bool:
        above = self.min is None or self.min <= number
        return above and (self.max is None or number <= self.max) and not number % self.multiple_of

    @property
    def bounds(self) -> SizeBounds:
        """Those of a size."""
        return SizeBounds(max(self.min or 0, 0), self.max, self.multiple_of)

    def __str__(self) -> str:
        parts = [] if self.min is None else [f"at least {self.min}"]
        parts += [] if self.max is None else [f"at most {self.max}"]
        parts += [] if self.multiple_of == 1 else [f"a multiple of {self.multiple_of}"]
        return " and ".join(parts) or "any number"


Axes = Iterable[int] | Mapping[int, str | Dim]
Said = Any  # Axes of a tensor, a name or Dim of a number, and of a container the same of its parts
DynamicArguments = Mapping[str | int, Said]


@dataclass
class Varying:
    """``sizes``: as ``Dynamic.sizes``; ``symbols``: by the user's names, which may be no
    identifiers; ``numbers``: what numbers are called, by leaf; ``declared`` and ``examples``: by
    name, of all that is whole."""

    sizes: dict[tuple[int, int], tuple[str, int]] = field(default_factory=dict)
    symbols: dict[str, str] = field(default_factory=dict)
    numbers: dict[int, str] = field(default_factory=dict)
    declared: dict[str, Dim] = field(default_factory=dict)
    examples: dict[str, int] = field(default_factory=dict)
    unnamed: set[str] = field(default_factory=set)  # sizes that the user gave no name

    @property
    def dynamic(self) -> Dynamic:
        bounds = {symbol: self.declared[name].bounds for name, symbol in self.symbols.items()}
        return Dynamic(self.sizes, frozenset(self.numbers), bounds, one_program=True)

    @property
    def names(self) -> list[str]:
        """Of all that is a whole number: sizes first."""
        numbers = [name for name in self.numbers.values() if name in self.declared]
        return [*self.symbols, *numbers]

    def bindings(self, named: Mapping[str, int]) -> dict[str, int]:
        """The values of the symbols of sizes."""
        return {s: named[n] // self.declared[n].multiple_of for n, s in self.symbols.items()}


def varying(arguments: tuple[Any, ...], names: list[str], dynamic: DynamicArguments) -> Varying:
    """What ``dynamic`` says. ValueError for what the arguments do not have or are not like."""
    found = Varying()
    first = [0]
    for argument in arguments:
        first.append(first[-1] + len(flatten(argument)[0]))
    for key, said in dynamic.items():
        position = names.index(key) if isinstance(key, str) and key in names else key
        if not isinstance(position, int) or not 0 <= position < len(arguments):
            raise ValueError(
                f"export: dynamic names the argument {key!r}; there are {', '.join(names)}"
            )
        _add(found, arguments[position], said, first[position], str(position), names[position])
    return found


def _add(found: Varying, value: Any, said: Said, leaf: int, path: str, name: str) -> None:
    """What is said of one argument, or of what is at ``path`` in it."""
    if isinstance(value, Tensor):
        _add_sizes(found, value, said, leaf, path, name)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        _add_number(found, value, said, leaf, name)
    elif isinstance(value, (list, tuple, dict)):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if isinstance(said, (list, tuple)) and not isinstance(value, dict):
            said = dict(enumerate(said))
        if not isinstance(said, Mapping) or not set(said) <= set(keys):
            raise ValueError(
                f"export: {name} is a {type(value).__name__} of {', '.join(map(repr, keys))}; "
                f"dynamic says of it {said!r}"
            )
        for key in keys:
            if said.get(key) is not None:
                _add(found, value[key], said[key], leaf, f"{path}.{key}", f"{name}[{key!r}]")
            leaf += len(flatten(value[key])[0])
    else:
        raise ValueError(
            f"export: dynamic names {name}, which is a {type(value).__name__}: what varies are "
            "sizes of tensors, and numbers"
        )


def _add_sizes(found: Varying, value: Tensor, said: Axes, leaf: int, path: str, name: str) -> None:
    if isinstance(said, (str, Dim)):
        raise ValueError(f"export: dynamic names no axes of {name}, a tensor, but {said!r}")
    named = said if isinstance(said, Mapping) else {axis: f"{path}.{axis}" for axis in said}
    if named is not said:
        found.unnamed |= {f"{path}.{axis}" for axis in named}
    for axis, called in named.items():
        if not isinstance(axis, int) or not -value.ndim <= axis < value.ndim:
            raise ValueError(f"export: {name} has {value.ndim} axes, dynamic names {axis!r}")
        size: Any = value.shape[axis]
        dim = _declare(found, called, size, f"axis {axis} of {name}")
        if dim.name in found.numbers.values():
            raise ValueError(f"export: {dim.name!r} is the name of a number and of a size")
        if found.examples.setdefault(dim.name, size) != size:
            raise ValueError(
                f"export: the sizes named {dim.name!r} are {found.examples[dim.name]} and {size} "
                "in the examples"
            )
        symbol = found.symbols.setdefault(dim.name, f"s{len(found.symbols)}")
        found.sizes[leaf, axis % value.ndim] = symbol, _example(dim, size, len(found.symbols))


def _example(dim: Dim, size: int, count: int) -> int:
    """A size that is allowed, and larger than 1 times the number that it is a multiple of: sizes
    might be told apart by that."""
    if size // dim.multiple_of > 1:
        return size
    first, last = dim.bounds.of_symbol()
    example = max(2 + count, first)
    return size if last is not None and example > last else example * dim.multiple_of


def _add_number(found: Varying, value: Any, said: Any, leaf: int, name: str) -> None:
    if not isinstance(said, (str, Dim)):
        raise ValueError(
            f"export: {name} is a number; dynamic gives it a name or a flamec.Dim, not {said!r}"
        )
    called = said if isinstance(said, str) else said.name
    if called in found.symbols or called in found.numbers.values():
        raise ValueError(f"export: {called!r} is the name of {name} and of something else")
    if isinstance(value, int):
        _declare(found, said, value, name)
    elif isinstance(said, Dim):
        raise ValueError(f"export: {name} is a float, of which a Dim says nothing; give its name")
    if isinstance(value, int):
        found.examples[called] = value
    found.numbers[leaf] = called


def _declare(found: Varying, called: str | Dim, example: int, what: str) -> Dim:
    dim = called if isinstance(called, Dim) else Dim(called)
    if not isinstance(dim.name, str):
        raise ValueError(f"export: the name of {what} is {dim.name!r}, which is no text")
    known = found.declared.get(dim.name)
    if isinstance(called, str) and known is not None:
        dim = known
    elif known not in (None, dim, Dim(dim.name)):
        raise ValueError(f"export: {dim.name!r} is {known}, and {dim}")
    if not dim.allows(example):
        raise ValueError(f"export: {what} is {example} in the example, not {dim}")
    found.declared[dim.name] = dim
    return dim
