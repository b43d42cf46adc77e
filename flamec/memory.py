"""Where a tensor's elements are and how they get there: strides and writes.

In: tensors. Everything that changes memory goes through ``dispatch.write``; what
replaces a tensor's memory (``data``, ``set_``) is refused while a function is
compiled, unless it can be a write.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flamec import layout
from flamec.arithmetic_in_place import copied, filled
from flamec.conversion import on_device
from flamec.copying import deepcopy, reduce_ex, shallow_copy
from flamec.device_array import DeviceArray
from flamec.dispatch import apply_named, tensor_builder, write
from flamec.dlpack import CPU_TYPE, CUDA_TYPE, to_capsule
from flamec.errors import OperationError, unrepeatable, user_location
from flamec.functional.arguments import as_device, as_dtype
from flamec.functional.dimensions import dimension, sizes
from flamec.functional.indexing import fit
from flamec.functional.promotion import constant, is_number, require_tensor, scalar_of
from flamec.functional.shape import (
    clone,
    permute,
    squeeze,
    t,
    transpose,
    unsqueeze,
    view,
    window,
)
from flamec.given_memory import move_into, require_write, undetached
from flamec.gpu import gpu_of
from flamec.ir.graph import Node
from flamec.ir.shape import (
    Dim,
    SymbolicDim,
    equal,
    evaluate_dim,
    format_shape,
    structural_key,
)
from flamec.ir.types import DType, TensorType
from flamec.memory_format import last_channels, strided
from flamec.pinning import pin_memory
from flamec.state import no_grad, thread
from flamec.tape import tape_value
from flamec.tensor import Size, Tensor
from flamec.traced_leaves import cut_off
from flamec.values import concrete_array


# writing ------------------------------------------------------------------------------
def copy_(self: Tensor, src: Tensor, non_blocking: bool = False) -> Tensor:
    """Store ``src``, broadcast and converted, in the tensor."""
    require_tensor("copy_", "src", src)
    if copied(self, src):
        return self
    value = tensor_builder.cast(on_device(src, self._type.device, non_blocking), self._type.dtype)
    return write(self, fit(value, self._type.shape, "the source"), "copy_")


def fill_(input: Tensor, value: Any) -> Tensor:
    """Store one number, or the value of a zero-dimensional tensor, everywhere."""
    if isinstance(value, Tensor):
        if value._type.shape:
            raise OperationError(
                f"fill_ only supports 0-dimension value tensor but got tensor with "
                f"{len(value._type.shape)} dimensions (at {user_location()})"
            )
        source = tensor_builder.cast(on_device(value, input._type.device), input._type.dtype)
    elif is_number(value):
        if filled(input, value):
            return input
        source = scalar_of(value, input)
    else:
        raise TypeError(
            f"fill_(): argument 'value' must be a number or a Tensor, not {type(value).__name__}"
        )
    return write(input, source, "fill_")


def fill(input: Tensor, value: Any) -> Tensor:
    """A copy of ``input`` with one number everywhere."""
    return fill_(clone(input), value)


def zero_(input: Tensor) -> Tensor:
    """Store zero everywhere."""
    if filled(input, 0):
        return input
    return write(input, constant(0, input._type.dtype, input._type.device), "zero_")


def detach_(self: Tensor) -> Tensor:
    """Cut the tensor off from what it was computed from; it becomes a leaf."""
    if any(op.name != "detach" for op, _ in self._steps):
        raise OperationError(
            f"Can't detach views in-place. Use detach() instead (at {user_location()})"
        )
    if thread.trace is not None:
        cut_off(thread.trace, self)
        return self
    self._storage.value = None
    self._value = None
    self._requires_grad = False
    return self


def data(self: Tensor) -> Tensor:
    """The same memory without autograd history (the property ``data``)."""
    result: Tensor = apply_named("detach", self)
    return result


def set_data(self: Tensor, other: Tensor) -> None:
    """Let the tensor have the memory of ``other`` from now on; its identity stays."""
    require_tensor("data", "value", other)
    if (trace := thread.trace) is not None:
        if self._storage is other._storage and self._steps == undetached(other):
            return
        if structural_key(self._type.shape) != structural_key(other._type.shape):
            raise OperationError(
                f"data: while compiling, a tensor of shape {format_shape(self._type.shape)} cannot "
                f"become one of shape {format_shape(other._type.shape)} (at {user_location()})"
            )
        require_write(trace, self, other)
        with no_grad():
            copy_(self, other)
        move_into(trace, self, other)
        return
    if other._array is None:
        raise OperationError(
            f"data: a tensor of a compiled function is used outside it (at {user_location()})"
        )
    requires_grad = self._requires_grad
    if requires_grad and not other._type.dtype.is_floating_point:
        raise OperationError(
            f"data set to a tensor of dtype {other._type.dtype.name} on a tensor that requires "
            f"grad (at {user_location()})"
        )
    self._adopt(other)


def becoming(name: str, function: Any) -> Any:
    """The method that turns a tensor into the view of itself that ``function`` makes."""

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self._requires_grad and thread.grad_enabled:
            raise OperationError(
                f"{name}: a leaf tensor that requires grad is changed in place (at "
                f"{user_location()})"
            )
        if thread.trace is not None and self._trace is None:
            raise unrepeatable(f"{name} of a tensor made outside")
        view = function(self, *args, **kwargs)
        self._array, self._type, self._steps = view._array, view._type, view._steps
        self._value, self._value_version = view._value, view._value_version
        self._cached = view._cached
        return self

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"In-place form of ``{name.rstrip('_')}``: the tensor itself changes shape."
    return method


def fill_diagonal_(self: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """Store a number on the main diagonal; ``wrap`` goes on below it in a tall matrix."""
    shape = self._type.shape
    if len(shape) < 2 or (len(shape) > 2 and any(not equal(d, shape[0]) for d in shape)):
        raise OperationError(
            "fill_diagonal_: needs a matrix, or dimensions of equal length, not "
            f"{format_shape(shape)} (at {user_location()})"
        )
    if len(shape) == 2 and not wrap:
        fill_(apply_named("diagonal", self, offset=0, axis1=0, axis2=1), fill_value)
        return self
    step = sum(int(s) for s in layout.row_major(shape))
    count = int(self.shape.numel())
    limit = count if wrap else min(count, step * int(shape[0]))
    fill_(window(view(self, -1), 0, 0, -(-limit // step), step), fill_value)
    return self


# where the elements are ------------------------------------------------------------------
def stride(self: Tensor, dim: int | None = None) -> Any:
    """The distance in memory, in elements, between neighbours along each dimension."""
    layout.ask(self, "strides")
    strides, _ = layout.layout(self)
    if dim is None:
        return strides
    return strides[dimension("stride", dim, len(strides))]


def storage_offset(self: Tensor) -> Dim:
    """The distance of the first element from the start of the storage, in elements."""
    layout.ask(self, "offset")
    return layout.layout(self)[1]


def is_contiguous(self: Tensor, memory_format: Any = None) -> bool:
    """Whether the elements lie in row-major (or the given) order without gaps."""
    if memory_format is not None:
        if memory_format.rank not in (None, len(self._type.shape)):
            return False
        order = last_channels("is_contiguous", self, memory_format)
        self = self if order is None else permute(self, order)
    return layout.is_contiguous(self, exact=True)


def data_ptr(self: Tensor) -> int:
    """The address of the first element.

    In a compiled function CompileError for a tensor that it has computed.
    """
    if thread.trace is not None:
        return _address_in_trace(self, thread.trace)
    return _address(self._array)


def _address_in_trace(tensor: Tensor, trace: Any) -> int:
    """Another one at each call, so the Python code is run each time."""
    base, host = tensor._storage.base, trace.host
    if base is None or host is None:
        raise unrepeatable("data_ptr() of a tensor that it has computed")
    host.effects.append(f"data_ptr() gives an address (at {user_location()})")
    _, offset = layout.layout(tensor)
    elements = evaluate_dim(offset, trace.oracle.hints)
    return _address(base) + elements * tensor._type.dtype.itemsize


def _address(array: Any) -> int:
    found = array.address if isinstance(array, DeviceArray) else array.ctypes.data
    return int(found)


def size(self: Tensor, dim: int | None = None) -> Any:
    """The shape, or the size of one dimension."""
    if dim is None:
        return Size(self._type.shape)
    shape = self._type.shape
    if not shape:
        raise IndexError(
            f"Dimension specified as {dim} but tensor has no dimensions (at {user_location()})"
        )
    return shape[dimension("size", dim, len(shape))]


def numel(input: Tensor) -> Dim:
    """The number of elements."""
    return input.shape.numel()


def dim(self: Tensor) -> int:
    """The number of dimensions."""
    return len(self._type.shape)


def element_size(self: Tensor) -> int:
    """The size of one element in bytes."""
    return self._type.dtype.itemsize


def is_set_to(self: Tensor, tensor: Tensor) -> bool:
    """Whether both tensors are the same view of the same storage."""
    for asked in (self, tensor):
        layout.ask(asked, "offset")
        layout.ask(asked, "strides")
    same = self._storage is tensor._storage and self._type == tensor._type
    return same and layout.layout(self) == layout.layout(tensor)


def is_same_size(input: Tensor, other: Tensor) -> bool:
    """Whether both tensors have one shape."""
    return input.shape == other.shape


def get_device(self: Tensor) -> int:
    """The number of the GPU, or -1 on the CPU."""
    return -1 if self._type.device.type == "cpu" else self._type.device.index


def grad_fn(self: Tensor) -> Node | None:
    """The operation whose result the tensor is for autograd; None for a leaf."""
    if self._requires_grad or not self.requires_grad:
        return None
    trace = thread.trace
    value = tape_value(self) if trace is None else trace.value_of(self)
    return None if value is None else value.node


def record_stream(self: Tensor, stream: Any) -> None:
    """Say that work in another stream uses the tensor's memory: reuse waits for that, too."""
    array = self._array
    if not isinstance(array, DeviceArray) or thread.trace is not None:
        raise OperationError(
            f"record_stream: the tensor is on {self._type.device}; only memory of a GPU is used "
            f"by streams (at {user_location()})"
        )
    if hasattr(array.memory, "record_stream"):  # memory of another library is not ours to reuse
        array.memory.record_stream(stream)


