"""Parametrisations: a parameter computed from others each time it is read.

``register_parametrization(module, "weight", f)`` moves the parameter to
``module.parametrizations.weight.original`` (several, if ``f.right_inverse`` gives several) and
puts a property ``weight`` in its place, which calls ``f``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from flamec.dispatch import write
from flamec.nn.containers import ModuleDict, ModuleList
from flamec.nn.module import Module
from flamec.nn.parameter import Parameter, replace_data
from flamec.state import no_grad, thread
from flamec.tensor import Tensor

if TYPE_CHECKING:
    from flamec.trace import Trace

__all__ = [
    "ParametrizationList",
    "cached",
    "is_parametrized",
    "register_parametrization",
    "remove_parametrizations",
    "type_before_parametrizations",
]


class _Cache(threading.local):
    """What each ``cached`` that is open keeps, and the trace in which it began."""

    def __init__(self) -> None:
        self.open: list[tuple[Trace | None, dict[ParametrizationList, Tensor]]] = []

    def values(self) -> dict[ParametrizationList, Tensor] | None:
        """What is kept now, if anything is."""
        return self.open[-1][1] if self.open and self.open[-1][0] is thread.trace else None


_cache = _Cache()


@contextmanager
def cached() -> Iterator[None]:
    """Within, each parametrised tensor is computed when it is read first, and kept.

    So a parametrisation that changes with each reading, as ``spectral_norm`` does, does so once,
    and a weight that several steps use is computed once. A change of the originals is not seen.
    Around a compiled function it has no effect inside of that: begin it there.
    """
    values = _cache.values()
    _cache.open.append((thread.trace, {} if values is None else values))
    try:
        yield
    finally:
        _cache.open.pop()


class ParametrizationList(ModuleList):
    """The modules that make one tensor, first to last, and the tensors they make it from."""

    def __init__(self, modules: Iterable[Module], original: Tensor, unsafe: bool = False) -> None:
        steps = list(modules)
        if not steps:
            raise ValueError("ParametrizationList requires one or more modules.")
        super().__init__(steps)
        self.unsafe = unsafe
        new: Any = original
        with no_grad():
            for module in reversed(steps):
                if hasattr(module, "right_inverse"):
                    with suppress(NotImplementedError):  # the tensor stays as it is, as in PyTorch
                        new = module.right_inverse(new)
        if not isinstance(new, (Tensor, list, tuple)):
            raise ValueError(
                "'right_inverse' must return a Tensor or a Sequence of tensors (list, tuple...). "
                f"Got {type(new).__name__}"
            )
        self.is_tensor = isinstance(new, Tensor)
        self.ntensors = 1 if self.is_tensor else len(new)
        if isinstance(new, Tensor):
            _require_same("original.dtype", original.dtype, new.dtype)
            if new is not original:
                _set(original, new)
            self._keep("original", original)
        else:
            for number, tensor in enumerate(new):
                if isinstance(original, Parameter):
                    tensor = Parameter(tensor.detach(), original.requires_grad)
                self._keep(f"original{number}", tensor)
        if not unsafe:
            with no_grad():
                made = self()
            if not isinstance(made, Tensor):
                raise ValueError(f"A parametrization must return a tensor. Got {made!r}.")
            for what, before, after in (
                ("dtype", original.dtype, made.dtype),
                ("shape", original.shape, made.shape),
            ):
                if before != after and not (what == "shape" and not self.is_tensor):
                    raise ValueError(
                        f"Registering a parametrization may not change the {what} of the tensor, "
                        f"unless `unsafe` flag is enabled.\nunparametrized {what}: {before}\n"
                        f"parametrized {what}: {after}"
                    )

    def _keep(self, name: str, tensor: Tensor) -> None:
        if isinstance(tensor, Parameter):
            self.register_parameter(name, tensor)
        else:
            self.register_buffer(name, tensor)

    def originals(self) -> list[Tensor]:
        """The tensors from which the parametrised one is made."""
        if self.is_tensor:
            return [self.original]
        return [getattr(self, f"original{number}") for number in range(self.ntensors)]

    def right_inverse(self, value: Tensor) -> None:
        """Set the originals so that the parametrised tensor becomes ``value``."""
        with no_grad():
            for module in reversed(list(self)):
                if not hasattr(module, "right_inverse"):
                    raise RuntimeError(
                        f"parametrization {type(module).__name__} does not implement right_inverse."
                    )
                value = module.right_inverse(value)
            values: Sequence[Tensor] = [value] if isinstance(value, Tensor) else value
            if len(values) != self.ntensors:
                raise ValueError(
                    "'right_inverse' must return a sequence of tensors of length "
                    f"{self.ntensors}. Got a sequence of length {len(values)}."
                )
            for original, new in zip(self.originals(), values, strict=True):
                _require_same("original.dtype", original.dtype, new.dtype)
                _set(original, new)

    def forward(self) -> Tensor:
        first, *rest = list(self)
        value: Tensor = first(*self.originals())
        for module in rest:
            value = module(value)
        return value


def _require_same(what: str, wanted: Any, found: Any) -> None:
    if wanted != found:
        raise ValueError(
            f"When `right_inverse` outputs one tensor, it may not change the dtype.\n"
            f"{what}: {wanted}\nright_inverse(original).dtype: {found}"
        )


def _set(tensor: Tensor, value: Tensor) -> None:
    with no_grad():
        if tensor.shape == value.shape:
            write(tensor, value.detach(), "right_inverse")
        else:
            replace_data(tensor, value.detach())


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether a module, or one of its tensors, is parametrised."""
    lists = module._modules.get("parametrizations")
    if not isinstance(lists, ModuleDict):
        return False
    return len(lists) > 0 if tensor_name is None else tensor_name in lists


