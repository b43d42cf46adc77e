"""Memory for program outputs and temporaries.

In: byte counts. Out: NumPy uint8 arrays with their addresses, and arenas. Invariants: every
address is a multiple of 64; a block is given again only after the last array that looks into
it is gone; an arena belongs to one thread. Reuse matters: touching fresh pages costs as much as
a memory-bound kernel.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import sys
import threading
import weakref
from typing import Any

import numpy as np

from flamec.runtime.fork_locks import held_in_forks

ALIGNMENT = 64
HUGE_PAGE = 2 << 20
_SMALL = 1024  # bytes up to which arrays are cut from a common slab
_SLAB = 16 << 10
_PAGES = 64 << 10


class _Block:
    """Mapped memory that is used again; ``owner`` exposes it to NumPy."""

    __slots__ = ("address", "owner", "size")

    def __init__(self, size: int) -> None:
        self.owner, self.address = _map(size)
        self.size = size


class _Lease(weakref.ref):
    """Watches the array that was given out; all views of it keep it alive."""

    __slots__ = ("block",)
    block: _Block


class Allocator:
    """Hands out uninitialised arrays and reuses the memory of those that are gone.

    ``max_idle_bytes`` bounds what is kept for reuse.
    """

    def __init__(self, max_idle_bytes: int = 1 << 30) -> None:
        self.max_idle_bytes = max_idle_bytes
        self.idle_bytes = 0
        self._idle: dict[int, list[_Block]] = {}
        self._leases: dict[int, _Lease] = {}  # by id: a reference to an array has no hash
        self._slab = np.empty(0, np.uint8)
        self._slab_address = 0
        self._slab_used = _SLAB  # so that the first array makes one
        # One that can be taken again: a lease may end, in a collection, inside any of this.
        self._lock = held_in_forks(threading.RLock())

    def empty(self, nbytes: int) -> tuple[np.ndarray, int]:
        """An uninitialised uint8 array of ``nbytes`` and its address; MemoryError if too large."""
        if nbytes <= _SMALL:
            with self._lock:
                start = self._slab_used
                end = start + ((nbytes + ALIGNMENT - 1) & -ALIGNMENT)
                if end > _SLAB:
                    self._new_slab()
                    start, end = 0, end - start
                self._slab_used = end
                return self._slab[start : start + nbytes], self._slab_address + start
        block = self._take(nbytes)
        array = np.frombuffer(block.owner, np.uint8, nbytes)
        self._lend(block, array)
        return array, block.address

    def array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An uninitialised array in a block of its own, for large ones.

        Views that NumPy makes of it refer to this very object, so its reference count tells
        whether it is shared.
        """
        block = self._take(max(1, math.prod(shape) * dtype.itemsize))
        array: np.ndarray = np.ndarray(shape, dtype, block.owner)
        self._lend(block, array)
        return array

    def _take(self, nbytes: int) -> _Block:
        size = _rounded(nbytes)
        with self._lock:
            idle = self._idle.get(size)
            block = idle.pop() if idle else None
            if block is not None:
                self.idle_bytes -= size
        return _Block(size) if block is None else block

    def _lend(self, block: _Block, array: np.ndarray) -> None:
        lease = _Lease(array, self._end_lease)
        lease.block = block
        self._leases[id(lease)] = lease

    def release_idle(self) -> int:
        """Give memory kept for reuse back to the system; the number of bytes."""
        with self._lock:
            released, self.idle_bytes = self.idle_bytes, 0
            self._idle.clear()
        return released

    def _new_slab(self) -> None:
        slab = np.empty(_SLAB + ALIGNMENT, np.uint8)
        address = slab.__array_interface__["data"][0]
        skip = -address % ALIGNMENT
        self._slab = slab[skip : skip + _SLAB]
        self._slab_address = address + skip

    def _end_lease(self, lease: _Lease) -> None:
        block = lease.block
        with self._lock:
            del self._leases[id(lease)]
            if self.idle_bytes + block.size <= self.max_idle_bytes:
                self.idle_bytes += block.size
                self._idle.setdefault(block.size, []).append(block)


