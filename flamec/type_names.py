"""PyTorch's names of tensor types, such as ``flamec.FloatTensor``, and ``Tensor.type``.

``Tensor(...)`` and ``FloatTensor(...)`` are PyTorch's older constructors, which take sizes or data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flamec.conversion import tensor, to
from flamec.errors import OperationTypeError, user_location
from flamec.functional.creation import empty
from flamec.ir.types import (
    CPU,
    Device,
    DType,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
)
from flamec.state import process, set_default_dtype
from flamec.tensor import Size, Tensor

__all__ = [
    "BFloat16Tensor", "BoolTensor", "ByteTensor", "CharTensor", "DoubleTensor", "FloatTensor",
    "HalfTensor", "IntTensor", "LongTensor", "ShortTensor", "set_default_tensor_type", "typename",
]  # fmt: skip

TYPE_NAMES = {
    float64: "Double",
    float32: "Float",
    float16: "Half",
    bfloat16: "BFloat16",
    int64: "Long",
    int32: "Int",
    int16: "Short",
    int8: "Char",
    uint8: "Byte",
    bool_: "Bool",
}


def new_tensor(cls: type[Tensor], *data: Any) -> Tensor:
    """``Tensor(2, 3)``: of that shape, ``Tensor([1, 2])``: of these numbers, in the default dtype;
    ``Tensor(x)``: the memory of the tensor ``x``.

    Raises TypeError for other data.
    """
    made = data[0] if len(data) == 1 and isinstance(data[0], Tensor) else None
    if made is None:
        made = _made(f"{cls.__name__}()", data, process.default_dtype)
    return made if cls is Tensor else cls._from_array(made._array, made._type)


def _made(name: str, data: tuple[Any, ...], dtype: DType, device: Device = CPU) -> Tensor:
    """A tensor of ``dtype`` from one sequence or array of numbers, or from sizes."""
    if len(data) == 1 and isinstance(data[0], (Sequence, np.ndarray)):
        values = data[0]
        if isinstance(values, str):
            raise OperationTypeError(f"{name}: data is no text (at {user_location()})")
        if not isinstance(values, Size):
            return tensor(values, dtype=dtype, device=device)
        data = tuple(values)
    if any(isinstance(n, (bool, float)) for n in data):
        raise OperationTypeError(
            f"{name}: sizes are whole numbers, and data is a sequence; got {data} "
            f"(at {user_location()})"
        )
    return empty(*(data or (0,)), dtype=dtype, device=device)


class _TypeOfTensors(type):
    """The class of ``FloatTensor`` and its like: of all tensors of ``dtype``."""

    dtype: DType

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Tensor) and instance._type.dtype is cls.dtype

    def __call__(cls, *data: Any) -> Tensor:
        if len(data) == 1 and isinstance(data[0], Tensor):
            given: DType = data[0]._type.dtype
            if given is not cls.dtype:
                raise OperationTypeError(
                    f"{cls.__name__}(): expected a tensor of {cls.dtype}, got {given} "
                    f"(at {user_location()})"
                )
            return data[0]
        return _made(f"{cls.__name__}()", data, cls.dtype)


def _type_of_tensors(dtype: DType) -> Any:
    name = f"{TYPE_NAMES[dtype]}Tensor"
    doc = f"Tensors of {dtype}; called with sizes or with numbers, it makes one."
    return _TypeOfTensors(name, (), {"dtype": dtype, "__doc__": doc, "__module__": __name__})


BFloat16Tensor = _type_of_tensors(bfloat16)
BoolTensor = _type_of_tensors(bool_)
ByteTensor = _type_of_tensors(uint8)
CharTensor = _type_of_tensors(int8)
DoubleTensor = _type_of_tensors(float64)
FloatTensor = _type_of_tensors(float32)
HalfTensor = _type_of_tensors(float16)
IntTensor = _type_of_tensors(int32)
LongTensor = _type_of_tensors(int64)
ShortTensor = _type_of_tensors(int16)


def type_(self: Tensor, dtype: Any = None, non_blocking: bool = False) -> Any:
    """The name of the tensor's type, or the tensor converted to ``dtype``."""
    if dtype is None:
        return f"flamec.{TYPE_NAMES[self._type.dtype]}Tensor"
    if isinstance(dtype, str):
        for known, name in TYPE_NAMES.items():
            if dtype in (f"flamec.{name}Tensor", f"flamec.{known.name}", known.name):
                return to(self, known)
        raise ValueError(f"invalid type: {dtype!r} (at {user_location()})")
    return to(self, dtype.dtype if isinstance(dtype, _TypeOfTensors) else dtype)


def new(self: Tensor, *data: Any) -> Tensor:
    """A tensor of the same dtype on the same device, of sizes or of numbers, or a tensor's memory.

    An older form of ``new_empty`` and ``new_tensor``. Raises TypeError for other data, and for a
    tensor of another dtype.
    """
    type = self._type
    if len(data) == 1 and isinstance(data[0], Tensor):
        given = data[0]._type
        if given.dtype is not type.dtype or given.device != type.device:
            raise OperationTypeError(
                f"new(): expected a tensor of {type.dtype} on {type.device}, got {given.dtype} on "
                f"{given.device} (at {user_location()})"
            )
        return data[0].view_as(data[0])
    return _made("new()", data, type.dtype, type.device)


def typename(obj: Any, /) -> str:
    """The full name of an object's type; of a class or function, its own."""
    if isinstance(obj, Tensor):
        return str(type_(obj))
    named = obj if hasattr(obj, "__qualname__") or hasattr(obj, "__name__") else type(obj)
    name: str = getattr(named, "__qualname__", None) or named.__name__
    module = getattr(named, "__module__", "") or ""
    return name if module in ("", "builtins") else f"{module}.{name}"


def set_default_tensor_type(t: Any, /) -> None:
    """``set_default_dtype`` by a type of tensors, such as ``DoubleTensor``, or its name.

    TypeError for types of integers, and for what is no type of tensors.
    """
    names = {name: dtype for dtype, name in TYPE_NAMES.items()}
    found = t.dtype if isinstance(t, _TypeOfTensors) else None
    if isinstance(t, str):
        found = names.get(t.rpartition(".")[2].removesuffix("Tensor"))
    if found is None:
        raise OperationTypeError(
            f"set_default_tensor_type(): {t!r} is no type of tensors on the CPU "
            f"(at {user_location()})"
        )
    set_default_dtype(found)


TENSOR_METHODS = {"type": type_, "new": new, "__new__": staticmethod(new_tensor)}
