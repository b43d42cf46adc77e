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
    """A module's ``state_dict`` and ``load_state_dict``."""

    def state_dict(
        self,
        *,
        destination: dict[str, Any] | None = None,
        prefix: str = "",
        keep_vars: bool = False,
    ) -> dict[str, Any]:
        """Parameters and persistent buffers by path, detached; they share memory with these."""
        found: dict[str, Any] = OrderedDict() if destination is None else destination
        module: Any = self
        for hook in self._state_dict_pre_hooks.values():
            hook(self, prefix, keep_vars)
        for name, tensor in _own_entries(module):
            kept = keep_vars or hasattr(tensor, "materialize")  # without a shape yet
            found[prefix + name] = tensor if kept else ops.detach(tensor)
        if _has_extra_state(module, "get_extra_state"):
            found[prefix + EXTRA_STATE] = module.get_extra_state()
        for name, child in module._modules.items():
            if child is not None:
                child.state_dict(destination=found, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        for hook in self._state_dict_hooks.values():
            hook(self, found, prefix, {})
        return found

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy (or ``assign``) tensors by path; RuntimeError listing every difference if strict."""
        return load_state(self, state_dict, strict, assign)  # type: ignore[arg-type]  # it is a Module

    def _complete_old_state(self, state: dict[str, Any], prefix: str) -> None:
        """Add to ``state`` what older forms of the module did not have."""

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


def _has_extra_state(module: Module, method: str) -> bool:
    return getattr(type(module), method) is not getattr(ModuleWithState, method)


def load_state(
    module: Module, state: Mapping[str, Any], strict: bool, assign: bool
) -> IncompatibleKeys:
    """Copy ``state`` into the module's tensors, or put its tensors in their place.

    Raises RuntimeError that lists all missing and unexpected keys (if ``strict``) and all
    differences of shape. Nothing is loaded then, unless a hook may still change what is missing.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"Expected state_dict to be dict-like, got {type(state).__name__}.")
    state = OrderedDict(state)
    owners = dict(_modules_of(module, ""))
    told: tuple[list[str], list[str], list[str]] = ([], [], [])
    for prefix, owner in owners.items():
        for hook in owner._load_state_dict_pre_hooks.values():
            hook(owner, state, prefix, {}, strict, *told)
        owner._complete_old_state(state, prefix)
    entries = list(_entries(module, ""))
    extra = {
        prefix + EXTRA_STATE: owner
        for prefix, owner in owners.items()
        if _has_extra_state(owner, "set_extra_state")
    }
    expected = [path for path, *_ in entries] + [*extra]
    missing = told[0] + [path for path in expected if path not in state]
    known = set(expected)
    unexpected = told[1] + [key for key in state if key not in known]
    problems = told[2]
    for path, _, _, tensor in entries:
        if path in state:
            problems += _mismatch(path, tensor, state[path])
    result = IncompatibleKeys(missing, unexpected)
    late = any(owner._load_state_dict_post_hooks for owner in owners.values())
    if not late or problems:
        _require_match(module, result, problems, strict)
    with no_grad():
        for path, tensor_owner, name, tensor in entries:
            if path in state:
                _load_entry(tensor_owner, name, tensor, state[path], assign)
    for path, owner in extra.items():
        if path in state:
            owner.set_extra_state(state[path])
    for owner in reversed(owners.values()):
        for hook in owner._load_state_dict_post_hooks.values():
            if hook(owner, result) is not None:
                raise RuntimeError(
                    "hooks of load_state_dict are to change incompatible_keys in place, and "
                    "return nothing"
                )
    _require_match(module, result, [], strict)
    return result


def _modules_of(module: Module, prefix: str) -> Iterator[tuple[str, Module]]:
    yield prefix, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _modules_of(child, f"{prefix}{name}.")


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
