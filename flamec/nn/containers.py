"""Modules that hold other modules or parameters, and the reshaping modules."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

from flamec.nn.module import Module, indented
from flamec.nn.parameter import Parameter
from flamec.tensor import Tensor

__all__ = [
    "Flatten",
    "Identity",
    "ModuleDict",
    "ModuleList",
    "ParameterDict",
    "ParameterList",
    "Sequential",
    "Unflatten",
]


def _position(name: str, index: Any, length: int) -> int:
    """A position from 0 to length - 1; IndexError outside."""
    position = operator.index(index)
    if not -length <= position < length:
        raise IndexError(f"{name}: index {position} is out of range for {length} entries")
    return position % length


def _held(container: Module) -> dict[str, Module]:
    """The modules of a container, in which no name is reserved for one to come."""
    held: dict[str, Any] = container._modules
    return held


class _NumberedModules(Module):
    """Submodules named "0", "1" …: what Sequential and ModuleList share."""

    def _entries(self) -> list[Module]:
        return list(_held(self).values())

    def _renumber(self, modules: Iterable[Module]) -> None:
        entries = list(modules)
        self._modules.clear()
        for position, module in enumerate(entries):
            self.add_module(str(position), module)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._entries())

    def __contains__(self, module: object) -> bool:
        return any(m is module for m in self._entries())

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self._sliced(index)
        return self._entries()[_position(type(self).__name__, index, len(self))]

    def _sliced(self, index: slice) -> Module:
        raise NotImplementedError

    def _key(self, index: int) -> str:
        return list(self._modules)[_position(type(self).__name__, index, len(self))]

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._key(index), module)

    def __delitem__(self, index: int | slice) -> None:
        doomed = list(self._modules)[index] if isinstance(index, slice) else [self._key(index)]
        for key in doomed:
            del self._modules[key]
        if all(key.isdigit() for key in self._modules):
            self._renumber(self._entries())

    def append(self, module: Module) -> Any:
        """Add a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add modules at the end."""
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Add a module before position ``index``."""
        if not isinstance(module, Module):
            raise AssertionError(f"module should be of type {Module}")
        entries = self._entries()
        entries.insert(index, module)
        self._renumber(entries)
        return self

    def pop(self, index: int | slice = -1) -> Any:
        """Remove and return a module."""
        module = self[index]
        del self[index]
        return module


class Sequential(_NumberedModules):
    """Modules called one after the other; also from an OrderedDict of names."""

    def __init__(self, *args: Module | Mapping[str, Module]) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], Mapping):
            named: Mapping[str, Any] = args[0]
        else:
            named = {str(i): m for i, m in enumerate(args)}
        for name, module in named.items():
            self.add_module(name, module)

    def _sliced(self, index: slice) -> Module:
        kept: list[tuple[str, Any]] = list(self._modules.items())[index]
        return type(self)(OrderedDict(kept))

    def __add__(self, other: Sequential) -> Sequential:
        return Sequential(*self, *_layers(other))

    def __iadd__(self, other: Sequential) -> Sequential:
        self.extend(_layers(other))
        return self

    def __mul__(self, count: int) -> Sequential:
        """The same modules (not copies) ``count`` times."""
        return Sequential(*self._entries() * _repetitions(count))

    __rmul__ = __mul__

    def __imul__(self, count: int) -> Sequential:
        self.extend(self._entries() * (_repetitions(count) - 1))
        return self

    def forward(self, input: Any) -> Any:
        for module in _held(self).values():
            input = module(input)
        return input


def _layers(other: Any) -> list[Module]:
    if not isinstance(other, Sequential):
        raise ValueError(f"only a Sequential can be added to a Sequential, not {type(other)}")
    return other._entries()


def _repetitions(count: Any) -> int:
    if not isinstance(count, int):
        raise TypeError(f"unsupported operand type(s) for *: {Sequential} and {type(count)}")
    if count <= 0:
        raise ValueError(f"Non-positive multiplication factor {count} for {Sequential}")
    return count


class ModuleList(_NumberedModules):
    """A list of modules, registered so that their parameters are found."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        self.extend(modules or ())

    def _sliced(self, index: slice) -> Module:
        return type(self)(self._entries()[index])

    def __iadd__(self, modules: Iterable[Module]) -> ModuleList:
        self.extend(modules)
        return self

    def __repr__(self) -> str:
        """As PyTorch's: equal neighbours on one line."""
        runs: list[tuple[int, int, str]] = []
        for position, text in enumerate(map(repr, self)):
            if runs and runs[-1][2] == text:
                runs[-1] = (runs[-1][0], position, text)
            else:
                runs.append((position, position, text))
        lines = [
            f"({first}): {text}"
            if first == last
            else f"({first}-{last}): {last - first + 1} x {text}"
            for first, last, text in runs
        ]
        if not lines:
            return f"{self._get_name()}()"
        return f"{self._get_name()}(\n  " + "\n  ".join(map(indented, lines)) + "\n)"

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *other])


class ModuleDict(Module):
    """A dictionary of modules, registered so that their parameters are found."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def __getitem__(self, key: str) -> Module:
        return _held(self)[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: object) -> bool:
        return key in self._modules

    def clear(self) -> None:
        """Remove all modules."""
        self._modules.clear()

    def pop(self, key: str) -> Module:
        """Remove and return a module."""
        return _held(self).pop(key)

    def keys(self) -> Iterable[str]:
        return self._modules.keys()

    def items(self) -> Iterable[tuple[str, Module]]:
        return _held(self).items()

    def values(self) -> Iterable[Module]:
        return _held(self).values()

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add or replace modules."""
        for key, module in modules.items() if isinstance(modules, Mapping) else modules:
            self[key] = module


