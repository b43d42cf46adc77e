"""Tensors from data (``tensor``, ``as_tensor``, ``from_numpy``) and in other dtypes (``to``).

In: Python numbers, nested sequences of numbers, arrays or tensors, NumPy arrays.
Out: tensors with the shape and dtype that PyTorch infers. ``tensor`` always
copies; ``from_numpy`` shares memory. While a function is compiled the data
become constants of the trace, in memory of its own; a NumPy array is read
anew at each call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flamec import pinning
from flamec.dispatch import apply_named, tensor_builder
from flamec.dlpack import CPU_TYPE, from_capsule
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.arguments import as_device, as_dtype, default_device
from flamec.functional.promotion import constant, number_dtype
from flamec.functional.shape import clone, contiguous
from flamec.gpu import gpu, move
from flamec.ir.shape import SymbolicDim
from flamec.ir.types import (
    CPU,
    Device,
    DType,
    TensorType,
    bfloat16,
    bool_,
    dtype_of_numpy,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    promote_types,
    uint8,
)
from flamec.numpy_numbers import NumPyNumber
from flamec.state import process, thread
from flamec.tensor import RuntimeNumber, Tensor


# data -------------------------------------------------------------------------------
def tensor(
    data: Any,
    *,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:
    """A new leaf tensor with a copy of ``data``.

    Without ``dtype`` it is inferred: bool, int64, the default dtype for Python
    floats, and NumPy's and tensors' own. Raises ValueError for ragged sequences,
    TypeError for data that are not numbers.
    """
    is_tensor = isinstance(data, Tensor) and not isinstance(data, RuntimeNumber)
    keeps = is_tensor and thread.default_device is None
    place = as_device("tensor", device, data._type.device if keeps else default_device())
    wanted = None if dtype is None else as_dtype("tensor", dtype)
    result = on_device(_from_data(data, wanted), place)
    if pin_memory:
        result = pinning.pin_memory(result)
    if requires_grad:
        result.requires_grad = True
    return result


def as_tensor(data: Any, dtype: DType | None = None, device: Any = None) -> Tensor:
    """``data`` as a tensor; tensors and NumPy arrays are shared where no conversion is needed."""
    if isinstance(data, Tensor) and not isinstance(data, RuntimeNumber):
        return to(data, device=device, dtype=dtype)
    if isinstance(data, np.ndarray):
        place = as_device("as_tensor", device, default_device())
        return to(from_numpy(data), device=place, dtype=dtype)
    return tensor(data, dtype=dtype, device=device)


def frombuffer(
    buffer: Any,
    *,
    dtype: DType,
    count: int = -1,
    offset: int = 0,
    requires_grad: bool = False,
) -> Tensor:
    """A vector that shares memory with an object that has Python's buffer protocol.

    ``offset``: bytes to skip; ``count``: elements, all that there are if negative.
    """
    element = as_dtype("frombuffer", dtype)
    view = memoryview(buffer)
    available = (view.nbytes - offset) // element.itemsize
    if (
        offset < 0
        or available < max(count, 1)
        or (count < 0 and (view.nbytes - offset) % element.itemsize)
    ):
        raise ValueError(
            f"frombuffer(): {count} elements of {element.name} from byte {offset} on do not fit a "
            f"buffer of {view.nbytes} bytes (at {user_location()})"
        )
    array = np.frombuffer(view, element.numpy, available if count < 0 else count, offset)
    result = from_numpy(array)
    if requires_grad:
        result.requires_grad = True
    return result


def asarray(
    obj: Any,
    *,
    dtype: DType | None = None,
    device: Any = None,
    copy: bool | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """As ``as_tensor``; ``copy=True`` always copies."""
    if copy:
        return tensor(obj, dtype=dtype, device=device, requires_grad=requires_grad)
    result = as_tensor(obj, dtype, device)
    if not requires_grad:
        return result.detach() if result.requires_grad else result
    result.requires_grad = True
    return result


def from_numpy(ndarray: np.ndarray) -> Tensor:
    """A tensor that shares memory with a NumPy array.

    Raises TypeError for a dtype that has no equivalent.
    """
    if not isinstance(ndarray, np.ndarray):
        raise OperationTypeError(
            f"expected np.ndarray (got {type(ndarray).__name__}) (at {user_location()})"
        )
    try:
        dtype = dtype_of_numpy(ndarray.dtype)
    except TypeError as error:
        raise OperationTypeError(f"from_numpy(): {error} (at {user_location()})") from error
    if type(ndarray) is not np.ndarray:
        ndarray = ndarray.view(np.ndarray)
    return Tensor._from_array(ndarray, TensorType(ndarray.shape, dtype))


def from_dlpack(ext_tensor: Any, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor that shares memory with an object that offers the DLPack protocol.

    ``device``: where the result is; ``copy``: True copies always, False never (ValueError where
    it would be needed). Memory of a GPU is read after the work that its owner has queued so far.
    Raises BufferError for elements or devices that flamec does not have.
    """
    shared = ext_tensor if isinstance(ext_tensor, Tensor) else _shared_memory(ext_tensor)
    place = as_device("from_dlpack", device, shared._type.device)
    if copy is False and place != shared._type.device:
        raise ValueError(
            f"from_dlpack(): memory on {shared._type.device} cannot be on {place} without a copy "
            f"(at {user_location()})"
        )
    return to(shared, device=place, copy=bool(copy))


