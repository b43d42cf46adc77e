"""A module's state: parameters and persistent buffers by path, saved and loaded.

The layout is PyTorch's: for each module its parameters, then its persistent
buffers, then its submodules in the order of registration.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from flamec.conversion import on_device
from flamec.dispatch import write
from flamec.functional.primitives import ops
from flamec.ir.shape import format_shape
from flamec.nn.hooks import HookedModule
from flamec.nn.parameter import Parameter
from flamec.state import no_grad
from flamec.tensor import Tensor

if TYPE_CHECKING:
    from flamec.nn.module import Module

__all__ = ["IncompatibleKeys", "ModuleWithState"]


class IncompatibleKeys(NamedTuple):
    """What ``load_state_dict`` did not find, and what it had no use for."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return (
            f"_IncompatibleKeys(missing_keys={self.missing_keys}, "
            f"unexpected_keys={self.unexpected_keys})"
        )

    def __str__(self) -> str:
        return repr(self)


EXTRA_STATE = "_extra_state"
ASSIGN = "assign_to_params_buffers"  # PyTorch's name, in what ``_load_from_state_dict`` is given


def _own_entries(module: Module) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of what belongs to the state of the module itself."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield name, parameter
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in module._non_persistent_buffers_set:
            yield name, buffer


def _entries(module: Module, prefix: str) -> Iterator[tuple[str, Module, str, Tensor]]:
    """(path, owner, attribute, tensor) of everything that belongs to the state."""
    for owner_prefix, owner in _modules_of(module, prefix):
        for name, tensor in _own_entries(owner):
            yield owner_prefix + name, owner, name, tensor


