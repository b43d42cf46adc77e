"""Element types, devices and the type of a tensor value.

What comes in: dtype names, shapes (tuples of dimensions, see ``shape.py``).
What goes out: immutable, hashable descriptions. Two equal types describe
arrays that a kernel may treat alike.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from flamec.ir.shape import Dim, format_shape, has_symbols, structural_key


class DType:
    """One element type; the instances below are the only ones.

    Attributes: ``name`` (PyTorch's), ``numpy`` (the NumPy dtype of storage),
    ``kind`` (``"bool"``, ``"uint"``, ``"int"`` or ``"float"``), ``itemsize`` in bytes.
    """

    __slots__ = ("itemsize", "kind", "name", "numpy")

    def __init__(self, name: str, numpy_dtype: np.dtype, kind: str) -> None:
        self.name = name
        self.numpy = numpy_dtype
        self.kind = kind
        self.itemsize = int(numpy_dtype.itemsize)

    @property
    def is_floating_point(self) -> bool:
        return self.kind == "float"

    @property
    def is_signed(self) -> bool:
        """Whether there are negative values."""
        return self.kind in ("int", "float")

    @property
    def is_complex(self) -> bool:
        """Whether values are complex numbers: no type's are."""
        return False

    @property
    def is_half(self) -> bool:
        """True for the 16-bit floats, which are computed in float32 and rounded once."""
        return self.kind == "float" and self.itemsize == 2

    @property
    def compute(self) -> DType:
        """The type arithmetic is done in: float32 for 16-bit floats, else itself."""
        return float32 if self.is_half else self

    def __repr__(self) -> str:
        return f"flamec.{self.name}"

    def __reduce__(self) -> tuple[object, ...]:
        return (dtype_named, (self.name,))

    def __deepcopy__(self, memo: object) -> DType:
        return self

    def __copy__(self) -> DType:
        return self


float64 = DType("float64", np.dtype(np.float64), "float")
float32 = DType("float32", np.dtype(np.float32), "float")
float16 = DType("float16", np.dtype(np.float16), "float")
bfloat16 = DType("bfloat16", np.dtype(ml_dtypes.bfloat16), "float")
int64 = DType("int64", np.dtype(np.int64), "int")
int32 = DType("int32", np.dtype(np.int32), "int")
int16 = DType("int16", np.dtype(np.int16), "int")
int8 = DType("int8", np.dtype(np.int8), "int")
uint8 = DType("uint8", np.dtype(np.uint8), "uint")
bool_ = DType("bool", np.dtype(np.bool_), "bool")

ALL_DTYPES = (float64, float32, float16, bfloat16, int64, int32, int16, int8, uint8, bool_)
_BY_NAME = {d.name: d for d in ALL_DTYPES}
_BY_NUMPY = {d.numpy: d for d in ALL_DTYPES}


def lowest(dtype: DType) -> bool | int | float:
    """What every value of the dtype is at least."""
    if dtype.kind == "bool":
        return False
    return -math.inf if dtype.kind == "float" else int(np.iinfo(dtype.numpy).min)


def highest(dtype: DType) -> bool | int | float:
    """What every value of the dtype is at most."""
    if dtype.kind == "bool":
        return True
    return math.inf if dtype.kind == "float" else int(np.iinfo(dtype.numpy).max)


def dtype_named(name: str) -> DType:
    """The dtype called ``name``, such as ``"float32"``; ValueError if there is none."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise ValueError(f"unknown dtype {name!r}; known: {', '.join(_BY_NAME)}") from None


def dtype_of_numpy(dtype: np.dtype) -> DType:
    """The dtype that stores a NumPy dtype unchanged; TypeError if none does."""
    try:
        return _BY_NUMPY[np.dtype(dtype)]
    except KeyError:
        raise TypeError(
            f"NumPy dtype {dtype} has no flamec equivalent; supported: {', '.join(_BY_NAME)}"
        ) from None


def promote_types(a: DType, b: DType) -> DType:
    """The smallest dtype that both convert to, by PyTorch's lattice.

    Order: bool < uint8/int8 < int16 < int32 < int64 < float16/bfloat16 <
    float32 < float64; uint8 with int8 gives int16, float16 with bfloat16 float32.
    """
    if a is b:
        return a
    if a.kind == "float" or b.kind == "float":
        if a.kind != "float":
            return b
        if b.kind != "float":
            return a
        if a.itemsize == b.itemsize:
            return float32
        return a if a.itemsize > b.itemsize else b
    if a.kind == "bool":
        return b
    if b.kind == "bool":
        return a
    if a.itemsize == b.itemsize:
        return int16
    return a if a.itemsize > b.itemsize else b


_DEVICE_TYPES = (
    "cpu", "cuda", "ipu", "xpu", "mkldnn", "opengl", "opencl", "ideep", "hip", "ve", "fpga", "maia",
    "xla", "lazy", "vulkan", "mps", "meta", "hpu", "mtia", "privateuseone",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Device:
    """Where an array lives: ``Device("cpu")``, ``Device("cuda", 0)``, ``Device("cuda:0")``.

    ``Device(1)`` is the second GPU, and a device given as such is itself. The types are PyTorch's,
    of which "cpu", "cuda" and "meta" can be used; RuntimeError for any other name.

    As a context manager it says where tensors are made that are given no device; what that takes
    is in ``entered`` and ``left``, set by who makes tensors (``flamec/default_device.py``).
    """

    entered: ClassVar[Callable[[Device], None]]
    left: ClassVar[Callable[[], None]]
    type: str = "cpu"
    index: int = 0

    def __post_init__(self) -> None:
        given: Any = self.type
        if isinstance(given, Device):
            object.__setattr__(self, "type", given.type)
            object.__setattr__(self, "index", given.index)
            return
        if isinstance(given, int):
            object.__setattr__(self, "type", "cuda")
            object.__setattr__(self, "index", given)
            return
        kind, separator, index = given.partition(":")
        if kind not in _DEVICE_TYPES:
            raise RuntimeError(
                f"Expected one of {', '.join(_DEVICE_TYPES)} device type at start of device "
                f"string: {kind}"
            )
        if separator:
            if not index.isdecimal() or str(int(index)) != index:
                raise RuntimeError(f"Invalid device string: {self.type!r}")
            object.__setattr__(self, "type", kind)
            object.__setattr__(self, "index", int(index))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Device):
            return NotImplemented
        return self.index == other.index and self.type == other.type

    def __hash__(self) -> int:
        return self.index  # keys of caches have devices: sooner than a hash of the name, too

    def __str__(self) -> str:
        return self.type if self.type == "cpu" else f"{self.type}:{self.index}"

    def __enter__(self) -> Device:
        Device.entered(self)
        return self

    def __exit__(self, *_: object) -> None:
        Device.left()

    def __repr__(self) -> str:
        if self.type == "cpu":
            return "device(type='cpu')"
        return f"device(type='{self.type}', index={self.index})"


CPU = Device("cpu")


_firsts: dict[tuple[object, ...], TensorType] = {}
_next_number = itertools.count(2)  # no bool is equal to one
_numbering = threading.Lock()
_MOST_NUMBERED = 1 << 16


def _renew_numbering() -> None:
    """For a forked child: another thread may have held the lock. Each step under it is whole."""
    global _numbering
    _numbering = threading.Lock()


os.register_at_fork(after_in_child=_renew_numbering)


class TensorType:
    """Shape, dtype and device of a tensor value; immutable, compared structurally."""

    __slots__ = ("_hash", "_key", "_number", "device", "dtype", "estimated_bytes", "shape")

    def __init__(self, shape: tuple[Dim, ...], dtype: DType, device: Device = CPU) -> None:
        self.shape = shape
        self.dtype = dtype
        self.device = device
        self._key: tuple[object, ...] | None = None
        self._hash: int | None = None
        self._number = 0
        self.estimated_bytes: int | None = None  # ``estimates.value_bytes`` keeps it here

    @property
    def number(self) -> int:
        """What stands for the type in keys of caches, because an int is found sooner.

        Types with the same number are equal; equal types have the same nearly always.
        """
        return self._number or self.first._number

    @property
    def first(self) -> TensorType:
        """An equal type, nearly always the same: what is found out about it is found once."""
        with _numbering:
            if len(_firsts) >= _MOST_NUMBERED:
                _firsts.clear()
            first = _firsts.setdefault(self.key, self)
            if not first._number:
                first._number = next(_next_number)
            self._number = first._number
        return first

    @property
    def key(self) -> tuple[object, ...]:
        if self._key is None:
            device = self.device
            self._key = structural_key(self.shape), self.dtype.name, device.type, device.index
        return self._key

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        return not has_symbols(self.shape)

    def with_shape(self, shape: tuple[Dim, ...]) -> TensorType:
        return TensorType(shape, self.dtype, self.device)

    def with_device(self, device: Device) -> TensorType:
        return TensorType(self.shape, self.dtype, device)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(self.shape, dtype, self.device)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, TensorType) and self.key == other.key)

    def __reduce__(self) -> Any:
        return (TensorType, (self.shape, self.dtype, self.device))  # numbers are the process's

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(self.key)
        return self._hash

    def __str__(self) -> str:
        text = f"{self.dtype.name}{format_shape(self.shape)}"
        return text if self.device.type == "cpu" else f"{text}@{self.device}"

    __repr__ = __str__