def _shared_memory(ext_tensor: Any) -> Tensor:
    kind, index = ext_tensor.__dlpack_device__()
    if kind == CPU_TYPE:
        return from_numpy(np.from_dlpack(ext_tensor))
    device = as_device("from_dlpack", Device("cuda", int(index)))
    array = from_capsule(ext_tensor.__dlpack__(stream=gpu(device).stream_number()))
    return Tensor._from_array(array, TensorType(array.shape, array.dtype, array.device))


def constant_array(array: np.ndarray, device: Device = CPU) -> Tensor:
    """A new tensor with the values of ``array``, which nothing else refers to."""
    made = from_numpy(array)
    if device != CPU:
        made = Tensor._from_array(move(array, device), made._type.with_device(device))
    return made if thread.trace is None else thread.trace.constant(made)


def _from_data(data: Any, dtype: DType | None) -> Tensor:
    if isinstance(data, Tensor):
        own = _scalar_dtype(data, [], 0)
        return copied(apply_named("detach", data), dtype or own)
    if isinstance(data, SymbolicDim):
        dtype = dtype or int64
        return tensor_builder.constant(data, TensorType((), dtype))
    if isinstance(data, np.generic):
        data = np.asarray(data)
    if isinstance(data, (bool, int, float)):
        return constant_array(_numbers(data, (), dtype))
    if isinstance(data, np.ndarray):
        shared = from_numpy(data)
        host = None if thread.trace is None else thread.trace.host
        if host is not None and host.arrays.know(data):
            shared = constant_array(data.copy())
        return copied(shared, dtype or shared._type.dtype)
    if not _is_sequence(data) and hasattr(data, "__array__"):
        return _from_data(np.asarray(data), dtype)
    shape: list[int] = []
    found = _inspect(data, 0, shape)
    if found.plain:
        return constant_array(_numbers(data, tuple(shape), dtype))
    return _assembled(data, tuple(shape), dtype or found.dtype or process.default_dtype)


def copied(tensor: Tensor, dtype: DType) -> Tensor:
    """A copy of ``tensor`` in ``dtype``, in memory of its own."""
    result: Tensor = apply_named("convert", tensor, dtype=dtype)
    return result


def _is_sequence(data: Any) -> bool:
    return isinstance(data, (list, tuple, range, Sequence)) and not isinstance(data, (str, bytes))


class _Found:
    """What a nested sequence holds: only Python numbers (``plain``), and the common dtype."""

    def __init__(self) -> None:
        self.plain = True
        self.dtype: DType | None = None

    def add(self, dtype: DType) -> None:
        self.dtype = dtype if self.dtype is None else promote_types(self.dtype, dtype)


_PLAIN = {bool, int, float}


