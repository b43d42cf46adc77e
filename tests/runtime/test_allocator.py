"""Memory of outputs: alignment, reuse only after the last view is gone, bounds."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import numpy as np
import pytest

from flamec.runtime.allocator import Allocator, Arena


@pytest.mark.parametrize("nbytes", [0, 1, 63, 64, 1024, 1025, 4096, 70_000, 3 << 20])
def test_arrays_are_aligned_and_writable(nbytes: int) -> None:
    array, address = Allocator().empty(nbytes)
    assert array.nbytes == nbytes
    assert array.dtype == np.uint8
    assert address % 64 == 0
    if nbytes:
        assert array.ctypes.data == address
    if nbytes >= 2 << 20:
        assert address % (2 << 20) == 0
    array[:] = 7
    assert (array == 7).all()


def test_small_arrays_do_not_overlap() -> None:
    allocator = Allocator()
    arrays = [allocator.empty(size)[0] for size in (4, 100, 1024, 64) * 50]
    for number, array in enumerate(arrays):
        array[:] = number % 251
    for number, array in enumerate(arrays):
        assert (array == number % 251).all()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux")
@pytest.mark.parametrize("nbytes", [70_000, (2 << 20) + 1, 5_300_000, 77 << 20])
def test_no_more_is_mapped_than_is_used(nbytes: int) -> None:
    """Not even to find the beginning of a huge page, and nothing after the last array is gone."""
    allocator = Allocator()
    before = _mapped()
    array, address = allocator.empty(nbytes)
    taken = _mapped() - before
    assert nbytes <= taken <= max(1.035 * nbytes, nbytes + (64 << 10))
    array[:] = 3
    del array
    gc.collect()
    assert allocator.idle_bytes == taken
    allocator.release_idle()
    assert _mapped() == before and address


def _mapped() -> int:
    """Bytes of private pages of the process that are no file's."""
    gc.collect()
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions, _, _, inode, *name = line.split()
        if permissions == "rw-p" and inode == "0" and not name:
            first, last = (int(part, 16) for part in span.split("-"))
            total += last - first
    return total


def test_memory_is_reused_after_the_last_view_is_gone() -> None:
    allocator = Allocator()
    array, address = allocator.empty(1 << 20)
    view = array.view(np.float32).reshape(-1, 2)[3:]
    buffer = memoryview(array)
    del array
    gc.collect()
    assert allocator.empty(1 << 20)[1] != address
    del view
    assert allocator.idle_bytes == 1 << 20  # the second one was free at once
    buffer.release()
    del buffer
    gc.collect()
    assert allocator.idle_bytes == 2 << 20
    assert address in {allocator.empty(1 << 20)[1], allocator.empty(1 << 20)[1]}


def test_close_sizes_share_blocks() -> None:
    allocator = Allocator()
    address = allocator.empty(100_000)[1]
    assert allocator.empty(99_000)[1] == address


def test_idle_memory_is_bounded_and_can_be_released() -> None:
    allocator = Allocator(max_idle_bytes=1 << 20)
    arrays = [allocator.empty(1 << 20) for _ in range(4)]
    del arrays
    assert allocator.idle_bytes == 1 << 20
    assert allocator.release_idle() == 1 << 20
    assert allocator.idle_bytes == 0


def test_too_much_memory_is_a_memory_error() -> None:
    with pytest.raises(MemoryError):
        Allocator().empty(1 << 60)


def test_threads_may_allocate_at_once() -> None:
    allocator = Allocator()
    wrong: list[int] = []

    def run(mark: int) -> None:
        for size in (10, 500, 5000, 100_000) * 100:
            array, _ = allocator.empty(size)
            array[:] = mark
            if not (array == mark).all():
                wrong.append(mark)

    threads = [threading.Thread(target=run, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_arena_grows_and_tells_that_it_moved() -> None:
    arena = Arena()
    arena.reserve(0)
    assert (arena.size, arena.generation) == (0, 0)
    arena.reserve(100)
    first = arena.generation
    assert arena.address % 64 == 0
    arena.reserve(50)
    assert arena.generation == first
    arena.reserve(5 << 20)
    assert arena.generation > first
    assert arena.size >= 5 << 20
    assert arena.view().size == arena.size


def test_an_array_is_the_one_object_that_its_views_refer_to() -> None:
    allocator = Allocator()
    array = allocator.array((3, 5), np.dtype(np.float32))
    assert array.shape == (3, 5)
    assert array.flags.c_contiguous
    assert array[1:].T.base is array
    address = array.ctypes.data
    del array
    assert allocator.array((4, 4), np.dtype(np.float32)).ctypes.data == address
    assert allocator.array((0, 2), np.dtype(np.int64)).size == 0
