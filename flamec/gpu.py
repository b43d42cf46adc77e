"""GPUs as the frontend sees them: memory for tensors, copies, and programs over them.

In: shapes, dtypes, NumPy arrays, graphs. Out: ``DeviceArray``s and prepared programs. Nothing of
CUDA is loaded before the first use. Invariant: work is ordered in the thread's current stream,
and a copy to the host waits for the work before it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.config import CompileOptions, default_options
from flamec.device_array import DeviceArray, Shape
from flamec.ir.graph import Graph
from flamec.ir.types import Device, DType, dtype_of_numpy

if TYPE_CHECKING:
    from flamec.prepared import Prepared
    from flamec.runtime.cuda.device import CudaDevice

_WIDEST_FILL = 4  # bytes of a word that the driver repeats
_WORD = 8  # bytes of an int64


def unavailable_reason() -> str | None:
    """Why this process cannot use a GPU, or None if it can."""
    from flamec.runtime.cuda.driver import unavailable_reason

    return unavailable_reason()


def device_count() -> int:
    """The number of GPUs that this process can use; 0 where CUDA is not available."""
    if unavailable_reason() is not None:
        return 0
    from flamec.runtime.cuda.driver import device_count

    return device_count()


class Gpu:
    """One GPU. CompileError where it cannot be used."""

    def __init__(self, index: int) -> None:
        self.device = Device("cuda", index)

    @cached_property
    def runtime(self) -> CudaDevice:
        from flamec import cuda_backend

        return cuda_backend.device(self.device.index, default_options())

    # memory -----------------------------------------------------------------------------
    def allocate(self, shape: Shape, dtype: DType) -> DeviceArray:
        """Uninitialised memory, for the work in the current stream."""
        memory = self.runtime.allocate(max(1, math.prod(shape) * dtype.itemsize))
        return DeviceArray(self.device, shape, dtype, memory.address, memory)

    def upload(self, array: np.ndarray, wait: bool = True) -> DeviceArray:
        """A dense copy of an array in host memory; ``wait``: see ``write``."""
        target = self.allocate(array.shape, dtype_of_numpy(array.dtype))
        self.write(target, array, wait)
        return target

    def empty_pinned(self, shape: Shape, dtype: DType) -> np.ndarray:
        """Uninitialised host memory that transfers to and from GPUs need not copy first."""
        count = math.prod(shape)
        if not count:
            return np.empty(shape, dtype.numpy)
        block, _ = self.runtime.pinned.empty(count * dtype.itemsize)
        array: np.ndarray = block.view(dtype.numpy).reshape(shape)
        return array

    def is_pinned(self, array: np.ndarray) -> bool:
        """Whether an array lies in pinned memory."""
        return self.runtime.is_pinned(array)

    def write(self, target: DeviceArray, array: np.ndarray, wait: bool = True) -> None:
        """Copy host memory into a dense array of its shape and dtype.

        Afterwards the host memory may change, unless it is pinned and ``wait`` is False.
        """
        if target.nbytes:
            self.runtime.write(target.address, np.ascontiguousarray(array), wait)

    def download(self, array: DeviceArray) -> np.ndarray:
        """A copy in host memory; waits for the work before it."""
        target = np.empty(array.shape, array.dtype.numpy)
        self.read(target, array)
        return target

    def read(self, target: np.ndarray, array: DeviceArray) -> None:
        """Copy into a dense array in host memory; waits for the work before it."""
        if target.nbytes:
            source = self.dense(array)  # held until it has been read
            self.runtime.read(target, source.address)

    def read_last(self, array: DeviceArray) -> int:
        """The last element of a dense array of int64; waits for the work before it."""
        last = math.prod(array.shape) - 1
        number: int = self.runtime.read_word(array.address + _WORD * last)
        return number

    def dense(self, array: DeviceArray) -> DeviceArray:
        """The array itself if it is row-major without gaps, else a copy that is."""
        if array.c_contiguous:
            return array
        target = self.allocate(array.shape, array.dtype)
        self.copy(target, array)
        return target

    def fill(self, target: DeviceArray, value: np.ndarray) -> None:
        """Store one value, a zero-dimensional array of the target's dtype, everywhere."""
        if not target.size:
            return
        word = filling_word(value)
        if word is not None and target.c_contiguous and not target.address % word[1]:
            number, width = word
            self.runtime.fill(target.address, number, target.nbytes, width)
        elif target.size == 1:
            self.write(target, value.reshape(target.shape))
        else:
            self.copy(target, self.upload(value))

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """Copy elements within the device; both have one dtype, ``source`` may be broadcast."""
        if target.shape != source.shape:
            source = broadcast(source, target.shape)
        if source.memory is not target.memory and source.c_contiguous and target.c_contiguous:
            if target.nbytes:
                self.runtime.copy(target.address, source.address, target.nbytes)
            return
        if not target.size or (target.address == source.address and _same_layout(target, source)):
            return
        if may_overlap(target, source):
            apart = self.allocate(source.shape, source.dtype)
            self.copy(apart, source)
            source = apart
        if target.c_contiguous and source.c_contiguous:
            self.runtime.copy(target.address, source.address, target.nbytes)
        else:
            self._copy_strided(target, source)

    def _copy_strided(self, target: DeviceArray, source: DeviceArray) -> None:
        from flamec import strided_copy

        strided_copy.run(self, target, source)

    # other libraries --------------------------------------------------------------------
    def stream_number(self) -> int:
        """The current stream as DLPack counts streams."""
        return self.runtime.current_stream().cuda_stream or 1

    def let_wait(self, stream: int) -> None:
        """Let later work in another library's stream wait for the work in the current one."""
        from flamec.runtime.cuda.stream import Stream

        current = self.runtime.current_stream()
        other = Stream(self.device.index, handle=0 if stream == 1 else stream)
        if other != current:
            other.wait_stream(current)

    def synchronize(self) -> None:
        """Wait for all work on the device."""
        self.runtime.synchronize()

    # programs ---------------------------------------------------------------------------
    def prepare(self, graph: Graph, symbols: Sequence[str], options: CompileOptions) -> Prepared:
        """The program of a compiled function."""
        from flamec import cuda_backend

        return cuda_backend.prepare(graph, symbols, options)

    def prepare_operation(
        self,
        graph: Graph,
        symbols: Sequence[str],
        size_hints: Mapping[str, int],
        narrow: bool,
        strict: bool = False,
        unaligned: Sequence[int] = (),
    ) -> Prepared:
        """A program over symbolic sizes for eager mode, launched kernel by kernel if they are few.

        Its schedules may come from the tuning database, but none are measured for it.
        ``narrow``: no array has 2^31 or more elements. ``strict``: see ``CompileOptions.numerics``.
        No symbol is larger than its hint. ``unaligned``: inputs at any addresses.
        """
        from flamec import cuda_backend

        options = default_options(autotune="off", **({"numerics": "strict"} if strict else {}))
        prepared = cuda_backend.prepare(
            graph, symbols, options, size_hints, narrow, near=True, unaligned=unaligned
        )
        runner: Any = prepared.runner
        runner.program.graphs = runner.program.is_worth_a_graph
        return prepared