def _inspect(data: Any, depth: int, shape: list[int], found: _Found | None = None) -> _Found:
    """Check that ``data`` is rectangular; its sizes go to ``shape``."""
    found = found or _Found()
    if not _is_sequence(data):
        if depth < len(shape):
            raise OperationTypeError(
                f"tensor(): not a sequence: {data!r} at dim {depth}, where others have "
                f"length {shape[depth]} (at {user_location()})"
            )
        if isinstance(data, (Tensor, np.ndarray, SymbolicDim, np.generic)):
            found.plain = False
        found.add(_scalar_dtype(data, shape, depth))
        return found
    if depth == len(shape):
        if found.dtype is not None:
            raise OperationTypeError(
                f"tensor(): a {type(data).__name__} at dim {depth} where others are numbers "
                f"(at {user_location()})"
            )
        shape.append(len(data))
    elif shape[depth] != len(data):
        raise ValueError(
            f"expected sequence of length {shape[depth]} at dim {depth} (got {len(data)}) "
            f"(at {user_location()})"
        )
    kinds = set(map(type, data))
    if kinds and kinds <= _PLAIN and len(shape) == depth + 1:
        for kind in kinds:
            found.add(_scalar_dtype(kind(0), shape, depth))
        return found
    for element in data:
        _inspect(element, depth + 1, shape, found)
    return found


def _scalar_dtype(value: Any, shape: list[int], depth: int) -> DType:
    if isinstance(value, NumPyNumber):
        return value._scalar_dtype
    if isinstance(value, Tensor):
        return number_dtype(value) if isinstance(value, RuntimeNumber) else value._type.dtype
    if isinstance(value, (np.ndarray, np.generic)):
        return dtype_of_numpy(value.dtype)
    if isinstance(value, bool):
        return bool_
    if isinstance(value, (int, SymbolicDim)):
        return int64
    if isinstance(value, float):
        return process.default_dtype
    if isinstance(value, (str, bytes)):
        raise OperationTypeError(
            f"tensor(): invalid data type {type(value).__name__!r} (at {user_location()})"
        )
    raise OperationTypeError(
        f"tensor(): could not infer dtype of {type(value).__name__} (at {user_location()})"
    )


def _numbers(data: Any, shape: tuple[int, ...], dtype: DType | None) -> np.ndarray:
    """An array of Python numbers, in the inferred dtype or in ``dtype``."""
    try:
        array = np.array(data)
    except OverflowError as error:
        raise _overflow(data, int64) from error
    if array.shape != shape:  # an empty sequence among others
        array = array.reshape(shape)
    if array.dtype.kind not in "bif":
        raise _overflow(data, int64)
    if array.dtype.kind == "f" or not array.size:
        inferred = process.default_dtype
    else:
        inferred = bool_ if array.dtype.kind == "b" else int64
    wanted = dtype or inferred
    if array.dtype == wanted.numpy:
        return array
    if wanted.kind in ("int", "uint") and array.size:
        limits = np.iinfo(wanted.numpy)
        lowest = -limits.max if wanted.kind == "uint" else limits.min
        if not (np.all(array >= lowest) and np.all(array <= limits.max)):
            raise _overflow(data, wanted)
    with np.errstate(all="ignore"):
        return array.astype(wanted.numpy)


def _overflow(data: Any, dtype: DType) -> OperationError:
    text = repr(data) if isinstance(data, (bool, int, float)) else "a number"
    return OperationError(
        f"tensor(): {text} cannot be converted to type {dtype.name} without overflow "
        f"(at {user_location()})"
    )


def _assembled(data: Any, shape: tuple[int, ...], dtype: DType) -> Tensor:
    """A tensor from nested sequences that hold tensors, arrays or symbolic sizes."""
    parts: list[Tensor] = []
    inner: tuple[Any, ...] | None = None

    def visit(element: Any) -> None:
        nonlocal inner
        if _is_sequence(element):
            for part in element:
                visit(part)
            return
        part = _from_data(element.item() if isinstance(element, np.generic) else element, dtype)
        have = part._type.shape
        if isinstance(element, Tensor) and have and part.shape.numel() != 1:
            raise ValueError(
                f"only one element tensors can be converted to Python scalars "
                f"(at {user_location()})"
            )
        if isinstance(element, Tensor) and have:
            have = ()
        if inner is not None and inner != have:
            raise ValueError(
                f"tensor(): arrays of shapes {list(inner)} and {list(have)} in one sequence "
                f"(at {user_location()})"
            )
        inner = have
        parts.append(tensor_builder.reshape(part, shape=(1, *have)))

    visit(data)
    joined = apply_named("concatenate", *parts, axis=0)
    result: Tensor = apply_named("reshape", joined, shape=(*shape, *(inner or ())))
    return result if thread.trace is None else thread.trace.fresh(result)