# new tensors of the same kind -------------------------------------------------------------
def _new(
    name: str, self: Tensor, size: Sequence[Any], value: Any, options: dict[str, Any]
) -> Tensor:
    device = as_device(name, options.pop("device", None), self._type.device)
    dtype = options.pop("dtype", None)
    requires_grad = options.pop("requires_grad", False)
    pinned, _ = options.pop("pin_memory", False), options.pop("layout", None)
    if options:
        raise TypeError(f"{name}() got an unexpected keyword argument {next(iter(options))!r}")
    wanted = self._type.dtype if dtype is None else as_dtype(name, dtype)
    type = TensorType(sizes(name, size), wanted, device)
    if isinstance(value, (Tensor, SymbolicDim)):
        like = tensor_builder.full(value=0, shape=(), dtype=wanted)
        filling = (
            tensor_builder.cast(value, wanted)
            if isinstance(value, Tensor)
            else scalar_of(value, like)
        )
        result = clone(tensor_builder.expand_to(filling, type.shape))
    else:
        result = tensor_builder.full_like(_as_kind(value, wanted), type)
    result = pin_memory(result) if pinned else result
    if requires_grad:
        result.requires_grad = True
    return result


def _as_kind(value: bool | int | float, dtype: DType) -> bool | int | float:
    if dtype.kind == "bool":
        return bool(value)
    return float(value) if dtype.is_floating_point else int(value)