def broadcast(array: DeviceArray, shape: Shape) -> DeviceArray:
    """A view with the shape, as NumPy broadcasts."""
    extra = len(shape) - len(array.shape)
    strides = tuple(
        0 if axis < extra or array.shape[axis - extra] != size else array.strides[axis - extra]
        for axis, size in enumerate(shape)
    )
    return DeviceArray(array.device, shape, array.dtype, array.address, array.memory, strides)


def _same_layout(a: DeviceArray, b: DeviceArray) -> bool:
    return a.strides == b.strides or (a.c_contiguous and b.c_contiguous)


def may_overlap(a: DeviceArray, b: DeviceArray) -> bool:
    """Whether the ranges of addresses from the first to the last element meet."""
    if not (a.size and b.size):
        return False
    (low_a, high_a), (low_b, high_b) = byte_range(a, a.address), byte_range(b, b.address)
    return low_a < high_b and low_b < high_a


def byte_range(array: DeviceArray | np.ndarray, address: int) -> tuple[int, int]:
    """The addresses from the first byte of an array to behind the last; ``address``: of its first
    element, which it has."""
    low = high = address
    for size, stride in zip(array.shape, array.strides, strict=True):
        reach = (size - 1) * stride
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high + array.itemsize


def filling_word(value: np.ndarray) -> tuple[int, int] | None:
    """The word that a fill of the driver repeats for a value, and its bytes; None if it cannot."""
    word = shortest_word(value.tobytes())
    return (int.from_bytes(word, "little"), len(word)) if len(word) <= _WIDEST_FILL else None


def shortest_word(content: bytes) -> bytes:
    """What ``content`` repeats: 1, 2 or 4 bytes, or all of it."""
    for width in (1, 2, 4):
        word = content[:width]
        if word * (len(content) // width) == content:
            return word
    return content


_gpus: dict[int, Gpu] = {}
_lock = threading.Lock()


def gpu(device: Device) -> Gpu:
    """The process's GPU of that number."""
    found = _gpus.get(device.index)
    if found is None:
        with _lock:
            found = _gpus.setdefault(device.index, Gpu(device.index))
    return found


def gpu_of(array: DeviceArray) -> Gpu:
    return gpu(array.device)


def move(array: Any, device: Device, wait: bool = True) -> Any:
    """A dense copy on another device: NumPy arrays are the CPU's.

    ``wait``: whether an array in pinned memory may change afterwards.
    """
    if isinstance(array, DeviceArray):
        source = gpu(array.device)
        if device.type == "cpu":
            return source.download(array)
        target = gpu(device).allocate(array.shape, array.dtype)
        if array.device == device:
            source.copy(target, array)
        elif array.nbytes:
            dense = source.dense(array)
            target_gpu = gpu(device)
            target_gpu.runtime.copy_from(
                target.address, source.runtime, dense.address, array.nbytes
            )
        return target
    return np.array(array) if device.type == "cpu" else gpu(device).upload(array, wait)
