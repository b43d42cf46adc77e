"""Pinned host memory: buffers that the device reads and writes by itself.

In: byte counts. Out: NumPy uint8 arrays with their addresses. Invariants: a block is used
again only after the last array that looks into it is gone and the streams that were recorded
for it are done; at most ``max_idle_bytes`` are kept for reuse.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from flamec.runtime.cuda.driver import CudaContext, can_release, check, context, driver, release
from flamec.runtime.cuda.stream import Event, Stream

_PORTABLE = 1  # pinned for the contexts of all devices
_SMALLEST = 4096


class PinnedBuffer:
    """One block that is given out; ``np.asarray`` of it is what ``PinnedPool.empty`` returns."""

    __slots__ = ("__weakref__", "_nbytes", "_pool", "address", "size")

    def __init__(self, pool: PinnedPool, address: int, size: int, nbytes: int) -> None:
        self._pool = pool
        self._nbytes = nbytes
        self.address = address
        self.size = size

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {
            "data": (self.address, False),
            "shape": (self._nbytes,),
            "typestr": "|u1",
            "version": 3,
        }

    def record_stream(self, stream: Stream) -> None:
        """Say that a transfer in ``stream`` uses the memory."""
        streams = self._pool.recorded.setdefault(self.address, [])
        if stream not in streams:
            streams.append(stream)

    def __del__(self) -> None:
        self._pool._give_back(self)


class PinnedPool:
    """Pinned memory of the process; get it from ``pinned_pool``. Safe for many threads."""

    def __init__(self, context: CudaContext, max_idle_bytes: int = 1 << 30) -> None:
        self.context = context
        self.max_idle_bytes = max_idle_bytes
        self.idle_bytes = 0
        self._idle: dict[int, list[tuple[int, list[Event]]]] = {}
        # Streams that use blocks, by address; they live as long as that: a collection of cycles may
        # destroy a stream before the block.
        self.recorded: dict[int, list[Stream]] = {}
        self._lock = threading.RLock()  # a collection inside it may give memory back

    def buffer(self, nbytes: int) -> PinnedBuffer:
        """A pinned block of at least ``nbytes``; MemoryError if there is none."""
        size = max(_SMALLEST, 1 << (nbytes - 1).bit_length()) if nbytes else _SMALLEST
        with self._lock:
            idle = self._idle.get(size, [])
            for position, (address, events) in enumerate(idle):
                if all(event.query() for event in events):
                    del idle[position]
                    self.idle_bytes -= size
                    return PinnedBuffer(self, address, size, nbytes)
        self.context.activate()
        result = driver().cuMemHostAlloc(size, _PORTABLE)
        if result[0] != 0:
            raise MemoryError(f"{size} bytes of pinned host memory could not be had: {result[0]!r}")
        return PinnedBuffer(self, int(result[1]), size, nbytes)

    def empty(self, nbytes: int) -> tuple[np.ndarray, int]:
        """An uninitialised uint8 array of ``nbytes`` in pinned memory, and its address.

        All views of the array keep its block. For ``record_stream`` use ``buffer``.
        """
        block = self.buffer(nbytes)
        return np.asarray(block), block.address

    def release_idle(self) -> int:
        """Unpin what is kept for reuse; the number of bytes. Waits for transfers that use it."""
        with self._lock:
            idle, self._idle = self._idle, {}
            released, self.idle_bytes = self.idle_bytes, 0
        for size, blocks in idle.items():
            for address, events in blocks:
                for event in events:
                    event.synchronize()
                self._unpin(address, size)
        return released

    def _give_back(self, block: PinnedBuffer) -> None:
        streams = self.recorded.pop(block.address, ())
        if not can_release(self.context):
            return
        events = [stream.record_event() for stream in streams]
        with self._lock:
            keep = self.idle_bytes + block.size <= self.max_idle_bytes
            if keep:
                self.idle_bytes += block.size
                self._idle.setdefault(block.size, []).append((block.address, events))
        if not keep:
            for event in events:
                event.synchronize()
            self._unpin(block.address, block.size)

    def _unpin(self, address: int, size: int) -> None:
        release(self.context, "cuMemFreeHost", address)


def base_of(array: np.ndarray) -> Any:
    """What an array's memory belongs to; None if it is NumPy's own."""
    base = array.base
    while isinstance(base, np.ndarray):
        base = base.base
    return base


def pinned_block(array: np.ndarray) -> PinnedBuffer | None:
    """The block of the pool that an array lies in."""
    base = base_of(array)
    return base if isinstance(base, PinnedBuffer) else None


_pool: PinnedPool | None = None
_lock = threading.Lock()


def pinned_pool() -> PinnedPool:
    """The process's pool; CudaUnavailableError without a device."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = PinnedPool(context(0))
        return _pool


def is_pinned(address: int) -> bool:
    """Whether an address lies in pinned host memory, whoever pinned it."""
    cu = driver()
    context(0).activate()
    attribute = cu.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE
    result = cu.cuPointerGetAttribute(attribute, address)
    if result[0] == cu.CUresult.CUDA_ERROR_INVALID_VALUE:
        return False  # the driver does not know the address: ordinary memory
    kind = check(result, "cuPointerGetAttribute")
    return int(kind) == int(cu.CUmemorytype.CU_MEMORYTYPE_HOST)
