"""Type promotion: from the operands a user gives to tensors of one dtype.

In: tensors, Python numbers, symbolic dimensions, NumPy scalars and arrays.
Out: tensors of the dtype that PyTorch's rules name. Operands fall into three
categories (tensors with dimensions, zero-dimensional tensors, numbers); a lower
category changes the result only where it is of a higher kind (bool < integer <
floating point). Reference: "Tensor Attributes", section type promotion, of
PyTorch's documentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flamec.dispatch import tensor_builder
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.ir.shape import SymbolicDim
from flamec.ir.types import (
    CPU,
    Device,
    DType,
    TensorType,
    bool_,
    int64,
    promote_types,
)
from flamec.state import process, thread
from flamec.tensor import RuntimeNumber, Tensor

Number = bool | int | float | SymbolicDim

__all__ = [
    "as_float_tensors",
    "as_tensors",
    "can_cast",
    "constant",
    "float_dtype",
    "is_number",
    "promote_types",
    "require_tensor",
    "result_dtype",
    "result_type",
]


def is_number(value: Any) -> bool:
    """Whether ``value`` acts as a Python number: it has a kind, but no dtype of its own."""
    return isinstance(value, (bool, int, float, SymbolicDim, np.number, np.bool_)) and not (
        isinstance(value, np.complexfloating)
    )


def plain_number(value: Any) -> Number:
    """``value`` as a Python number; symbolic dimensions stay what they are."""
    number: Number = value.item() if isinstance(value, np.generic) else value
    return number


def number_dtype(value: Any) -> DType:
    """The dtype a number stands for: bool, int64 or the default dtype."""
    if isinstance(value, RuntimeNumber):
        dtype = value._type.dtype
        return process.default_dtype if dtype.is_floating_point else dtype
    if isinstance(value, (bool, np.bool_)):
        return bool_
    if isinstance(value, (int, SymbolicDim, np.integer)):
        return int64
    return process.default_dtype


def float_dtype(dtype: DType) -> DType:
    """``dtype`` if it is floating point, else the default dtype."""
    return dtype if dtype.is_floating_point else process.default_dtype


# the rule ------------------------------------------------------------------------


def result_dtype(*operands: Any) -> DType:
    """The dtype in which tensors and numbers are combined, by PyTorch's rules."""
    dimensioned: DType | None = None
    zero_dimensional: DType | None = None
    number: DType | None = None
    for operand in operands:
        if isinstance(operand, Tensor):
            dtype = operand._type.dtype
            if operand._type.shape:
                dimensioned = _joined(dimensioned, dtype)
            elif isinstance(operand, RuntimeNumber):
                number = _joined(number, number_dtype(operand))
            else:
                zero_dimensional = _joined(zero_dimensional, dtype)
        else:
            number = _joined(number, number_dtype(operand))
    lower = _combined(zero_dimensional, number)
    result = _combined(dimensioned, lower)
    assert result is not None, "result_dtype needs an operand"
    return result


def _joined(a: DType | None, b: DType) -> DType:
    return b if a is None else promote_types(a, b)


_KIND_RANK = {"bool": 0, "uint": 1, "int": 1, "float": 2}


def _combined(higher: DType | None, lower: DType | None) -> DType | None:
    """A lower category counts only if its kind is higher."""
    if higher is None:
        return lower
    if lower is None or _KIND_RANK[lower.kind] <= _KIND_RANK[higher.kind]:
        return higher
    return promote_types(higher, lower)


def result_type(tensor1: Tensor | Number, tensor2: Tensor | Number) -> DType:
    """The dtype of an arithmetic operation on two tensors or numbers."""
    check_operands("result_type", (tensor1, tensor2))
    return result_dtype(tensor1, tensor2)


def can_cast(from_: DType, to: DType) -> bool:
    """Whether values of one dtype may be stored in another: the kind may not get lower."""
    return _KIND_RANK[from_.kind] <= _KIND_RANK[to.kind]


# operands to tensors ---------------------------------------------------------------

_CONSTANTS: dict[tuple[Any, DType, str, int], Tensor] = {}
_MOST_CONSTANTS = 1024