def type_before_parametrizations(module: Module) -> type[Module]:
    """The class of a module before a tensor of it was parametrised."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def register_parametrization(
    module: Module, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> Module:
    """Let ``module.<tensor_name>`` be what ``parametrization`` computes; returns the module.

    ``parametrization.right_inverse``, where defined, gives the original from a value. With
    ``unsafe`` shape and dtype may change. ValueError for a name that is no parameter or buffer.
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        made = module.parametrizations[tensor_name]
        if not unsafe:
            with no_grad():
                before = getattr(module, tensor_name)
                after = parametrization(before)
            if before.shape != after.shape or before.dtype != after.dtype:
                raise ValueError(
                    "Registering a parametrization may not change the shape or dtype of the "
                    f"tensor, unless `unsafe` flag is enabled.\nbefore: {before.dtype} "
                    f"{list(before.shape)}\nafter: {after.dtype} {list(after.shape)}"
                )
        made.append(parametrization)
        made.unsafe |= unsafe
        return module
    registry = module._parameters if tensor_name in module._parameters else module._buffers
    original = registry.get(tensor_name)
    if original is None:
        raise ValueError(
            f"Module '{module}' does not have a parameter, a buffer, or a parametrized element "
            f"with name '{tensor_name}'"
        )
    made = ParametrizationList([parametrization], original, unsafe=unsafe)
    del registry[tensor_name]
    if not is_parametrized(module):
        module.__class__ = _class_with(type(module), ())
        module.parametrizations = ModuleDict()
    names = (*module.parametrizations, tensor_name)
    module.__class__ = _class_with(type(module).__bases__[0], names)
    module.parametrizations[tensor_name] = made
    return module


def _class_with(base: type[Module], names: Iterable[str]) -> type[Module]:
    """A subclass of ``base`` with a property for each parametrised tensor."""
    members: dict[str, Any] = {name: _property(name) for name in names}
    return type(f"Parametrized{base.__name__}", (base,), {"__module__": base.__module__, **members})


def _property(name: str) -> property:
    def get(self: Module) -> Tensor:
        parametrization = self.parametrizations[name]
        values = _cache.values()
        kept = None if values is None else values.get(parametrization)
        if kept is not None:
            return kept
        made: Tensor = parametrization()
        if values is not None:
            values[parametrization] = made
        return made

    def set_value(self: Module, value: Tensor) -> None:
        self.parametrizations[name].right_inverse(value)

    return property(get, set_value)


def remove_parametrizations(
    module: Module, tensor_name: str, leave_parametrized: bool = True
) -> Module:
    """Make ``tensor_name`` an ordinary parameter or buffer again; returns the module.

    Its value is the parametrised one, or the original with ``leave_parametrized=False``.
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {module} does not have a parametrization on {tensor_name}")
    made = module.parametrizations[tensor_name]
    originals = made.originals()
    tensor = originals[0]
    if leave_parametrized:
        with no_grad():
            value = made()
        if made.is_tensor:
            _set(tensor, value)
        elif isinstance(tensor, Parameter):
            tensor = Parameter(value.detach(), any(t.requires_grad for t in originals))
        else:
            tensor = value
    elif not made.is_tensor:
        raise ValueError(
            "Cannot leave unparametrized (`leave_parametrized=False`) a tensor that is "
            "parametrized in terms of a sequence of tensors."
        )
    base = type(module).__bases__[0]
    del module.parametrizations[tensor_name]
    left = tuple(module.parametrizations)
    if not left:
        del module.parametrizations
    module.__class__ = _class_with(base, left) if left else base
    if isinstance(tensor, Parameter):
        module.register_parameter(tensor_name, tensor)
    else:
        module.register_buffer(tensor_name, tensor)
    return module
