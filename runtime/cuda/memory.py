"""Device memory from a stream-ordered pool.

In: byte counts and streams. Out: ``Allocation`` objects, which give their memory back when
they are gone. Invariants: memory is used again only after the work that was in its streams
when it was given back; what the pool got from the device it keeps until ``release_idle``;
running out of memory is an error that leaves the pool usable.

The pool is the driver's (``cuMemAllocFromPoolAsync``). Blocks that were given back stay here, up to
a share of the device's memory, because asking the driver from Python costs as much as launching a
kernel (5 to 7 µs on an H100's host, against 2). A request gets one of exactly its size in its
stream; those of sizes that came back longest ago go to the driver first, who can cut and join them.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
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
from flamec.runtime.cuda.stream import Stream, current_streams, default_stream

_KEEP_EVERYTHING = 2**64 - 1
OUT_OF_MEMORY = 2  # the driver's status
_LARGEST_REQUEST = 2**63 - 1
_STEP = 512  # to whose multiples requests are rounded
IDLE_SHARE, LEAST_IDLE = 32, 256 << 20  # of the device's memory, and at least, for idle blocks
LARGEST_SHARE = 4  # of that, for one block: larger ones go back to the driver


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

    __slots__ = ("__weakref__", "_pool", "address", "nbytes", "stream")

    def __init__(self, pool: DevicePool, address: int, nbytes: int, stream: Stream) -> None:
        self._pool = pool
        self.address = address
        self.nbytes = nbytes
        self.stream = stream

    def record_stream(self, stream: Stream) -> None:
        """Say that work in another stream uses the memory: reuse then waits for it, too."""
        if stream != self.stream and self.address:
            others = self._pool.recorded.setdefault(self.address, [])
            if stream not in others:
                others.append(stream)

    def __del__(self) -> None:
        if self.address:
            self._pool.given_back.append((self.address, self.nbytes))

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
        self._index: int = context.index
        properties = cu.CUmemPoolProps()
        properties.allocType = cu.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        properties.location.type = cu.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        properties.location.id = context.index
        self.handle: Any = check(cu.cuMemPoolCreate(properties), "cuMemPoolCreate")
        self._attributes = cu.CUmemPool_attribute
        self._set("RELEASE_THRESHOLD", _KEEP_EVERYTHING)
        self._allocate = cu.cuMemAllocFromPoolAsync
        self._lock = threading.RLock()
        # Destructors, which may run anywhere, also in the midst of a request, only append here.
        self.given_back: deque[tuple[int, int]] = deque()  # addresses and bytes
        # The streams of all blocks that the driver gave, by address, and others that use them. They
        # live as long as that: a collection of cycles may destroy a stream before its memory.
        self._stream_of: dict[int, Stream] = {}
        self.recorded: dict[int, list[Stream]] = {}
        total = context.properties.total_memory
        self._most_idle = max(total // IDLE_SHARE, LEAST_IDLE)
        self._largest_kept = self._most_idle // LARGEST_SHARE // _STEP * _STEP
        self._idle: OrderedDict[tuple[int, int], list[int]] = OrderedDict()  # met last at the end
        self._idle_bytes = 0
        self._allocated = self._most_allocated = 0
        self.allocation_count = 0
        self.driver_allocations = self.driver_frees = 0  # blocks, not what the driver's pool does
        self.retries = self.failures = 0  # requests that idle memory made room for, or not even it
        os.register_at_fork(after_in_child=self._forget_idle)

    def _forget_idle(self) -> None:
        """In a forked child nothing idle is given out, so that every request reaches the driver
        and its error; memory of the parent that objects of the child let go stays the parent's."""
        self._lock = threading.RLock()  # another thread may have held it
        self._idle.clear()
        self._idle_bytes, self._largest_kept = 0, -1

    def allocate(self, nbytes: int, stream: Stream | None = None) -> Allocation:
        """Uninitialised memory for work in ``stream`` (None: the current one).

        OutOfMemoryError if the device has no room even after idle memory was released.
        """
        if stream is None:
            stream = current_streams.of_device[self._index]
        with self._lock:
            given_back = self.given_back
            if given_back:
                address, freed = given_back.pop()
                if (  # the block that came back last is wanted again: no account changes
                    freed == nbytes
                    and nbytes <= self._largest_kept
                    and address not in self.recorded
                    and self._stream_of[address] is stream
                ):
                    if given_back:
                        self._take_back()
                    self.allocation_count += 1
                    return Allocation(self, address, nbytes, stream)
                given_back.append((address, freed))
                self._take_back()
            size = -(-nbytes // _STEP) * _STEP
            key = stream.cuda_stream, size
            idle = self._idle.get(key)
            if idle is not None:
                address = idle.pop()
                if not idle:
                    del self._idle[key]
                self._idle_bytes -= size
                return self._counted(address, nbytes, stream)
        if nbytes == 0:
            return Allocation(self, 0, 0, stream)
        address = self._from_driver(nbytes, size, stream)
        with self._lock:
            return self._counted(address, nbytes, stream)

    def _counted(self, address: int, nbytes: int, stream: Stream) -> Allocation:
        self.allocation_count += 1
        self._allocated += nbytes
        if self._allocated > self._most_allocated:
            if self.given_back:
                self._take_back()
            self._most_allocated = max(self._most_allocated, self._allocated)
        return Allocation(self, address, nbytes, stream)

    def _from_driver(self, nbytes: int, size: int, stream: Stream) -> int:
        if not 0 < nbytes <= _LARGEST_REQUEST:
            raise ValueError(f"{nbytes} bytes of device memory were requested")
        self.context.activate()
        status, address = self._allocate(size, self.handle, stream.raw)
        if status == OUT_OF_MEMORY:
            self.retries += 1
            self.release_idle()
            status, address = self._allocate(size, self.handle, stream.raw)
            if status == OUT_OF_MEMORY:
                self.failures += 1
                raise OutOfMemoryError(self, nbytes)
        if status != 0:
            fail(status, "cuMemAllocFromPoolAsync")
        self.driver_allocations += 1
        self._stream_of[int(address)] = stream
        return int(address)

    def _take_back(self) -> None:
        """Keep what was given back, or let the driver have it. The lock is held."""
        while self.given_back:
            address, nbytes = self.given_back.popleft()
            self._allocated -= nbytes
            size = -(-nbytes // _STEP) * _STEP
            if address in self.recorded or size > self._largest_kept:
                self._to_driver(address, self.recorded.pop(address, ()))
                continue
            key = self._stream_of[address].cuda_stream, size
            idle = self._idle.get(key)
            if idle is None:
                self._idle[key] = [address]
            else:
                idle.append(address)
                self._idle.move_to_end(key)
            self._idle_bytes += size
            if self._idle_bytes > self._most_idle:
                self._drop_idle(self._most_idle)

    def _drop_idle(self, most: int) -> None:
        """Let the driver have idle blocks, until those that are left have at most so many bytes."""
        while self._idle_bytes > most:
            key = next(iter(self._idle))
            addresses = self._idle[key]
            address = addresses.pop()
            if not addresses:
                del self._idle[key]
            self._idle_bytes -= key[1]
            self._to_driver(address, ())

    def _to_driver(self, address: int, others: Sequence[Stream]) -> None:
        stream = self._stream_of.pop(address)
        if not can_release(self.context):
            return
        if not stream.lasts:  # whoever made it may have destroyed it
            self.context.synchronize()
            stream = default_stream(self.context.index)
        for other in others:
            stream.wait_stream(other)
        self.driver_frees += 1
        release(self.context, "cuMemFreeAsync", address, stream.raw)

    @property
    def allocated_bytes(self) -> int:
        """Bytes in use, as they were requested."""
        with self._lock:
            self._take_back()
            return self._allocated

    @property
    def max_allocated_bytes(self) -> int:
        """The most bytes in use at a time since ``reset_peaks``."""
        return self._most_allocated

    @property
    def idle_bytes(self) -> int:
        """Bytes of idle blocks that are kept here; the driver's pool may have more."""
        with self._lock:
            self._take_back()
            return self._idle_bytes

    @property
    def reserved_bytes(self) -> int:
        """Bytes that the pool has from the device, in use or idle."""
        return self._get("RESERVED_MEM_CURRENT")

    @property
    def max_reserved_bytes(self) -> int:
        return self._get("RESERVED_MEM_HIGH")

    def reset_peaks(self) -> None:
        """Let the maxima start again from the present values."""
        self._most_allocated = self.allocated_bytes
        self._set("RESERVED_MEM_HIGH", 0)

    def release_idle(self) -> int:
        """Wait for the device's work, then give all idle memory back to it; the number of bytes."""
        before = self.reserved_bytes
        with self._lock:
            self._take_back()
            self._drop_idle(0)
        self.context.synchronize()  # what was given back is idle only now
        check(driver().cuMemPoolTrimTo(self.handle, 0), "cuMemPoolTrimTo")
        return before - self.reserved_bytes

    def statistics(self) -> dict[str, int]:
        """The accounts by the names that they have in ``torch.cuda.memory_stats``."""
        return {
            "allocated_bytes.all.current": self.allocated_bytes,
            "allocated_bytes.all.peak": self.max_allocated_bytes,
            "reserved_bytes.all.current": self.reserved_bytes,
            "reserved_bytes.all.peak": self.max_reserved_bytes,
            "allocation.all.allocated": self.allocation_count,
            "num_device_alloc": self.driver_allocations,
            "num_device_free": self.driver_frees,
            "num_alloc_retries": self.retries,
            "num_ooms": self.failures,
        }

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
