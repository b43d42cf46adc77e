"""PyTorch's names of tensor types, such as ``flamec.FloatTensor``, and ``Tensor.type``."""

from __future__ import annotations

from typing import Any

from flamec.conversion import to
from flamec.errors import user_location
from flamec.ir.types import (
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
from flamec.tensor import Tensor

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


def type_(self: Tensor, dtype: Any = None, non_blocking: bool = False) -> Any:
    """The name of the tensor's type, or the tensor converted to ``dtype``."""
    if dtype is None:
        return f"flamec.{TYPE_NAMES[self._type.dtype]}Tensor"
    if isinstance(dtype, str):
        for known, name in TYPE_NAMES.items():
            if dtype in (f"flamec.{name}Tensor", f"flamec.{known.name}", known.name):
                return to(self, known)
        raise ValueError(f"invalid type: {dtype!r} (at {user_location()})")
    return to(self, dtype)


TENSOR_METHODS = {"type": type_}
