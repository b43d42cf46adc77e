"""Arguments that many public functions share: ``out=``, NumPy's ``axis`` and ``keepdims``; lists.

In: a function in its plain form. Out: the function as the user calls it. Also
here: dtypes and devices given in the several ways that PyTorch accepts.
"""

from __future__ import annotations

import builtins
import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from flamec import gpu
from flamec.dispatch import tensor_builder, write
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.promotion import can_cast
from flamec.fusing import into
from flamec.ir.shape import format_shape, structural_key
from flamec.ir.types import CPU, Device, DType, bool_, float64, int64
from flamec.state import thread
from flamec.tensor import Tensor

F = TypeVar("F", bound=Callable[..., Any])

_NUMPY_NAMES = (("axis", "dim"), ("keepdims", "keepdim"))


def public(function: F) -> F:
    """``function`` with ``out=`` and with NumPy's names for dim and keepdim."""

    program = into(function, functools.partial(_stored, function.__name__))

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not kwargs:
            return function(*args)
        out = kwargs.pop("out", None)
        for foreign, own in _NUMPY_NAMES:
            if foreign in kwargs:
                kwargs[own] = kwargs.pop(foreign)
        if isinstance(out, Tensor) and program(out, *args, **kwargs):
            return out
        result = function(*args, **kwargs)
        return result if out is None else store(function.__name__, result, out)

    made: Any = wrapper
    made.takes_out = True
    return made


def listed(name: str) -> Callable[[F], F]:
    """A function of a tensor and ``*values`` that takes the values as ``name=``, too."""

    def declare(function: F) -> F:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if name in kwargs:
                if len(args) > 1:
                    raise OperationTypeError(
                        f"{function.__name__}() got several values for {name!r} "
                        f"(at {user_location()})"
                    )
                if not args and "input" in kwargs:
                    args = (kwargs.pop("input"),)
                args = (*args, kwargs.pop(name))
            return function(*args, **kwargs)

        made: Any = wrapper
        return made

    return declare


def _stored(name: str, out: Tensor, result: Any) -> None:
    store(name, result, out)


def store(name: str, result: Any, out: Any) -> Any:
    """Write a result (or each of several) to ``out`` and return ``out``.

    ``out`` of another shape gets new memory, with a warning if it had elements. Raises
    RuntimeError if the dtype cannot hold the result, and, while a function is compiled, if the
    shape differs.
    """
    if isinstance(result, tuple):
        for part, target in zip(result, out, strict=True):
            store(name, part, target)
        return type(result)(*out) if hasattr(result, "_fields") else tuple(out)
    if structural_key(result._type.shape) != structural_key(out._type.shape):
        return _resized(name, stored_dtype(result, out), out)
    return write(out, stored_dtype(result, out), name)


def _resized(name: str, result: Tensor, out: Tensor) -> Tensor:
    have, want = format_shape(out._type.shape), format_shape(result._type.shape)
    if thread.trace is not None:
        raise OperationError(
            f"{name}(): out has shape {have}, the result {want}; a compiled function resizes no "
            f"tensor (at {user_location()})"
        )
    if out.requires_grad or result.requires_grad:
        raise OperationError(
            f"{name}(): functions with out=... arguments don't support automatic "
            f"differentiation, but one of the arguments requires grad (at {user_location()})"
        )
    if out.shape.numel():
        warnings.warn(
            f"{name}(): out of shape {have} was resized to {want}, because it has elements; pass "
            f"one of the result's shape, or an empty one (at {user_location()})",
            UserWarning,
            stacklevel=4,
        )
    out._adopt(tensor_builder.convert(result, dtype=result._type.dtype))
    return out


def stored_dtype(result: Tensor, target: Tensor) -> Tensor:
    """``result`` in the dtype of ``target``; RuntimeError if that would lower its kind."""
    have, want = result._type.dtype, target._type.dtype
    if have is want:
        return result
    if not can_cast(have, want):
        raise OperationError(
            f"result type {have.name} can't be cast to the desired output type {want.name} "
            f"(at {user_location()})"
        )
    converted: Tensor = tensor_builder.cast(result, want)
    return converted


_PYTHON_DTYPES = {builtins.float: float64, builtins.int: int64, builtins.bool: bool_}


def as_dtype(name: str, dtype: Any) -> DType:
    """A dtype given as such or as the Python type float, int or bool."""
    if isinstance(dtype, DType):
        return dtype
    if dtype in _PYTHON_DTYPES:
        return _PYTHON_DTYPES[dtype]
    raise OperationTypeError(
        f"{name}(): dtype must be a flamec dtype, not {dtype!r} (at {user_location()})"
    )


_KNOWN_DEVICES = ("cpu", "cuda", "meta")


def as_device(name: str, device: Any, default: Device = CPU) -> Device:
    """A device given as such, as text, as the number of a GPU, or None for ``default``.

    ``"cuda"`` without a number is the thread's current GPU. Raises RuntimeError for a device
    that is unknown or not present.
    """
    if device is None:
        return default
    if device.__class__ is Device and device in _present:
        return device
    if isinstance(device, str):
        device = Device(device) if ":" in device or device != "cuda" else _current_gpu()
    elif isinstance(device, builtins.int) and not isinstance(device, builtins.bool):
        device = Device("cuda", device)
    if not isinstance(device, Device):
        raise OperationTypeError(
            f"{name}(): device must be a flamec.device or its name, not {device!r} "
            f"(at {user_location()})"
        )
    if device.type not in _KNOWN_DEVICES:
        raise OperationError(
            f"{name}(): unknown device type {device.type!r}; known: {', '.join(_KNOWN_DEVICES)} "
            f"(at {user_location()})"
        )
    if device == CPU:
        return CPU
    if device.type != "cuda" or device not in _present:
        _require_present(name, device)
    return device


def default_device() -> Device:
    """Where factory functions make tensors that are given no device."""
    if thread.trace is not None:
        thread.trace.reads_default_device = True
    return thread.default_device or CPU


_present: set[Device] = set()


def is_present(device: Device) -> bool:
    """Whether a GPU was found to be there."""
    return device in _present


@functools.cache
def _gpu_of_number(index: int) -> Device:
    return Device("cuda", index)


def _current_gpu() -> Device:
    if thread.trace is not None:
        thread.trace.reads_cuda_device = True
    return _gpu_of_number(thread.cuda_device)


def _require_present(name: str, device: Device) -> None:
    count = gpu.device_count() if device.type == "cuda" else 0
    if device.index < count:
        _present.add(device)
        return
    reason = gpu.unavailable_reason() if device.type == "cuda" else "it holds no elements"
    if reason is None:
        reason = f"this process has {count} GPU{'s' * (count != 1)}"
    raise OperationError(
        f"{name}(): device {device} is not available: {reason} (at {user_location()})"
    )