def constant(value: Any, dtype: DType, device: Device = CPU) -> Tensor:
    """A number as a zero-dimensional tensor; integers wrap around, as a C cast does.

    The tensor may be shared: it is an operand, never something to write to.
    """
    kind = value.__class__
    if (kind is float or kind is int) and thread.trace is None:  # the short way
        known = _CONSTANTS.get((value or repr(value), dtype, device.type, device.index))
        if known is not None:
            return known
    value = plain_number(value)
    if isinstance(value, SymbolicDim):
        if dtype.kind == "bool":
            return tensor_builder.ne(constant(value, int64, device), constant(0, int64, device))
        return tensor_builder.constant(value, TensorType((), dtype, device))
    shareable = thread.trace is None and value == value  # NaNs are not equal
    # 0.0 and -0.0 are equal; the parts of a device are hashed sooner than it
    key = (value or repr(value), dtype, device.type, device.index)
    if shareable:
        known = _CONSTANTS.get(key)
        if known is not None:
            return known
    result = tensor_builder.constant(_representable(value, dtype), TensorType((), dtype, device))
    if shareable:
        if len(_CONSTANTS) >= _MOST_CONSTANTS:
            _CONSTANTS.clear()
        if device == CPU:
            result._array.flags.writeable = False
        _CONSTANTS[key] = result
    return result


def _representable(value: bool | int | float, dtype: DType) -> bool | int | float:
    if dtype.kind == "bool":
        return bool(value)
    if dtype.kind == "float":
        return float(value)
    value = int(value)
    if not -(2**63) <= value < 2**63:
        raise OverflowError(f"{value} does not fit into int64 (at {user_location()})")
    bits = 8 * dtype.itemsize
    value %= 1 << bits
    if dtype.kind == "int" and value >= 1 << (bits - 1):
        value -= 1 << bits
    return value


def check_operands(name: str, operands: Sequence[Any]) -> None:
    """Every operand is a tensor or a number; TypeError naming the first that is not."""
    for position, operand in enumerate(operands, 1):
        if not isinstance(operand, Tensor) and not is_number(operand):
            raise OperationTypeError(
                f"{name}(): argument at position {position} must be a Tensor or a number, not "
                f"{type(operand).__name__} (at {user_location()})"
            )


def require_tensor(name: str, argument: str, value: Any) -> Tensor:
    """``value`` itself; TypeError unless it is a Tensor."""
    if not isinstance(value, Tensor):
        raise OperationTypeError(
            f"{name}(): argument {argument!r} must be Tensor, not {type(value).__name__} "
            f"(at {user_location()})"
        )
    return value


def require_a_tensor(name: str, *operands: Any) -> None:
    """TypeError unless at least one of the operands is a Tensor."""
    if not any(isinstance(x, Tensor) for x in operands):
        require_tensor(name, "input", operands[0])


def device_of(operands: Sequence[Any]) -> Device:
    """Where the result lives: with the first tensor that has dimensions, or the first tensor."""
    device: Device | None = None
    for operand in operands:
        if isinstance(operand, Tensor):
            if operand._type.shape:
                return operand._type.device
            device = device or operand._type.device
    return device or CPU


def convert_operands(operands: Sequence[Any], dtype: DType) -> list[Tensor]:
    """Tensors of ``dtype`` from tensors and numbers."""
    device = device_of(operands)
    return [
        tensor_builder.cast(x, dtype) if isinstance(x, Tensor) else constant(x, dtype, device)
        for x in operands
    ]


def all_alike(operands: Sequence[Any]) -> bool:
    """Whether the operands of an eager operation are tensors of one dtype."""
    if thread.trace is not None or not isinstance(operands[0], Tensor):
        return False
    dtype = operands[0]._type.dtype
    for operand in operands:
        if not isinstance(operand, Tensor) or operand._type.dtype is not dtype:
            return False
    return True


def as_tensors(name: str, *operands: Any) -> list[Tensor]:
    """The operands as tensors of their common dtype; TypeError for other kinds of operands."""
    if all_alike(operands):
        return list(operands)
    check_operands(name, operands)
    return convert_operands(operands, result_dtype(*operands))


def as_float_tensors(name: str, *operands: Any) -> list[Tensor]:
    """As ``as_tensors``, with integers and bools converted to the default dtype."""
    check_operands(name, operands)
    return convert_operands(operands, float_dtype(result_dtype(*operands)))


def scalar_of(value: Any, like: Tensor) -> Tensor:
    """A number in the dtype of ``like``, fractions cut off; RuntimeError if it is out of range."""
    dtype = like._type.dtype
    if dtype.kind in ("int", "uint") and isinstance(value, (int, float, np.number)):
        limits = np.iinfo(dtype.numpy)
        lowest = -limits.max if dtype.kind == "uint" else limits.min
        if not lowest <= value <= limits.max:
            raise OperationError(
                f"value {value!r} cannot be converted to type {dtype.name} without overflow "
                f"(at {user_location()})"
            )
    if isinstance(value, SymbolicDim):
        return tensor_builder.cast(constant(value, number_dtype(value), like._type.device), dtype)
    return constant(value, dtype, like._type.device)