class Arena:
    """One growing region for the temporaries of the programs that a thread runs.

    ``generation`` changes when the region moves, so that addresses in it can be kept.
    """

    __slots__ = ("__weakref__", "_owner", "address", "generation", "size")

    def __init__(self) -> None:
        self._owner: Any = None
        self.address = 0
        self.size = 0
        self.generation = 0
        _arenas.add(self)

    def reserve(self, nbytes: int) -> None:
        """Make room for ``nbytes``; what was in the arena is lost if it has to grow.

        An arena that grows takes a little more than it needs, because it may grow again.
        """
        if nbytes > self.size:
            size = _rounded(nbytes) if self.size else -(-nbytes // _PAGES) * _PAGES
            self._owner = None  # unmap first: both need not fit
            self.address = self.size = 0
            self._owner, self.address = _map(size)
            self.size = size
            self.generation += 1

    def view(self) -> np.ndarray:
        """The arena's bytes, for tests and tools."""
        if self._owner is None:
            return np.empty(0, np.uint8)
        return np.frombuffer(self._owner, np.uint8)


_arenas: weakref.WeakSet[Arena] = weakref.WeakSet()


def invalidate_arenas() -> None:
    """Let every program lay out its memory again at its next call."""
    for arena in list(_arenas):
        arena.generation += 1


class _ThreadArena(threading.local):
    def __init__(self) -> None:
        self.arena = Arena()


_thread = _ThreadArena()


def current_arena() -> Arena:
    """The calling thread's arena."""
    return _thread.arena


def _rounded(nbytes: int) -> int:
    """Sizes in few steps, so that blocks fit again, and at most 3 % more than what was asked for:
    powers of two, 64 KiB, and from 4 MiB on steps that grow with the size up to a huge page."""
    if nbytes <= 64 << 10:
        return max(4096, 1 << (nbytes - 1).bit_length())
    step = max(64 << 10, min(HUGE_PAGE, 1 << (nbytes.bit_length() - 6)))
    return -(-nbytes // step) * step


def _map(size: int) -> tuple[Any, int]:
    """Zeroed pages: an object that exposes them and their address; MemoryError if too many.

    Those of large blocks begin at a huge page; what is mapped to find one is given back at once.
    """
    extra = HUGE_PAGE if size >= HUGE_PAGE else 0
    if size + extra > sys.maxsize:
        raise MemoryError(f"{size} bytes of memory are more than there are addresses")
    start = _map_pages(None, size + extra, mmap.PROT_READ | mmap.PROT_WRITE, _MAP_FLAGS, -1, 0)
    if start == _MAP_FAILED:
        reason = os.strerror(ctypes.get_errno())
        raise MemoryError(f"{size} bytes of memory could not be had: {reason}")
    skip = -start % HUGE_PAGE if extra else 0
    address = start + skip
    for first, unused in ((start, skip), (address + size, extra - skip)):
        if unused:
            _unmap_pages(first, unused)
    if extra and hasattr(mmap, "MADV_HUGEPAGE"):
        _advise(address, size, mmap.MADV_HUGEPAGE)
    owner = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(owner, _unmap_pages, address, size).atexit = False
    return owner, address


def _system_call(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_system, name)
    function.restype, function.argtypes = result, arguments
    return function


_system = ctypes.CDLL(None, use_errno=True)
_bytes, _pages = ctypes.c_size_t, ctypes.c_void_p
_map_pages = _system_call(
    "mmap", _pages, _pages, _bytes, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
)
_unmap_pages = _system_call("munmap", ctypes.c_int, _pages, _bytes)
_advise = _system_call("madvise", ctypes.c_int, _pages, _bytes, ctypes.c_int)
_MAP_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_MAP_FAILED = ctypes.c_void_p(-1).value