def _as_parameter(value: Any) -> Any:
    """Tensors become parameters, as PyTorch's parameter containers make them."""
    if isinstance(value, Tensor) and not isinstance(value, Parameter):
        return Parameter(value)
    return value


class ParameterList(Module):
    """A list of parameters; tensors are made parameters, other values are kept."""

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        self.extend(values or ())

    def _name_of(self, index: int) -> str:
        return str(_position("ParameterList", index, len(self)))

    @overload
    def __getitem__(self, index: slice) -> ParameterList: ...
    @overload
    def __getitem__(self, index: int) -> Any: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)([self[i] for i in range(*index.indices(len(self)))])
        return getattr(self, self._name_of(index))

    def __setitem__(self, index: int, value: Any) -> None:
        setattr(self, self._name_of(index), _as_parameter(value))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return iter(self[i] for i in range(len(self)))

    def __iadd__(self, values: Iterable[Any]) -> ParameterList:
        return self.extend(values)

    def append(self, value: Any) -> ParameterList:
        """Add a parameter at the end."""
        self._size += 1
        self[self._size - 1] = value
        return self

    def extend(self, values: Iterable[Any]) -> ParameterList:
        """Add parameters at the end."""
        for value in values:
            self.append(value)
        return self

    def extra_repr(self) -> str:
        return "\n".join(f"  ({i}): {_described(v, 'dtype')}" for i, v in enumerate(self))


class ParameterDict(Module):
    """A dictionary of parameters; tensors are made parameters, other values are kept.

    Its order is that of insertion, and, as in PyTorch, that of the sorted keys for what comes from
    a plain ``dict``: so a checkpoint's parameters have the same numbers in both.
    """

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        self._keys: dict[str, None] = {}
        self.update(() if parameters is None else parameters)

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            raise KeyError(key)
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        self._keys[key] = None
        setattr(self, key, _as_parameter(value))

    def __delitem__(self, key: str) -> None:
        del self._keys[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def keys(self) -> Iterable[str]:
        return self._keys.keys()

    def values(self) -> Iterable[Any]:
        return [self[k] for k in self._keys]

    def items(self) -> Iterable[tuple[str, Any]]:
        return [(k, self[k]) for k in self._keys]

    def get(self, key: str, default: Any = None) -> Any:
        """The entry, or ``default`` where there is none."""
        return self[key] if key in self._keys else default

    def pop(self, key: str) -> Any:
        """Remove and return an entry."""
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Remove and return the entry that was added last."""
        key = next(reversed(self._keys), None)
        if key is None:
            raise KeyError("popitem(): the ParameterDict is empty")
        return key, self.pop(key)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The entry, which becomes ``default`` where there is none."""
        if key not in self._keys:
            self[key] = default
        return self[key]

    def clear(self) -> None:
        """Remove all entries."""
        for key in list(self._keys):
            del self[key]

    def copy(self) -> ParameterDict:
        """Another dictionary of the same parameters."""
        return ParameterDict(self.items())

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> ParameterDict:
        """A new dictionary with these keys, each with ``default``."""
        return ParameterDict((key, default) for key in keys)

    def update(self, parameters: Any) -> None:
        """Add or replace entries from a mapping or pairs; those of a plain mapping in the order of
        its sorted keys."""
        if isinstance(parameters, (OrderedDict, ParameterDict)):
            entries = list(parameters.items())
        elif isinstance(parameters, Mapping):
            entries = sorted(parameters.items(), key=operator.itemgetter(0))
        else:
            entries = list(parameters)
        for key, value in entries:
            self[key] = value

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._keys)

    def __or__(self, other: Any) -> ParameterDict:
        both = self.copy()
        both.update(other)
        return both

    def __ior__(self, other: Any) -> ParameterDict:
        self.update(other)
        return self

    def extra_repr(self) -> str:
        return "\n".join(f"  ({k}): {_described(v, 'type')}" for k, v in self.items())


def _described(value: Any, by: str) -> str:
    """PyTorch's lists of parameters name the ``dtype``, dictionaries the ``type``."""
    if not isinstance(value, Tensor):
        return f"Object of type: {type(value).__name__}"
    kind = "Parameter" if isinstance(value, Parameter) else "Tensor"
    sizes = "x".join(str(d) for d in value.shape)
    what = value.type() if by == "type" else value.dtype
    return f"{kind} containing: [{what} of size {sizes}]"


class Identity(Module):
    """Returns its argument; accepts and ignores any constructor arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return input


class Flatten(Module):
    """Dimensions ``start_dim`` to ``end_dim`` made one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Tensor) -> Tensor:
        return input.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Dimension ``dim`` split into ``unflattened_size``."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        if not isinstance(dim, int):
            raise TypeError("Unflatten: dim must be an int; named dimensions do not exist here")
        if not all(isinstance(size, int) for size in unflattened_size):
            raise TypeError(f"unflattened_size must be a tuple of ints, got {unflattened_size!r}")
        self.dim = dim
        self.unflattened_size = tuple(unflattened_size)

    def forward(self, input: Tensor) -> Tensor:
        return input.unflatten(self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