# dtype and device --------------------------------------------------------------------
def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The tensor in another dtype or on another device; itself if nothing changes.

    ``to(dtype)``, ``to(device, dtype)``, ``to(other)``; ``copy=True`` always copies;
    ``memory_format`` arranges the elements in memory.
    """
    format = kwargs.pop("memory_format", None)
    if format is not None:
        made = to(self, *args, **kwargs)
        return contiguous(made, format) if made is self else clone(made, memory_format=format)
    dtype, device, copy, non_blocking = _target(args, kwargs)
    place = as_device("to", device, self._type.device)
    if dtype is None or dtype is self._type.dtype:
        if place != self._type.device:
            return on_device(self, place, non_blocking)
        return copied(self, self._type.dtype) if copy else self
    return on_device(copied(self, dtype), place)


def on_device(tensor: Tensor, device: Device, non_blocking: bool = False) -> Tensor:
    """The tensor itself if it is on the device, else a copy there.

    ``non_blocking``: do not wait until a tensor in pinned memory has been read.
    """
    if tensor._type.device == device:
        return tensor
    if non_blocking and thread.trace is None:
        return apply_named("to_device", tensor, device=device, non_blocking=True)
    result: Tensor = apply_named("to_device", tensor, device=device)
    return result


def _target(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[DType | None, Any, bool, bool]:
    given = list(args)
    dtype, device = kwargs.pop("dtype", None), kwargs.pop("device", None)
    other = kwargs.pop("other", None)
    flags = {name: bool(kwargs.pop(name, False)) for name in ("non_blocking", "copy")}
    if kwargs:
        raise OperationTypeError(
            f"to() got an unexpected keyword argument {next(iter(kwargs))!r} (at {user_location()})"
        )
    if given and isinstance(given[0], Tensor):
        other = given.pop(0)
    if other is not None:
        dtype, device = other._type.dtype, other._type.device
    elif given and (given[0] is None or isinstance(given[0], (str, Device))):
        device = given.pop(0)
        if given and not isinstance(given[0], bool):
            dtype = given.pop(0)
    elif given:
        dtype = given.pop(0)
    for name, value in zip(flags, given, strict=False):
        flags[name] = bool(value)
    wanted = None if dtype is None else as_dtype("to", dtype)
    return wanted, device, flags["copy"], flags["non_blocking"]


def type_as(self: Tensor, other: Tensor) -> Tensor:
    """The tensor in the dtype of ``other``."""
    return to(self, other)


def cpu(self: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor on the CPU: itself if it is there."""
    return on_device(self, CPU)


def cuda(
    self: Tensor, device: Any = None, non_blocking: bool = False, memory_format: Any = None
) -> Tensor:
    """The tensor on a GPU, the current one by default; RuntimeError where there is none."""
    place = "cuda" if device is None else device
    return to(self, place, non_blocking=non_blocking, memory_format=memory_format)


def _conversion(name: str, dtype: DType) -> Any:
    def convert(self: Tensor, memory_format: Any = None) -> Tensor:
        return to(self, dtype)

    convert.__name__ = convert.__qualname__ = name
    convert.__doc__ = f"The tensor as {dtype!r}; itself if it is that already."
    return convert


# tensors like another -----------------------------------------------------------------
def new_tensor(
    self: Tensor, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """``tensor(data)`` with the dtype and device of ``self``."""
    place = as_device("new_tensor", device, self._type.device)
    return tensor(data, dtype=dtype or self._type.dtype, device=place, requires_grad=requires_grad)


def scalar_tensor(
    s: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A zero-dimensional tensor of one number, of the default dtype unless ``dtype`` is given."""
    target = as_device("scalar_tensor", device, default_device())
    wanted = process.default_dtype if dtype is None else as_dtype("scalar_tensor", dtype)
    result = copied(constant(s, wanted, target), wanted)
    if requires_grad:
        result.requires_grad = True
    return result


TENSOR_METHODS = {
    "to": to,
    "type_as": type_as,
    "cpu": cpu,
    "cuda": cuda,
    "new_tensor": new_tensor,
    **{
        name: _conversion(name, dtype)
        for name, dtype in {
            "double": float64,
            "float": float32,
            "half": float16,
            "bfloat16": bfloat16,
            "long": int64,
            "int": int32,
            "short": int16,
            "char": int8,
            "byte": uint8,
            "bool": bool_,
        }.items()
    },
}