def new_zeros(self: Tensor, *size: Any, **options: Any) -> Tensor:
    """Zeros of the given shape, with the dtype of ``self``."""
    return _new("new_zeros", self, size or options.pop("size"), 0, options)


def new_ones(self: Tensor, *size: Any, **options: Any) -> Tensor:
    """Ones of the given shape, with the dtype of ``self``."""
    return _new("new_ones", self, size or options.pop("size"), 1, options)


def new_empty(self: Tensor, *size: Any, **options: Any) -> Tensor:
    """A tensor of the given shape with the dtype of ``self``; its elements are zero."""
    return _new("new_empty", self, size or options.pop("size"), 0, options)


def new_full(self: Tensor, size: Any, fill_value: Any, **options: Any) -> Tensor:
    """``fill_value`` in the given shape, with the dtype of ``self``."""
    return _new("new_full", self, (size,), fill_value, options)


# DLPack -----------------------------------------------------------------------------------
def dlpack(self: Tensor, **options: Any) -> Any:
    """The tensor's memory as a DLPack capsule; the CPU's is made by NumPy.

    ``stream``: where the consumer will use memory of a GPU (1 or None: the default stream, -1:
    do not order anything); it then waits for the work that is queued here.
    """
    if self.requires_grad:
        raise BufferError(
            "Can't export tensors that require gradient, use tensor.detach() "
            f"(at {user_location()})"
        )
    if isinstance(self._array, DeviceArray) and thread.trace is None:
        stream = options.get("stream")
        if stream != -1:
            gpu_of(self._array).let_wait(1 if stream is None else stream)
        return to_capsule(self._array)
    if options.get("stream") in (None, -1):
        options.pop("stream", None)
    array = concrete_array(self, "__dlpack__()")
    if not array.flags.writeable:
        array = np.lib.stride_tricks.as_strided(array)
    return array.__dlpack__(**options)


