"""DLPack for arrays on GPUs: memory shared with PyTorch, CuPy, JAX and others, without a copy.

In: a ``DeviceArray``, or a capsule that another library made. Out: a capsule, or a
``DeviceArray``. The structures are those of DLPack's ``dlpack.h`` (version 0.8, which all
libraries read) and the protocol is that of the Python array API standard (2024.12,
``__dlpack__``). Invariant: the memory lives until both sides have let it go.
"""

from __future__ import annotations

import ctypes
from typing import Any

from flamec.device_array import DeviceArray
from flamec.ir.types import ALL_DTYPES, Device, DType

CPU_TYPE, CUDA_TYPE, _CUDA_MANAGED_TYPE = 1, 2, 13  # DLDeviceType
_KINDS = {"int": 0, "uint": 1, "float": 2, "bool": 6}  # DLDataTypeCode
_BFLOAT = 4


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _ManagedTensor(ctypes.Structure):
    _fields_ = (
        ("tensor", _Tensor),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


_NAME, _USED = b"dltensor", b"used_dltensor"
_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, _Deleter)
_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype = ctypes.c_void_p
_pointer_of.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype = ctypes.c_int
_is_valid.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_rename = ctypes.pythonapi.PyCapsule_SetName
_rename.argtypes = (ctypes.c_void_p, ctypes.c_char_p)

_exported: dict[int, tuple[Any, ...]] = {}  # what capsules and their consumers keep alive


def _let_go(address: int) -> None:
    """Called by the consumer when it is done."""
    _exported.pop(address, None)


def _drop_capsule(capsule: int) -> None:
    """Called when a capsule goes: memory that nobody took is let go with it."""
    if _is_valid(capsule, _NAME):
        _let_go(_pointer_of(capsule, _NAME))


_deleter, _destructor = _Deleter(_let_go), _Deleter(_drop_capsule)  # C functions, kept alive


def _type_of(dtype: DType) -> _DataType:
    code = _BFLOAT if dtype.name == "bfloat16" else _KINDS[dtype.kind]
    return _DataType(code, 8 * dtype.itemsize, 1)


_DTYPES = {(t.code, t.bits): dtype for dtype in ALL_DTYPES for t in [_type_of(dtype)]}


def to_capsule(array: DeviceArray) -> Any:
    """A capsule named ``dltensor`` for an array on a GPU."""
    ndim, itemsize = len(array.shape), array.dtype.itemsize
    shape = (ctypes.c_int64 * ndim)(*array.shape)
    strides = (ctypes.c_int64 * ndim)(*(s // itemsize for s in array.strides))
    managed = _ManagedTensor()
    tensor = managed.tensor
    tensor.data, tensor.byte_offset = array.address, 0
    tensor.device_type, tensor.device_id = CUDA_TYPE, array.device.index
    tensor.ndim, tensor.dtype = ndim, _type_of(array.dtype)
    tensor.shape = ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64))
    tensor.strides = ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64))
    managed.deleter = ctypes.cast(_deleter, ctypes.c_void_p).value
    address = ctypes.addressof(managed)
    _exported[address] = (managed, shape, strides, array)  # itself: its references are counted
    return _new_capsule(address, _NAME, _destructor)


class ForeignMemory:
    """Memory of another library; it is told when the last array in it is gone."""

    def __init__(self, address: int, deleter: int | None) -> None:
        self._address = address
        self._deleter = None if deleter is None else _Deleter(deleter)

    def __del__(self) -> None:
        if self._deleter is not None:
            self._deleter(self._address)


def from_capsule(capsule: Any) -> DeviceArray:
    """The array in a capsule; BufferError for what flamec cannot hold."""
    place = id(capsule)  # the address of the capsule, as CPython has it
    if not _is_valid(place, _NAME):
        raise BufferError("from_dlpack: the capsule is not a DLPack tensor, or was used before")
    address = _pointer_of(place, _NAME)
    tensor = _ManagedTensor.from_address(address).tensor
    if tensor.device_type not in (CUDA_TYPE, _CUDA_MANAGED_TYPE):
        raise BufferError(f"from_dlpack: memory of device type {tensor.device_type}")
    dtype = _DTYPES.get((tensor.dtype.code, tensor.dtype.bits))
    if dtype is None or tensor.dtype.lanes != 1:
        raise BufferError(
            f"from_dlpack: elements of type code {tensor.dtype.code} with {tensor.dtype.bits} "
            f"bits in {tensor.dtype.lanes} lanes have no dtype here"
        )
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = None
    if tensor.strides:
        strides = tuple(tensor.strides[i] * dtype.itemsize for i in range(tensor.ndim))
    _rename(place, _USED)
    memory = ForeignMemory(address, _ManagedTensor.from_address(address).deleter)
    return DeviceArray(
        Device("cuda", tensor.device_id),
        shape,
        dtype,
        (tensor.data or 0) + tensor.byte_offset,
        memory,
        strides,
    )