class ModuleWithState(HookedModule):
    """A module's ``state_dict`` and ``load_state_dict``.

    ``_version``: of the class's form of state; ``state_dict()._metadata`` has that of each module,
    by its path, for classes that read what older forms of them wrote.
    """

    _version: int = 1

    def state_dict(
        self,
        *,
        destination: dict[str, Any] | None = None,
        prefix: str = "",
        keep_vars: bool = False,
    ) -> dict[str, Any]:
        """Parameters and persistent buffers by path, detached; they share memory with these."""
        found: dict[str, Any] = OrderedDict() if destination is None else destination
        if destination is None:
            found._metadata = OrderedDict()  # type: ignore[attr-defined]  # as PyTorch's
        module: Any = self
        metadata = {"version": self._version}
        if hasattr(found, "_metadata"):
            found._metadata[prefix[:-1]] = metadata
        for hook in self._state_dict_pre_hooks.values():
            hook(self, prefix, keep_vars)
        self._save_to_state_dict(found, prefix, keep_vars)
        for name, child in module._modules.items():
            if child is not None:
                child.state_dict(destination=found, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        for hook in self._state_dict_hooks.values():
            other = hook(self, found, prefix, metadata)
            found = found if other is None else other
        return found

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        """Put the module's own parameters and buffers into ``destination``; classes may override
        it, as in PyTorch."""
        module: Any = self
        for name, tensor in _own_entries(module):
            kept = keep_vars or hasattr(tensor, "materialize")  # without a shape yet
            destination[prefix + name] = tensor if kept else ops.detach(tensor)
        if _overrides(module, "get_extra_state"):
            destination[prefix + EXTRA_STATE] = module.get_extra_state()

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy (or ``assign``) tensors by path; RuntimeError listing every difference if strict."""
        return load_state(self, state_dict, strict, assign)  # type: ignore[arg-type]  # it is a Module

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take the module's own parameters and buffers from ``state_dict``, as PyTorch does.

        Classes may override it. It is called for these only: what others take is copied when all
        that differs is known (``load_state``).
        """
        module: Any = self
        told = (missing_keys, unexpected_keys, error_msgs)
        for hook in self._load_state_dict_pre_hooks.values():
            hook(self, state_dict, prefix, local_metadata, strict, *told)
        self._complete_old_state(state_dict, prefix, local_metadata.get("version"))
        children = module._modules.items()
        below = tuple(f"{prefix}{name}." for name, child in children if child is not None)
        entries = {prefix + name: (name, tensor) for name, tensor in _own_entries(module)}
        if _overrides(module, "set_extra_state"):
            entries[prefix + EXTRA_STATE] = ("", module)
        for path, (name, tensor) in entries.items():
            source = state_dict.get(path)
            if path not in state_dict:
                missing_keys.append(path)
            elif not name:
                module.set_extra_state(source)
            elif problems := _mismatch(path, tensor, source):
                error_msgs += problems
            else:
                with no_grad():
                    assign = local_metadata.get(ASSIGN, False)
                    _load_entry(module, name, tensor, state_dict[path], assign)
        unexpected_keys += [
            key
            for key in state_dict
            if key.startswith(prefix) and key not in entries and not key.startswith(below)
        ]

    def _complete_old_state(self, state: dict[str, Any], prefix: str, version: int | None) -> None:
        """Add to ``state``, of a ``version`` if it says so, what older forms did not have."""

    def get_extra_state(self) -> Any:
        """What else belongs to the module's state; ``state_dict`` has it as ``_extra_state``."""
        raise RuntimeError(
            f"{type(self).__name__}: define get_extra_state together with set_extra_state"
        )

    def set_extra_state(self, state: Any) -> None:
        """Take what ``get_extra_state`` gave."""
        raise RuntimeError(
            f"{type(self).__name__}: define set_extra_state together with get_extra_state"
        )


def _overrides(module: Module, method: str) -> bool:
    return getattr(type(module), method) is not getattr(ModuleWithState, method)


def load_state(
    module: Module, state: Mapping[str, Any], strict: bool, assign: bool
) -> IncompatibleKeys:
    """Copy ``state`` into the module's tensors, or put its tensors in their place.

    Raises RuntimeError that lists all missing and unexpected keys (if ``strict``) and all
    differences of shape. Nothing is loaded then, unless there are hooks that are called after
    loading: they see what fits loaded, may change what is missing, and the error comes after them.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"Expected state_dict to be dict-like, got {type(state).__name__}.")
    metadata = getattr(state, "_metadata", None)
    state = OrderedDict(state)
    if metadata is not None:
        state._metadata = metadata  # type: ignore[attr-defined]  # as PyTorch's
    owners = dict(_modules_of(module, ""))
    told: tuple[list[str], list[str], list[str]] = ([], [], [])
    apart = {p for p, owner in owners.items() if _overrides(owner, "_load_from_state_dict")}
    for prefix, owner in owners.items():
        given = {} if metadata is None else dict(metadata.get(prefix[:-1], {}))
        if assign:
            given[ASSIGN] = True
        if prefix in apart:
            owner._load_from_state_dict(state, prefix, given, True, *told)  # as PyTorch says
            continue
        for hook in owner._load_state_dict_pre_hooks.values():
            hook(owner, state, prefix, given, True, *told)
        owner._complete_old_state(state, prefix, given.get("version"))
    loaded = {owners[prefix] for prefix in apart}
    entries = [entry for entry in _entries(module, "") if entry[1] not in loaded]
    extra = {
        prefix + EXTRA_STATE: owner
        for prefix, owner in owners.items()
        if _overrides(owner, "set_extra_state") and owner not in loaded
    }
    expected = [path for path, *_ in entries] + [*extra]
    missing = told[0] + [path for path in expected if path not in state]
    known = set(expected)
    unexpected = told[1] + [
        key for key in state if key not in known and _owner_prefix(key, owners) not in apart
    ]
    problems = told[2]
    fitting = []
    for entry in entries:
        path, _, _, tensor = entry
        if path in state:
            differences = _mismatch(path, tensor, state[path])
            problems += differences
            if not differences:
                fitting.append(entry)
    result = IncompatibleKeys(missing, unexpected)
    late = any(owner._load_state_dict_post_hooks for owner in owners.values())
    if not late:
        _require_match(module, result, problems, strict)
    with no_grad():
        for path, tensor_owner, name, tensor in fitting:
            _load_entry(tensor_owner, name, tensor, state[path], assign)
    for path, owner in extra.items():
        if path in state:
            owner.set_extra_state(state[path])
    for owner in reversed(owners.values()):
        for hook in owner._load_state_dict_post_hooks.values():
            if hook(owner, result) is not None:
                raise AssertionError(
                    "hooks of load_state_dict are to change incompatible_keys in place, and "
                    "return nothing"
                )
    _require_match(module, result, problems, strict)
    return result


def _modules_of(module: Module, prefix: str) -> Iterator[tuple[str, Module]]:
    yield prefix, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _modules_of(child, f"{prefix}{name}.")


def _owner_prefix(key: str, owners: Mapping[str, Module]) -> str:
    """The prefix of the module that a key belongs to: the longest."""
    prefix = key
    while prefix not in owners:
        prefix = prefix.rstrip(".").rpartition(".")[0]
        prefix += "." if prefix else ""
    return prefix


def _require_match(
    module: Module, keys: IncompatibleKeys, problems: list[str], strict: bool
) -> None:
    found = list(problems)
    if strict and keys.unexpected_keys:
        found.insert(0, f"Unexpected key(s) in state_dict: {_quoted(keys.unexpected_keys)}. ")
    if strict and keys.missing_keys:
        found.insert(0, f"Missing key(s) in state_dict: {_quoted(keys.missing_keys)}. ")
    if found:
        details = "\n\t".join(found)
        raise RuntimeError(
            f"Error(s) in loading state_dict for {type(module).__name__}:\n\t{details}"
        )


def _quoted(keys: list[str]) -> str:
    return ", ".join(f'"{k}"' for k in keys)


def _mismatch(path: str, tensor: Tensor, source: Any) -> list[str]:
    if not isinstance(source, Tensor):
        return [f'While copying the parameter named "{path}", expected a Tensor from checkpoint '
                f"but received {type(source).__name__}."]  # fmt: skip
    if tensor._type.shape == source._type.shape:
        return []
    return [
        f"size mismatch for {path}: copying a param with shape "
        f"{format_shape(source._type.shape)} from checkpoint, the shape in current model is "
        f"{format_shape(tensor._type.shape)}."
    ]


def _load_entry(owner: Module, name: str, tensor: Tensor, source: Tensor, assign: bool) -> None:
    if not assign:
        there = on_device(source, tensor._type.device)
        write(tensor, ops.cast(there, tensor._type.dtype), "load_state_dict")
    elif isinstance(tensor, Parameter):
        given = source if isinstance(source, Parameter) else Parameter(source, tensor.requires_grad)
        setattr(owner, name, given)
    else:
        owner.register_buffer(name, source)