def dlpack_device(self: Tensor) -> tuple[int, int]:
    """DLPack's numbers for the device: its type (1: CPU, 2: CUDA) and index."""
    device = self._type.device
    return (CPU_TYPE if device.type == "cpu" else CUDA_TYPE, device.index)


TENSOR_METHODS = {
    "copy_": copy_,
    "fill_": fill_,
    "zero_": zero_,
    "fill_diagonal_": fill_diagonal_,
    "squeeze_": becoming("squeeze_", squeeze),
    "unsqueeze_": becoming("unsqueeze_", unsqueeze),
    "transpose_": becoming("transpose_", transpose),
    "swapaxes_": becoming("swapaxes_", transpose),
    "swapdims_": becoming("swapdims_", transpose),
    "t_": becoming("t_", t),
    "detach_": detach_,
    "stride": stride,
    "storage_offset": storage_offset,
    "is_contiguous": is_contiguous,
    "data_ptr": data_ptr,
    "size": size,
    "numel": numel,
    "nelement": numel,
    "dim": dim,
    "ndimension": dim,
    "element_size": element_size,
    "is_set_to": is_set_to,
    "is_same_size": is_same_size,
    "get_device": get_device,
    "record_stream": record_stream,
    "new_zeros": new_zeros,
    "new_ones": new_ones,
    "new_empty": new_empty,
    "new_full": new_full,
    "__deepcopy__": deepcopy,
    "__copy__": shallow_copy,
    "__reduce_ex__": reduce_ex,
    "__dlpack__": dlpack,
    "__dlpack_device__": dlpack_device,
}

_OTHER_KINDS = ("mkldnn", "mps", "nested", "sparse_csr", "vulkan", "xla", "xpu")
TENSOR_PROPERTIES = {
    "data": property(data, set_data),
    "is_cpu": lambda self: self._type.device.type == "cpu",
    "grad_fn": grad_fn,
    "retains_grad": lambda self: self._retains_grad and not self.is_leaf,
    "is_sparse": lambda self: False,
    "is_quantized": lambda self: False,
    **{f"is_{kind}": lambda self: False for kind in _OTHER_KINDS},
    "is_meta": lambda self: self._type.device.type == "meta",
    "layout": lambda self: strided,
    "is_cuda": lambda self: self._type.device.type == "cuda",
}
