"""A GPU as a device: memory, copies, and programs compiled by Triton.

In: settings as arguments (never the environment) and plans. Out: ``CudaProgram``. Kernels are
taken from the cache where they are there, and then Triton is not imported.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cached_property

import numpy as np

from flamec.ir.plan import ExecutionPlan
from flamec.runtime.cuda import transfer
from flamec.runtime.cuda.arena import release_arenas
from flamec.runtime.cuda.compile_worker import CompiledKernel, Progress, compile_kernels
from flamec.runtime.cuda.driver import DeviceProperties, context
from flamec.runtime.cuda.error_words import error_words
from flamec.runtime.cuda.host_memory import (
    PinnedPool,
    base_of,
    is_pinned,
    pinned_block,
    pinned_pool,
)
from flamec.runtime.cuda.memory import Allocation, DevicePool, device_pool
from flamec.runtime.cuda.module import load_kernel
from flamec.runtime.cuda.program import CudaProgram
from flamec.runtime.cuda.stream import Stream, current_stream, current_streams
from flamec.runtime.cuda.triton_compiler import TritonError
from flamec.runtime.device import PlanMemory
from flamec.runtime.host_calls import Evaluate, no_host
from flamec.runtime.kernel_cache import KernelCache


class KernelError(RuntimeError):
    """A kernel of a plan cannot be made or loaded: ``plan.kernels[kernel]``."""

    def __init__(self, kernel: int, error: Exception) -> None:
        self.kernel = kernel
        super().__init__(str(error))


class CudaDevice:
    """Loads programs; safe to use from several threads.

    ``jobs``: how many kernels are compiled at a time. ``graphs``: run programs as CUDA graphs.
    ``evaluate``: what computes the operations that programs leave to the host.
    CudaUnavailableError without CUDA, ValueError for a device that is not there.
    """

    def __init__(
        self,
        index: int,
        cache: KernelCache,
        plan_memory: PlanMemory,
        jobs: int = 1,
        graphs: bool = True,
        evaluate: Evaluate = no_host,
    ) -> None:
        self.context = context(index)
        self.index = index
        self.name = f"cuda:{index}"
        self.cache = cache
        self.jobs = jobs
        self.graphs = graphs
        self._plan_memory = plan_memory
        self._evaluate = evaluate

    @property
    def properties(self) -> DeviceProperties:
        return self.context.properties

    @property
    def target(self) -> str:
        """The architecture that kernels are compiled for, such as ``"sm_90"``."""
        return self.properties.target

    @cached_property
    def pool(self) -> DevicePool:
        return device_pool(self.index)

    @property
    def pinned(self) -> PinnedPool:
        return pinned_pool()

    def current_stream(self) -> Stream:
        """The calling thread's stream on this device."""
        return current_stream(self.index)

    def synchronize(self) -> None:
        """Wait for all work on the device; errors of kernels are raised here."""
        self.context.synchronize()
        self.raise_pending_errors()

    def raise_pending_errors(self) -> None:
        """Raise what kernels reported since the last time, such as an IndexError.

        Sees the kernels that the host has waited for, of all devices. Call it after waiting
        for an event; ``synchronize`` and ``read`` do. Waits for nothing and copies nothing.
        """
        error = error_words().take()
        if error is not None:
            raise error

    # memory -----------------------------------------------------------------------------

    def empty(self, nbytes: int) -> tuple[Allocation, int]:
        """Uninitialised memory and its address, a multiple of 256, for the current stream."""
        allocation = self.allocate(nbytes)
        return allocation, allocation.address

    @cached_property
    def allocate(self) -> Callable[[int], Allocation]:
        """``empty`` without the address, which the allocation has, too."""
        return self.pool.allocate

    def release_idle(self) -> int:
        """Give memory that is not in use back to the device; the number of bytes."""
        release_arenas()
        return self.pool.release_idle()

    def write(self, address: int, array: np.ndarray, wait: bool = True) -> None:
        """Copy a contiguous array to the device, in the order of the current stream.

        The array may change afterwards, unless it is of ``pinned`` and ``wait`` is False.
        """
        stream = self.current_stream()
        transfer.copy_to_device(address, _host_address(array), array.nbytes, stream)
        block = pinned_block(array)
        if block is not None and not wait:
            block.record_stream(stream)
        elif block is not None or (not _owns_memory(array) and self.is_pinned(array)):
            stream.synchronize()  # the driver reads pinned memory later

    def is_pinned(self, array: np.ndarray) -> bool:
        """Whether an array lies in pinned memory, whoever pinned it."""
        address: int = array.__array_interface__["data"][0]
        return pinned_block(array) is not None or is_pinned(address)

    def read(self, array: np.ndarray, address: int) -> None:
        """Copy from the device into a contiguous array; waits until it is there.

        Errors that kernels before it reported are raised.
        """
        transfer.copy_to_host(_host_address(array), address, array.nbytes, self.current_stream())
        self.raise_pending_errors()

    def read_word(self, address: int) -> int:
        """``read`` for one 64-bit integer."""
        word = ctypes.c_int64()
        stream = current_streams.of_device[self.index]
        transfer.copy_to_host(ctypes.addressof(word), address, 8, stream)
        self.raise_pending_errors()
        return word.value

    def start_read(self, array: np.ndarray, address: int) -> None:
        """``read`` into pinned memory without waiting; the stream tells when it is there."""
        host = _host_address(array)
        if array.nbytes and not is_pinned(host):
            raise ValueError("start_read: the array is not in pinned memory")
        transfer.start_copy_to_host(host, address, array.nbytes, self.current_stream())

    def copy(self, to: int, source: int, nbytes: int) -> None:
        """Copy within the device; the ranges must not overlap."""
        transfer.copy_on_device(to, source, nbytes, self.current_stream())

    def copy_from(self, to: int, device: CudaDevice, source: int, nbytes: int) -> None:
        """Copy from another device, after the work in both current streams."""
        streams = self.current_stream(), device.current_stream()
        transfer.copy_between_devices(to, streams[0], source, streams[1], nbytes)

    def fill(self, to: int, value: int, nbytes: int, width: int = 1) -> None:
        """Set words of ``width`` bytes (1, 2 or 4), at a multiple of which ``to`` is."""
        transfer.fill_words(to, value, width, nbytes, current_streams.of_device[self.index])

    # programs ---------------------------------------------------------------------------

    def load(
        self, plan: ExecutionPlan, progress: Progress | None = None, label: str = ""
    ) -> CudaProgram:
        """Take a plan's kernels from the cache, compile the others, and load all.

        KernelError if a kernel cannot be compiled or does not fit the device. ``label``: what
        profiles call the program.
        """
        compiled = compile_plan(plan, self.target, self.cache, self.jobs, progress)
        kernels = []
        for number, kernel in enumerate(compiled):
            try:
                kernels.append(load_kernel(self.context, kernel.result()))
            except (TritonError, ValueError) as error:
                raise KernelError(number, error) from error
        return CudaProgram(
            plan,
            self.context,
            kernels,
            self._plan_memory,
            kernels_compiled=sum(kernel.compiled for kernel in compiled),
            graphs=self.graphs,
            evaluate=self._evaluate,
            label=label,
        )


def compile_plan(
    plan: ExecutionPlan,
    target: str,
    cache: KernelCache,
    jobs: int = 1,
    progress: Progress | None = None,
) -> list[CompiledKernel]:
    """A plan's kernels for a target such as ``"sm_90"``; needs no device."""
    return compile_kernels(plan.kernels, target, cache, jobs, progress)


def _owns_memory(array: np.ndarray) -> bool:
    """Whether the memory is NumPy's own, which nobody pins."""
    return base_of(array) is None


def _host_address(array: np.ndarray) -> int:
    if not array.flags.c_contiguous:
        raise ValueError("device copies need a C-contiguous array")
    address: int = array.__array_interface__["data"][0]
    return address
