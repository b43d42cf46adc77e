"""What the standard's functions tell of dtypes and devices."""

from __future__ import annotations

from typing import Any

from flamec import dtype_limits, gpu
from flamec.errors import OperationTypeError, user_location
from flamec.functional import promotion
from flamec.ir.types import (
    CPU,
    Device,
    DType,
    bool_,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
)
from flamec.state import process
from flamec.tensor import Tensor

_DTYPES: dict[str, DType] = {
    "bool": bool_,
    "int8": int8,
    "int16": int16,
    "int32": int32,
    "int64": int64,
    "uint8": uint8,
    "float32": float32,
    "float64": float64,
}
_KINDS = {
    "bool": ("bool",),
    "signed integer": ("int",),
    "unsigned integer": ("uint",),
    "integral": ("int", "uint"),
    "real floating": ("float",),
    "complex floating": (),
    "numeric": ("int", "uint", "float"),
}


class NamespaceInfo:
    """The devices and dtypes that there are."""

    def capabilities(self) -> dict[str, Any]:
        """What need not be there by the standard."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": None}

    def default_device(self) -> Device:
        """The device of new arrays."""
        return CPU

    def devices(self) -> list[Device]:
        """The CPU and the GPUs of this process."""
        return [CPU, *(Device("cuda", i) for i in range(gpu.device_count()))]

    def default_dtypes(self, *, device: Any = None) -> dict[str, Any]:
        """The dtypes of new arrays by kind; there is no complex one."""
        return {
            "real floating": process.default_dtype,
            "complex floating": None,
            "integral": int64,
            "indexing": int64,
        }

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, DType]:
        """The dtypes by name, of one kind or several if given."""
        return {n: d for n, d in _DTYPES.items() if kind is None or isdtype(d, kind)}


def __array_namespace_info__() -> NamespaceInfo:
    """The devices and dtypes that there are."""
    return NamespaceInfo()


def isdtype(dtype: DType, kind: Any) -> bool:
    """Whether a dtype is ``kind``: a dtype, the name of a kind, or a tuple of these."""
    if isinstance(kind, tuple):
        return any(isdtype(dtype, one) for one in kind)
    if isinstance(kind, DType):
        return dtype is kind
    if kind not in _KINDS:
        raise ValueError(f"isdtype(): unknown kind {kind!r}; known: {', '.join(_KINDS)}")
    return dtype.kind in _KINDS[kind]


def astype(x: Tensor, dtype: DType, /, *, copy: bool = True, device: Any = None) -> Tensor:
    """``x`` in another dtype; the array itself if nothing changes and ``copy`` is False."""
    return x.to(device=device, dtype=dtype, copy=copy)


def can_cast(from_: DType | Tensor, to: DType, /) -> bool:
    """Whether promotion leads from one dtype to the other."""
    dtype = from_.dtype if isinstance(from_, Tensor) else from_
    return promotion.promote_types(dtype, to) is to


def finfo(type: DType | Tensor, /) -> Any:
    """The limits of a floating-point dtype."""
    return dtype_limits.finfo(type.dtype if isinstance(type, Tensor) else type)


def iinfo(type: DType | Tensor, /) -> Any:
    """The limits of an integer dtype."""
    return dtype_limits.iinfo(type.dtype if isinstance(type, Tensor) else type)


def result_type(*arrays_and_dtypes: Any) -> DType:
    """The dtype of the result of an operation on arrays, dtypes and Python numbers."""
    found: DType | None = None
    numbers = []
    for one in arrays_and_dtypes:
        if isinstance(one, (Tensor, DType)):
            dtype = one.dtype if isinstance(one, Tensor) else one
            found = dtype if found is None else promotion.promote_types(found, dtype)
        else:
            numbers.append(one)
    if found is None:
        raise OperationTypeError(
            f"result_type(): needs at least one array or dtype (at {user_location()})"
        )
    for number in numbers:
        if isinstance(number, float) and not found.is_floating_point:
            found = process.default_dtype
        elif not isinstance(number, bool) and found.kind == "bool":
            found = int64
    return found
