"""A module's state: parameters and persistent buffers by path, saved and loaded.

The layout is PyTorch's: for each module its parameters, then its persistent
buffers, then its submodules in the order of registration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from flamec.dispatch import write
from flamec.functional.primitives import ops
from flamec.ir.shape import format_shape
from flamec.nn.parameter import Parameter
from flamec.state import no_grad
from flamec.tensor import Tensor

if TYPE_CHECKING:
    from flamec.nn.module import Module

__all__ = ["IncompatibleKeys", "load_state", "save_state"]


class IncompatibleKeys(NamedTuple):
    """What ``load_state_dict`` did not find, and what it had no use for."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return (
            f"IncompatibleKeys(missing_keys={self.missing_keys}, "
            f"unexpected_keys={self.unexpected_keys})"
        )

    def __str__(self) -> str:
        return repr(self)


def _entries(module: Module, prefix: str) -> Iterator[tuple[str, Module, str, Tensor]]:
    """(path, owner, attribute, tensor) of everything that belongs to the state."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield prefix + name, module, name, parameter
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in module._non_persistent_buffers_set:
            yield prefix + name, module, name, buffer
    for name, child in module._modules.items():
        if child is not None:
            yield from _entries(child, f"{prefix}{name}.")


def save_state(
    module: Module, destination: dict[str, Any], prefix: str, keep_vars: bool
) -> dict[str, Any]:
    """Put the state into ``destination``; tensors are detached unless ``keep_vars``."""
    for path, _, _, tensor in _entries(module, prefix):
        destination[path] = tensor if keep_vars else ops.detach(tensor)
    return destination


def load_state(
    module: Module, state: Mapping[str, Any], strict: bool, assign: bool
) -> IncompatibleKeys:
    """Copy ``state`` into the module's tensors, or put its tensors in their place.

    Raises RuntimeError that lists all missing and unexpected keys (if ``strict``) and all
    differences of shape. Nothing is loaded then.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"Expected state_dict to be dict-like, got {type(state).__name__}.")
    entries = list(_entries(module, ""))
    known = {path for path, *_ in entries}
    missing = [path for path, *_ in entries if path not in state]
    unexpected = [key for key in state if key not in known]
    problems = []
    if strict and unexpected:
        problems.append(f"Unexpected key(s) in state_dict: {_quoted(unexpected)}. ")
    if strict and missing:
        problems.append(f"Missing key(s) in state_dict: {_quoted(missing)}. ")
    for path, _, _, tensor in entries:
        if path in state:
            problems += _mismatch(path, tensor, state[path])
    if problems:
        details = "\n\t".join(problems)
        raise RuntimeError(
            f"Error(s) in loading state_dict for {type(module).__name__}:\n\t{details}"
        )
    with no_grad():
        for path, owner, name, tensor in entries:
            if path in state:
                _load_entry(owner, name, tensor, state[path], assign)
    return IncompatibleKeys(missing, unexpected)


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
        write(tensor, ops.cast(source, tensor._type.dtype), "load_state_dict")
    elif isinstance(tensor, Parameter):
        given = source if isinstance(source, Parameter) else Parameter(source, tensor.requires_grad)
        setattr(owner, name, given)
    else:
        owner.register_buffer(name, source)
