"""Module: a function with parameters, buffers and submodules, registered by attribute.

Assigning a Parameter, a Buffer or a Module to an attribute registers it under
that name. Every parameter knows its full attribute path (``_name``), every
module its own (``_path``) and its path within the module around it that is called
(``_scope``), so that traces and errors can name them. Saving and loading is in
``module_state.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from flamec.dispatch import tensor_builder
from flamec.functional.arguments import as_device
from flamec.ir.types import Device, DType, bfloat16, float16, float32, float64
from flamec.nn.hooks import GLOBAL
from flamec.nn.likely_fix import tell_where
from flamec.nn.module_state import ModuleWithState
from flamec.nn.parameter import Buffer, Parameter, clear_gradients, replace_data
from flamec.state import no_grad, process, thread
from flamec.tensor import Tensor

__all__ = ["Module"]

T = TypeVar("T", bound="Module")
Members = Callable[["Module"], Mapping[str, Any]]

_REGISTRIES = ("_parameters", "_buffers", "_modules")


class Module(ModuleWithState):
    """Base class of all layers and models: define ``__init__`` and ``forward``."""

    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if args or kwargs:
            unexpected = next(iter(kwargs)) if kwargs else f"{len(args)} positional arguments"
            raise TypeError(f"{type(self).__name__}.__init__() got unexpected {unexpected!r}")
        self.__dict__.update(
            training=True,
            _path="",
            _scope="",
            _parameters={},
            _buffers={},
            _non_persistent_buffers_set=set(),
            _modules={},
            _forward_pre_hooks={},
            _forward_hooks={},
            _backward_pre_hooks={},
            _backward_hooks={},
            _state_dict_pre_hooks={},
            _state_dict_hooks={},
            _load_state_dict_pre_hooks={},
            _load_state_dict_post_hooks={},
        )

    def forward(self, *input: Any) -> Any:
        """The computation; every subclass defines it."""
        raise NotImplementedError(
            f'Module [{type(self).__name__}] is missing the required "forward" function'
        )

    # calling ------------------------------------------------------------------
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        trace, recorder = thread.trace, process.recorder
        if trace is not None:
            trace.calls_modules = True
            trace.scopes.append(self._called_name())
        elif recorder is not None:
            recorder.enter_module(self._called_name())
        try:
            if (
                self._forward_pre_hooks
                or self._forward_hooks
                or self._backward_hooks
                or self._backward_pre_hooks
                or GLOBAL
            ):
                return self._call_with_hooks(args, kwargs)
            return self.forward(*args, **kwargs)
        except Exception as error:
            tell_where(error, self, self._path, args)
            raise
        finally:
            if trace is not None:
                trace.scopes.pop()
            elif recorder is not None:
                recorder.leave_module()

    def _called_name(self) -> str:
        """The name by which graphs and profiles know the module inside of the one that calls it."""
        name: str = self.__dict__.get("_scope", "")
        return type(self).__name__ if name in ("", "_orig_mod") else name

    # registration -------------------------------------------------------------
    def __getattr__(self, name: str) -> Any:
        if name not in _REGISTRIES:
            if name in self._parameters:  # one after the other: what is read is guarded
                return self._parameters[name]
            if name in self._buffers:
                return self._buffers[name]
            if name in self._modules:
                return self._modules[name]
        elif not name.startswith("__"):
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r}: call super().__init__() before "
                "the attributes of a module are used"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter):
            self._require_initialized("parameters")
            self._forget(name, self._parameters)
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            self._require_initialized("module")
            self._forget(name, self._modules)
            self.add_module(name, value)
        elif isinstance(value, Buffer) or name in self.__dict__.get("_buffers", ()):
            self._assign_buffer(name, value)
        elif name in self.__dict__.get("_parameters", ()):
            self._require_none(name, value, "parameter", "flamec.nn.Parameter")
            self.register_parameter(name, None)
        elif name in self.__dict__.get("_modules", ()):
            self._require_none(name, value, "child module", "flamec.nn.Module")
            self._modules[name] = GLOBAL.registered("module", self, name, None)
        else:
            object.__setattr__(self, name, value)

    def _assign_buffer(self, name: str, value: Any) -> None:
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(
                f"cannot assign '{type(value).__name__}' as buffer '{name}' (flamec.Tensor or None "
                "expected)"
            )
        persistent = name not in self._non_persistent_buffers_set
        if isinstance(value, Buffer):
            persistent = value.persistent
        self._forget(name, self._buffers)
        self.register_buffer(name, value, persistent)

    def _require_none(self, name: str, value: Any, kind: str, expected: str) -> None:
        if value is not None:
            raise TypeError(
                f"cannot assign '{type(value).__name__}' as {kind} '{name}' ({expected} or None "
                "expected)"
            )

    def _require_initialized(self, what: str) -> None:
        if "_parameters" not in self.__dict__:
            raise AttributeError(f"cannot assign {what} before Module.__init__() call")

    def _forget(self, name: str, keep: dict[str, Any]) -> None:
        """Take ``name`` out of the instance dictionary and of the registries but ``keep``."""
        self.__dict__.pop(name, None)
        for registry in (self._parameters, self._buffers, self._modules):
            if registry is not keep:
                registry.pop(name, None)

    def __delattr__(self, name: str) -> None:
        for registry in (self._parameters, self._buffers, self._modules):
            if name in registry:
                del registry[name]
                self._non_persistent_buffers_set.discard(name)
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        names = {*super().__dir__(), *self._parameters, *self._buffers, *self._modules}
        return sorted(n for n in names if not n[:1].isdigit())

    def _check_name(self, kind: str, name: str, registry: Mapping[str, Any]) -> None:
        self._require_initialized(kind)
        if not isinstance(name, str):
            raise TypeError(f"{kind} name should be a string. Got {type(name).__name__}")
        if "." in name:
            raise KeyError(f"{kind} name can't contain '.', got: {name}")
        if name == "":
            raise KeyError(f"{kind} name can't be an empty string ''")
        if hasattr(self, name) and name not in registry:
            raise KeyError(f"attribute '{name}' already exists")

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter under ``name``; None reserves the name."""
        self._check_name("parameter", name, self._parameters)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot assign '{type(param).__name__}' object to parameter '{name}' "
                "(flamec.nn.Parameter or None required)"
            )
        if param is not None:
            param = GLOBAL.registered("parameter", self, name, param)
        self._parameters[name] = param
        self._name_tensor(name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is state but not learned; persistent ones are in state_dict."""
        self._check_name("buffer", name, self._buffers)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{type(tensor).__name__}' object to buffer '{name}' (flamec.Tensor "
                "or None required)"
            )
        tensor = GLOBAL.registered("buffer", self, name, tensor)
        self._buffers[name] = tensor
        if persistent:
            self._non_persistent_buffers_set.discard(name)
        else:
            self._non_persistent_buffers_set.add(name)
        self._name_tensor(name, tensor)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a submodule under ``name``."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        self._check_name("module", name, self._modules)
        module = GLOBAL.registered("module", self, name, module)
        self._modules[name] = module
        if module is not None:
            self._tell_path(name, module)

    register_module = add_module

    def _tell_path(self, name: str, module: Module) -> None:
        """Tell a submodule, and everything below it, where it is registered."""
        is_called = type(self).forward is not Module.forward  # a list of modules is not
        scope = _joined("" if is_called else self.__dict__.get("_scope", ""), name)
        module.__dict__.update(_path=_joined(self._path, name), _scope=scope)
        for own, tensor in (*module._parameters.items(), *module._buffers.items()):
            module._name_tensor(own, tensor)
        for own, inner in module._modules.items():
            if inner is not None:
                module._tell_path(own, inner)

    def _name_tensor(self, name: str, tensor: Tensor | None) -> None:
        if tensor is not None:
            tensor.__dict__["_name"] = _joined(self._path, name)

    # what is inside -----------------------------------------------------------
    def _named(
        self, members: Members, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        modules = (
            self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate)
            if recurse
            else [(prefix, self)]
        )
        for path, module in modules:
            for name, member in members(module).items():
                if member is None or id(member) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(member))
                yield _joined(path, name), member

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Every parameter with its path, each object once."""
        return self._named(lambda m: m._parameters, prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Every parameter once."""
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Every buffer with its path, each object once."""
        return self._named(lambda m: m._buffers, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Every buffer once."""
        return (b for _, b in self.named_buffers(recurse=recurse))

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules registered directly, each object once."""
        return self._named(lambda m: m._modules, "", False, True)

    def children(self) -> Iterator[Module]:
        """The modules registered directly, each object once."""
        return (m for _, m in self.named_children())

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and everything below it, with paths."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(memo, _joined(prefix, name), remove_duplicate)

    def modules(self, remove_duplicate: bool = True) -> Iterator[Module]:
        """This module and everything below it."""
        return (m for _, m in self.named_modules(remove_duplicate=remove_duplicate))

    def get_submodule(self, target: str) -> Module:
        """The module at a path such as ``"layers.0.linear"``; AttributeError if there is none."""
        module: Module = self
        for name in target.split(".") if target else ():
            found = module._modules.get(name)
            if found is None:
                raise AttributeError(f"{type(module).__name__} has no submodule `{name}`")
            module = found
        return module

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Put ``module`` in the place of that at a path; with ``strict`` there must be one."""
        path, _, name = target.rpartition(".")
        if not name:
            raise ValueError("Cannot set the submodule without a target name!")
        owner = self.get_submodule(path)
        if strict and name not in owner._modules:
            raise AttributeError(f"{type(owner).__name__} has no attribute `{name}`")
        if not isinstance(module, Module):
            raise ValueError(f"`{name}` is to be a Module, not {type(module).__name__}")
        setattr(owner, name, module)

    def _get_member(self, target: str, registry: str, kind: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        found = getattr(module, registry).get(name)
        if found is None:
            raise AttributeError(f"{type(module).__name__} has no {kind} `{name}`")
        return found

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a path; AttributeError if there is none."""
        return self._get_member(target, "_parameters", "parameter")

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a path; AttributeError if there is none."""
        return self._get_member(target, "_buffers", "buffer")

    # changing everything at once ------------------------------------------------
    def apply(self: T, fn: Callable[[Module], Any]) -> T:
        """Call ``fn`` on every submodule, children first, then on this module."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def _apply(self: T, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> T:
        """Replace the data of every parameter, gradient and buffer; classes may override it."""
        if recurse:
            for child in self.children():
                child._apply(fn)
        with no_grad():
            for tensor in (*self.parameters(False), *self.buffers(False)):
                for target in (tensor, tensor.grad):
                    if target is not None:
                        converted = fn(target)
                        if converted is not target:
                            replace_data(target, converted)
        return self

    def to(self: T, *args: Any, **kwargs: Any) -> T:
        """Move to a device and, for floating-point tensors, convert to a dtype.

        ``to(device)``, ``to(dtype)``, ``to(device, dtype)`` or ``to(tensor)``.
        """
        device, dtype = _target(*args, **kwargs)
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"nn.Module.to only accepts floating point dtypes, but got {dtype!r}")

        def convert(tensor: Tensor) -> Tensor:
            wanted = dtype if dtype is not None and tensor.dtype.is_floating_point else tensor.dtype
            converted: Tensor = tensor.to(device or tensor.device, wanted)
            return converted

        return self._apply(convert)

    def float(self: T) -> T:
        """Convert floating-point parameters and buffers to float32."""
        return self.to(float32)

    def double(self: T) -> T:
        """Convert floating-point parameters and buffers to float64."""
        return self.to(float64)

    def half(self: T) -> T:
        """Convert floating-point parameters and buffers to float16."""
        return self.to(float16)

    def bfloat16(self: T) -> T:
        """Convert floating-point parameters and buffers to bfloat16."""
        return self.to(bfloat16)

    def type(self: T, dst_type: DType) -> T:
        """Convert every parameter and buffer to ``dst_type``."""
        return self._apply(lambda tensor: tensor.to(dst_type))

    def cpu(self: T) -> T:
        """Move to the CPU."""
        return self.to("cpu")

    def cuda(self: T, device: Any = None) -> T:
        """Move to a GPU, the current one by default."""
        return self.to("cuda" if device is None else device)

    def to_empty(self: T, *, device: Any, recurse: bool = True) -> T:
        """Move to a device without the contents: everything is zero there."""
        members = (*self.parameters(recurse), *self.buffers(recurse))
        with no_grad():
            for tensor in members:
                empty = tensor_builder.full_like(
                    0, tensor._type.with_device(as_device("to_empty", device))
                )
                replace_data(tensor, empty)
        return self

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Call the module through ``flamec.compile`` from now on; takes its options."""
        from flamec.compiler import compile as compile_function

        self.forward = compile_function(self.forward, *args, **kwargs)  # type: ignore[method-assign]  # instead

    def train(self: T, mode: bool = True) -> T:
        """Set training mode here and below."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self: T) -> T:
        """Leave training mode."""
        return self.train(False)

    def requires_grad_(self: T, requires_grad: bool = True) -> T:
        """Set requires_grad of every parameter."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of every parameter, or fill them with 0."""
        clear_gradients(self.parameters(), set_to_none)

    # text ------------------------------------------------------------------------
    def extra_repr(self) -> str:
        """What the module's own line in the repr says."""
        return ""

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({n}): {indented(repr(m))}" for n, m in self._modules.items()]
        if len(lines) == 1 and not children:
            return f"{self._get_name()}({extra})"
        lines = lines + children
        if not lines:
            return f"{self._get_name()}()"
        return f"{self._get_name()}(\n  " + "\n  ".join(lines) + "\n)"


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def indented(text: str) -> str:
    """``text`` with every line but the first moved to the right."""
    first, *rest = text.split("\n")
    return "\n".join([first, *("  " + line for line in rest)])


def _target(*args: Any, **kwargs: Any) -> tuple[Any, DType | None]:
    """Device and dtype from the arguments of ``Module.to``."""
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    for argument in args:
        if isinstance(argument, DType):
            dtype = argument
        elif isinstance(argument, Tensor):
            device, dtype = argument.device, argument.dtype
        elif isinstance(argument, (str, Device)):
            device = argument
        elif argument is not None and not isinstance(argument, bool):  # bool: non_blocking
            raise TypeError(f"to() received an invalid argument: {argument!r}")
    return device, dtype
