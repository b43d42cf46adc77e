"""Parameters: the tensors that a module learns.

``Parameter(data)`` is a new leaf that shares the data's memory but has a
storage of its own; modules recognise it by its class and register it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, Self

from flamec.dispatch import apply_named, tensor_builder, write
from flamec.errors import CompileError, OperationError, Uncompiled, user_location
from flamec.functional.arguments import as_device, default_device
from flamec.ir.shape import Dim
from flamec.ir.types import Device, DType, TensorType
from flamec.state import no_grad, process, thread
from flamec.tensor import Storage, Tensor

__all__ = [
    "Buffer",
    "Parameter",
    "UninitializedBuffer",
    "UninitializedParameter",
    "clear_gradients",
    "filled",
    "is_lazy",
    "replace_data",
    "skip_init",
]


def leave_trace(what: str) -> None:
    """While a function is compiled: Uncompiled, because of ``what``, which makes parameters; in a
    loop, branch or vmap without one around it CompileError."""
    trace: Any = thread.trace
    if trace is None:
        return
    while trace is not None and trace.host is None:
        trace = getattr(trace, "outer", None)
    if trace is None:
        raise CompileError(
            f"{what} (at {user_location()}), which cannot be done here; do it outside"
        )
    raise Uncompiled(f"{what} (at {user_location()}; do that once, outside)")


def _shared(cls: type[Any], data: Tensor) -> Any:
    leave_trace(f"a {cls.__name__} is created")
    if not isinstance(data, Tensor):
        raise TypeError(f"{cls.__name__}: data must be a Tensor, not {type(data).__name__}")
    return cls._from_array(data._array, data._type)


class Parameter(Tensor):
    """A tensor that is a module's parameter when assigned as its attribute."""

    __slots__ = ()

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = True) -> Self:
        if data is None:
            data = filled((0,))
        self: Self = _shared(cls, data)
        self.requires_grad = requires_grad
        return self

    def __init__(self, data: Tensor | None = None, requires_grad: bool = True) -> None:
        """``data``: any concrete tensor; ``requires_grad``: whether gradients are accumulated."""

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"

    __str__ = __repr__

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        if id(self) in memo:
            return memo[id(self)]
        copy = type(self)(_copied(self), self.requires_grad)
        copy.__dict__.update(self.__dict__)
        memo[id(self)] = copy
        return copy


class Buffer(Tensor):
    """A tensor that becomes a module's buffer when assigned as its attribute."""

    __slots__ = ("persistent",)

    persistent: bool

    def __new__(cls, data: Tensor, *, persistent: bool = True) -> Self:
        self: Self = _shared(cls, data)
        self.persistent = persistent
        return self

    def __init__(self, data: Tensor, *, persistent: bool = True) -> None:
        """``persistent``: whether the buffer is part of the module's state_dict."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Buffer:
        if id(self) in memo:
            return memo[id(self)]
        copy = type(self)(_copied(self), persistent=self.persistent)
        copy.__dict__.update(self.__dict__)
        memo[id(self)] = copy
        return copy


def filled(
    shape: Sequence[Dim],
    value: float = 0.0,
    device: Device | str | None = None,
    dtype: DType | None = None,
) -> Tensor:
    """A new tensor that holds ``value`` everywhere; default dtype and device unless given."""
    place = as_device("factory", device, default_device())
    kind = TensorType(tuple(shape), dtype or process.default_dtype, place)
    return tensor_builder.full_like(value, kind)


def _copied(tensor: Tensor) -> Tensor:
    """The same values in memory of their own, outside autograd."""
    with no_grad():
        result: Tensor = apply_named("convert", tensor, dtype=tensor._type.dtype)
    return result


def replace_data(tensor: Tensor, data: Tensor) -> None:
    """Let ``tensor`` hold the memory and type of ``data``; it stays the same object.

    Its autograd history ends, as with PyTorch's ``tensor.data = data``.
    """
    array = data._array
    assert array is not None, "only concrete tensors can be replaced"
    if tensor._requires_grad and not data._type.dtype.is_floating_point:
        raise RuntimeError(
            f"data of {data._type.dtype!r} cannot be given to a tensor that requires grad"
        )
    tensor._array = array
    tensor._type = data._type
    tensor._storage = Storage(data._type, array)
    tensor._steps = ()
    tensor._value = None
    tensor._value_version = -1
    tensor._cached = None


def clear_gradients(tensors: Iterable[Tensor], set_to_none: bool) -> None:
    """Set ``.grad`` to None, or to zeros in its own memory, for each tensor that has one."""
    for tensor in tensors:
        if set_to_none:
            tensor.grad = None
            continue
        gradient = tensor.grad
        if gradient is not None:
            with no_grad():
                write(gradient, tensor_builder.full_like(0.0, gradient._type), "zero_grad")


def skip_init(module_cls: Any, *args: Any, **kwargs: Any) -> Any:
    """A module whose parameters hold no meaningful values (zeros), made on its final device."""
    device = kwargs.pop("device", "cpu")
    return module_cls(*args, **kwargs).to_empty(device=device)


class _Uninitialized:
    """A tensor whose shape is not known yet; ``materialize`` gives it one."""

    __slots__ = ()

    def materialize(self, shape: Any, device: Any = None, dtype: Any = None) -> None:
        """Become a tensor of zeros of this shape, as an ordinary Parameter or Buffer."""
        tensor: Any = self
        content = filled(shape, 0.0, device or tensor.device, dtype or tensor.dtype)
        replace_data(tensor, content)
        tensor.__class__ = Parameter if isinstance(self, Parameter) else Buffer

    @property
    def shape(self) -> NoReturn:
        raise OperationError(
            "Can't access the shape of an uninitialized parameter or buffer. This error usually "
            "happens in `load_state_dict` when trying to load an uninitialized parameter into an "
            "initialized one. Call `forward` to initialize the parameters before accessing their "
            f"attributes (at {user_location()})."
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    __str__ = __repr__

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        own: Any = self
        if id(self) not in memo:
            memo[id(self)] = type(own)(device=own.device, dtype=own.dtype)
        return memo[id(self)]


class UninitializedParameter(_Uninitialized, Parameter):
    """A parameter without a shape yet."""

    __slots__ = ()

    def __new__(cls, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> Self:
        return super().__new__(cls, filled((0,), 0.0, device, dtype), requires_grad)

    def __init__(self, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> None:
        """``requires_grad``: that of the parameter that it becomes."""


class UninitializedBuffer(_Uninitialized, Buffer):
    """A buffer without a shape yet."""

    __slots__ = ()

    def __new__(
        cls,
        requires_grad: bool = False,
        device: Any = None,
        dtype: Any = None,
        persistent: bool = True,
    ) -> Self:
        return super().__new__(cls, filled((0,), 0.0, device, dtype), persistent=persistent)

    def __init__(
        self,
        requires_grad: bool = False,
        device: Any = None,
        dtype: Any = None,
        persistent: bool = True,
    ) -> None:
        """``persistent``: whether it is part of the module's state_dict."""


def is_lazy(tensor: Any) -> bool:
    """Whether a tensor has no shape yet."""
    return isinstance(tensor, _Uninitialized)
