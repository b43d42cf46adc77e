"""What ``export(dynamic=...)`` says of the arguments: which sizes and numbers vary, and how.

In: the example arguments and the user's words. Out: ``Varying``: symbols for sizes, leaves that are
numbers, and what is declared of both. Invariant: the examples keep to what is declared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flamec.deployment.dim import DerivedDim, Dim, DimHint
from flamec.ir.shape import Dim as Size
from flamec.ir.shape import floordiv
from flamec.structures import flatten
from flamec.tensor import Tensor
from flamec.traced_arguments import Dynamic

Said = Any  # of a tensor's axes, of a number its name or Dim, of a container the same of its parts
DynamicArguments = Mapping[str | int, Said] | Sequence[Said]


@dataclass
class Varying:
    """``sizes``: as ``Dynamic.sizes``; ``symbols``: by the user's names, which may be no
    identifiers; ``numbers``: what numbers are called, by leaf; ``declared`` and ``examples``: by
    name, of all that is whole; ``derived``: sizes that follow from others, by name, which need not
    be sizes of arguments; ``roots``: what those are in the trace."""

    sizes: dict[tuple[int, int], tuple[str, int]] = field(default_factory=dict)
    symbols: dict[str, str] = field(default_factory=dict)
    numbers: dict[int, str] = field(default_factory=dict)
    declared: dict[str, Dim] = field(default_factory=dict)
    examples: dict[str, int] = field(default_factory=dict)
    unnamed: dict[str, str] = field(default_factory=dict)  # sizes without a name: what they are
    automatic: set[str] = field(default_factory=set)  # those of them that need not vary
    derived: dict[str, DerivedDim] = field(default_factory=dict)
    roots: dict[str, int] = field(default_factory=dict)

    @property
    def dynamic(self) -> Dynamic:
        bounds = {symbol: self.declared[name].bounds for name, symbol in self.symbols.items()}
        dynamic = Dynamic(self.sizes, frozenset(self.numbers), bounds, one_program=True)
        dynamic.equal = tuple(self._relations(dynamic))
        return dynamic

    def _relations(self, dynamic: Dynamic) -> Iterator[tuple[Size, Size]]:
        """Sizes that are equal because they follow from one root."""
        first: dict[str, DerivedDim] = {}
        for name, dim in self.derived.items():
            root, size = dim.root.name, dynamic.size(self.symbols[name])
            if root in self.symbols:
                yield size, dim.factor * dynamic.size(self.symbols[root]) + dim.offset
            elif root in first:
                known = dynamic.size(self.symbols[first[root].name])
                left = first[root].factor * (size - dim.offset)
                yield left, dim.factor * (known - first[root].offset)
            else:
                first[root] = dim
                if dim.offset and dim.factor > 1:
                    product = size - dim.offset
                    yield dim.factor * floordiv(product, dim.factor), product

    @property
    def names(self) -> list[str]:
        """Of all whole numbers that follow from no others: sizes first."""
        sizes = [self.derived[n].root.name if n in self.derived else n for n in self.symbols]
        numbers = [name for name in self.numbers.values() if name in self.declared]
        return [*dict.fromkeys(sizes), *numbers]

    def bindings(self, named: Mapping[str, int]) -> dict[str, int]:
        """The values of the symbols of sizes."""
        named = {**named, **{n: d.of(named[d.root.name]) for n, d in self.derived.items()}}
        return {s: named[n] // self.declared[n].multiple_of for n, s in self.symbols.items()}

    def without(self, symbols: Collection[str]) -> Varying:
        """The same, but for sizes that do not vary."""
        names = {name: symbol for name, symbol in self.symbols.items() if symbol not in symbols}
        sizes = {place: size for place, size in self.sizes.items() if size[0] not in symbols}
        return replace(self, sizes=sizes, symbols=names)


def varying(arguments: tuple[Any, ...], names: list[str], dynamic: DynamicArguments) -> Varying:
    """What ``dynamic`` says. ValueError for what the arguments do not have or are not like."""
    found = Varying()
    first = [0]
    for argument in arguments:
        first.append(first[-1] + len(flatten(argument)[0]))
    if not isinstance(dynamic, Mapping):
        if len(dynamic) > len(arguments):
            raise ValueError(
                f"export: dynamic is a {type(dynamic).__name__} of {len(dynamic)}; there are "
                f"{len(arguments)} arguments, {', '.join(names)}"
            )
        dynamic = dict(enumerate(dynamic))
    for key, said in dynamic.items():
        position = names.index(key) if isinstance(key, str) and key in names else key
        if not isinstance(position, int) or not 0 <= position < len(arguments):
            raise ValueError(
                f"export: dynamic names the argument {key!r}; there are {', '.join(names)}"
            )
        if said is not None:
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


def _add_sizes(found: Varying, value: Tensor, said: Said, leaf: int, path: str, name: str) -> None:
    for axis, called in _axes(value, said, name).items():
        if not isinstance(axis, int) or not -value.ndim <= axis < value.ndim:
            raise ValueError(f"export: {name} has {value.ndim} axes, dynamic names {axis!r}")
        size: Any = value.shape[axis]
        what = f"axis {axis} of {name}"
        if isinstance(called, int) and called != size:
            raise ValueError(f"export: {what} is {size} in the example, dynamic says {called}")
        if called is None or called is Dim.STATIC or isinstance(called, int):
            continue
        if isinstance(called, DimHint):
            own = f"{path}.{axis}"
            found.unnamed[own] = what
            found.automatic |= {own} if called is Dim.AUTO else set()
            called = own
        if isinstance(called, DerivedDim):
            dim, root = _derive(found, called, size, what)
        else:
            dim, root = _declare(found, called, size, what), None
        if dim.name in found.numbers.values():
            raise ValueError(f"export: {dim.name!r} is the name of a number and of a size")
        _same_example(found, dim.name, size)
        symbol = found.symbols.setdefault(dim.name, f"s{len(found.symbols)}")
        count = len(found.symbols)
        if root is None:
            example = found.roots.setdefault(dim.name, _example(dim, size, count))
        else:
            example = root.of(
                found.roots.setdefault(
                    root.root.name, _example(root.root, root.root_of(size), count)
                )
            )
        found.sizes[leaf, axis % value.ndim] = symbol, example


def _axes(value: Tensor, said: Said, name: str) -> Mapping[int, Any]:
    """What is said of each axis: of axes by their numbers that they vary, of all, or of some."""
    if isinstance(said, Mapping):
        return said
    if isinstance(said, DimHint):
        return dict.fromkeys(range(value.ndim), said)
    if isinstance(said, (str, Dim, DerivedDim)) or not isinstance(said, Iterable):
        raise ValueError(f"export: dynamic names no axes of {name}, a tensor, but {said!r}")
    parts = list(said)
    if all(isinstance(axis, int) for axis in parts):
        return dict.fromkeys(parts, Dim.DYNAMIC)
    if len(parts) != value.ndim:
        raise ValueError(
            f"export: {name} has {value.ndim} axes, dynamic says of {len(parts)} {said!r}"
        )
    return dict(enumerate(parts))


def _derive(found: Varying, dim: DerivedDim, size: int, what: str) -> tuple[Dim, DerivedDim]:
    """Note a size that follows from another, which the example gives if nothing else has."""
    try:
        root = dim.root_of(size)
    except ValueError as error:
        raise ValueError(f"export: {what} is {error}") from None
    _declare(found, dim.root, root, f"{dim.root.name}, by {what},")
    _same_example(found, dim.root.name, root)
    found.derived[dim.name] = dim
    return _declare(found, dim.declared(), size, what), dim


def _same_example(found: Varying, name: str, size: int) -> None:
    if found.examples.setdefault(name, size) != size:
        raise ValueError(
            f"export: the sizes named {name!r} are {found.examples[name]} and {size} "
            "in the examples"
        )


def _example(dim: Dim, size: int, count: int) -> int:
    """A size that is allowed, and larger than 1 times the number that it is a multiple of: sizes
    might be told apart by that."""
    if size // dim.multiple_of > 1:
        return size
    first, last = dim.bounds.of_symbol()
    example = max(2 + count, first)
    return size if last is not None and example > last else example * dim.multiple_of


def _add_number(found: Varying, value: Any, said: Any, leaf: int, name: str) -> None:
    if said is Dim.STATIC:
        return
    if isinstance(said, DimHint):
        said = name
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
