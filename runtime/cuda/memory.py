"""Device memory from a stream-ordered pool.

In: byte counts and streams. Out: ``Allocation`` objects, which give their memory back when
they are gone. Invariants: memory is used again only after the work that was in its streams
when it was given back; what the pool got from the device it keeps until ``release_idle``;
running out of memory is an error that leaves the pool usable.

The pool is the driver's (``cuMemAllocFromPoolAsync``). Small blocks that were given back stay
here, because asking the driver from Python costs as much as launching a kernel (5 to 7 µs on an
H100's host, against 2).
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from flamec.runtime.cuda.driver import (
    CudaContext,
    CudaUnavailableError,
    can_release,
    check,
    context,
    driver,
    fail,
    release,
)
from flamec.runtime.cuda.stream import Stream, current_stream

_KEEP_EVERYTHING = 2**64 - 1
OUT_OF_MEMORY = 2  # the driver's status
_LARGEST_REQUEST = 2**63 - 1
_LARGEST_SMALL = 1 << 20  # bytes of a block that is kept here
_SMALL_STEP = 512
_MOST_SMALL_IDLE = 256 << 20


class OutOfMemoryError(RuntimeError):
    """The device has no room for a request; attributes in bytes.

    ``requested``; ``allocated`` and ``reserved`` by flamec's pool in this process; ``free``
    and ``total`` of the device.
    """

    def __init__(self, pool: DevicePool, requested: int) -> None:
        self.requested = requested
        self.allocated = pool.allocated_bytes
        self.reserved = pool.reserved_bytes
        self.free, self.total = pool.context.memory_info()
        super().__init__(
            f"CUDA out of memory on cuda:{pool.context.index} "
            f"({pool.context.properties.name}): {_size(requested)} were requested, "
            f"{_size(self.allocated)} are allocated and {_size(self.reserved)} reserved by "
            f"this process, {_size(self.free)} of {_size(self.total)} are free"
        )


class Allocation:
    """Device memory that is given back, in the order of its stream, when this object is gone.

    ``address`` is a multiple of 256 (0 if there are no bytes).
    """

    __slots__ = ("__weakref__", "_other_streams", "_pool", "address", "nbytes", "stream")

    def __init__(self, pool: DevicePool, address: int, nbytes: int, stream: Stream) -> None:
        self._pool = pool
        self._other_streams: list[Stream] | None = None
        self.address = address
        self.nbytes = nbytes
        self.stream = stream

    def record_stream(self, stream: Stream) -> None:
        """Say that work in another stream uses the memory: reuse then waits for it, too."""
        if stream != self.stream:
            if self._other_streams is None:
                self._other_streams = []
            if stream not in self._other_streams:
                self._other_streams.append(stream)

    def __del__(self) -> None:
        if self.address and sys is not None and not sys.is_finalizing():  # modules go first
            self._pool._give_back(self)

    def __repr__(self) -> str:
        return f"Allocation({self.nbytes} bytes at {self.address:#x})"


class DevicePool:
    """The memory pool of one device; get it from ``device_pool``. Safe for many threads."""

    def __init__(self, context: CudaContext) -> None:
        cu = driver()
        if not context.properties.memory_pools:
            raise CudaUnavailableError(
                f"cuda:{context.index} ({context.properties.name}) has no stream-ordered memory "
                f"pools, which flamec needs; a newer driver may add them"
            )
        context.activate()
        self.context = context
        properties = cu.CUmemPoolProps()
        properties.allocType = cu.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        properties.location.type = cu.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        properties.location.id = context.index
        self.handle: Any = check(cu.cuMemPoolCreate(properties), "cuMemPoolCreate")
        self._attributes = cu.CUmemPool_attribute
        self._set("RELEASE_THRESHOLD", _KEEP_EVERYTHING)
        self._allocate = cu.cuMemAllocFromPoolAsync
        self._free = cu.cuMemFreeAsync
        self._lock = threading.RLock()  # a collection inside it may give memory back
        self._small: dict[tuple[int, int], list[int]] = {}
        self._small_streams: dict[int, Stream] = {}  # alive, so that no other has their handle
        self._small_idle = 0
        self.allocated_bytes = 0
        self.max_allocated_bytes = 0
        self.allocation_count = 0
        os.register_at_fork(after_in_child=self._forget_idle)

    def _forget_idle(self) -> None:
        """In a forked child nothing idle is given out, so that every request reaches the driver
        and its error; memory of the parent that objects of the child let go stays the parent's."""
        self._lock = threading.RLock()  # another thread may have held it
        self._small.clear()
        self._small_idle = _MOST_SMALL_IDLE

    def allocate(self, nbytes: int, stream: Stream | None = None) -> Allocation:
        """Uninitialised memory for work in ``stream`` (None: the current one).

        OutOfMemoryError if the device has no room even after idle memory was released.
        """
        if stream is None:
            stream = current_stream(self.context.index)
        size = -(-nbytes // _SMALL_STEP) * _SMALL_STEP
        with self._lock:
            idle = self._small.get((stream.cuda_stream, size))
            if idle:
                self._small_idle -= size
                return self._counted(idle.pop(), nbytes, stream)
        if nbytes == 0:
            return Allocation(self, 0, 0, stream)
        address = self._from_driver(size if size <= _LARGEST_SMALL else nbytes, stream)
        with self._lock:
            return self._counted(address, nbytes, stream)

    def _counted(self, address: int, nbytes: int, stream: Stream) -> Allocation:
        self.allocation_count += 1
        self.allocated_bytes = allocated = self.allocated_bytes + nbytes
        if allocated > self.max_allocated_bytes:
            self.max_allocated_bytes = allocated
        return Allocation(self, address, nbytes, stream)

    def _from_driver(self, nbytes: int, stream: Stream) -> int:
        if not 0 < nbytes <= _LARGEST_REQUEST:
            raise ValueError(f"{nbytes} bytes of device memory were requested")
        self.context.activate()
        status, address = self._allocate(nbytes, self.handle, stream.raw)
        if status == OUT_OF_MEMORY:
            self.make_room()
            status, address = self._allocate(nbytes, self.handle, stream.raw)
            if status == OUT_OF_MEMORY:
                raise OutOfMemoryError(self, nbytes)
        if status != 0:
            fail(status, "cuMemAllocFromPoolAsync")
        return int(address)

    def _give_back(self, allocation: Allocation) -> None:
        stream, others, nbytes = allocation.stream, allocation._other_streams, allocation.nbytes
        size = -(-nbytes // _SMALL_STEP) * _SMALL_STEP
        with self._lock:
            self.allocated_bytes -= nbytes
            if size <= _LARGEST_SMALL and not others:
                with_these = self._small_idle + size
                if with_these <= _MOST_SMALL_IDLE:
                    self._small_idle = with_these
                    key = stream.cuda_stream, size
                    idle = self._small.get(key)
                    if idle is None:
                        idle = self._small[key] = []
                        self._small_streams.setdefault(stream.cuda_stream, stream)
                    idle.append(allocation.address)
                    return
        if can_release(self.context):
            for other in others or ():
                stream.wait_stream(other)
            release(self.context, "cuMemFreeAsync", allocation.address, stream.raw)

    def _release_small(self) -> None:
        """Give the small blocks that are idle here back to the driver's pool."""
        with self._lock:
            small, self._small = self._small, {}
            streams, self._small_streams = self._small_streams, {}
            self._small_idle = 0
        for (handle, _), addresses in small.items():
            for address in addresses:
                check(self._free(address, streams[handle].raw), "cuMemFreeAsync")

    @property
    def reserved_bytes(self) -> int:
        """Bytes that the pool has from the device, in use or idle."""
        return self._get("RESERVED_MEM_CURRENT")

    @property
    def max_reserved_bytes(self) -> int:
        return self._get("RESERVED_MEM_HIGH")

    def reset_peaks(self) -> None:
        """Let the maxima start again from the present values."""
        with self._lock:
            self.max_allocated_bytes = self.allocated_bytes
        self._set("RESERVED_MEM_HIGH", 0)

    def release_idle(self) -> int:
        """Give idle memory back to the device; the number of bytes.

        Memory whose stream has pending work stays.
        """
        before = self.reserved_bytes
        self.context.activate()
        self._release_small()
        check(driver().cuMemPoolTrimTo(self.handle, 0), "cuMemPoolTrimTo")
        return before - self.reserved_bytes

    def make_room(self) -> None:
        """Wait for the device's work, then give all idle memory back to it."""
        self._release_small()
        self.context.synchronize()  # what was given back is idle only now
        self.release_idle()

    def allow_access_from(self, peer: CudaContext) -> None:
        """Let kernels of another device read and write this pool; CudaError if they cannot."""
        cu = driver()
        access = cu.CUmemAccessDesc()
        access.location.type = cu.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        access.location.id = peer.index
        access.flags = cu.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        check(cu.cuMemPoolSetAccess(self.handle, [access], 1), "cuMemPoolSetAccess")

    def _get(self, name: str) -> int:
        attribute = getattr(self._attributes, f"CU_MEMPOOL_ATTR_{name}")
        self.context.activate()
        result = driver().cuMemPoolGetAttribute(self.handle, attribute)
        return int(check(result, "cuMemPoolGetAttribute"))

    def _set(self, name: str, value: int) -> None:
        cu = driver()
        attribute = getattr(self._attributes, f"CU_MEMPOOL_ATTR_{name}")
        self.context.activate()
        result = cu.cuMemPoolSetAttribute(self.handle, attribute, cu.cuuint64_t(value))
        check(result, "cuMemPoolSetAttribute")


_pools: dict[int, DevicePool] = {}
_lock = threading.Lock()


def device_pool(device: int = 0) -> DevicePool:
    """The process's pool on a device."""
    pool = _pools.get(device)
    if pool is None:
        with _lock:
            pool = _pools.get(device)
            if pool is None:
                pool = _pools[device] = DevicePool(context(device))
    return pool


def _size(nbytes: int) -> str:
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= scale:
            return f"{nbytes / scale:.2f} {unit}"
    return f"{nbytes} bytes"
