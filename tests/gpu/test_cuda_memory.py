"""Device and pinned memory on a GPU: accounts, reuse, running out, copies."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import numpy as np
import pytest

from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.cuda.host_memory import is_pinned
from flamec.runtime.cuda.memory import OutOfMemoryError
from flamec.runtime.cuda.stream import Stream, use_stream

pytestmark = pytest.mark.gpu


def test_accounts(device: CudaDevice) -> None:
    gc.collect()
    pool = device.pool
    before = pool.allocated_bytes
    pool.reset_peaks()
    first, address = device.empty(1 << 20)
    second, _ = device.empty(3 << 20)
    assert address % 256 == 0
    assert pool.allocated_bytes == before + (4 << 20)
    assert pool.reserved_bytes >= pool.allocated_bytes
    del second
    assert pool.allocated_bytes == before + (1 << 20)
    assert pool.max_allocated_bytes == before + (4 << 20)
    pool.reset_peaks()
    assert pool.max_allocated_bytes == before + (1 << 20)
    del first
    assert device.empty(0)[1] == 0
    assert pool.allocated_bytes == before


def test_blocks_are_used_again_in_their_stream(device: CudaDevice) -> None:
    first, address = device.empty(700)
    del first
    with use_stream(Stream(0)):
        other, other_address = device.empty(700)
        assert other_address != address
    again, again_address = device.empty(900)
    assert again_address == address
    larger, larger_address = device.empty(1025)
    assert larger_address != address
    del again, larger, other
    device.synchronize()
    device.release_idle()
    assert device.empty(100)[1] != 0


@pytest.mark.alone
def test_memory_is_kept_and_released(device: CudaDevice) -> None:
    allocation, _ = device.empty(512 << 20)
    del allocation
    device.synchronize()
    high = device.pool.reserved_bytes
    assert high >= 512 << 20
    assert device.release_idle() >= 512 << 20
    assert device.pool.reserved_bytes <= high - (512 << 20)


@pytest.mark.alone
def test_running_out_is_an_error_that_one_survives(device: CudaDevice) -> None:
    _, total = device.context.memory_info()
    kept, _ = device.empty(1 << 20)
    with pytest.raises(OutOfMemoryError, match=r"were requested, .* are allocated") as caught:
        device.empty(total + (1 << 30))
    error = caught.value
    assert error.requested == total + (1 << 30) and error.total == total
    assert 1 << 20 <= error.allocated <= error.reserved
    assert f"{kept.nbytes}" and device.empty(1 << 20)[1] != 0
    device.synchronize()
    device.release_idle()  # the driver may have reserved what there is; other processes test, too


@pytest.mark.alone
def test_idle_memory_makes_room(device: CudaDevice) -> None:
    """A request that fits only after idle memory went back to the device succeeds."""
    free, _ = device.context.memory_info()
    part = free * 6 // 10
    for size in (part, part + (64 << 20)):
        allocation, address = device.empty(size)
        device.fill(address + size - 4096, 1, 4096)
        del allocation
    device.synchronize()
    device.release_idle()


def test_memory_waits_for_recorded_streams(device: CudaDevice) -> None:
    """Memory that another stream still writes is not given out before that is done."""
    other = Stream(0)
    nbytes = 256 << 20
    for _ in range(5):
        allocation, address = device.empty(nbytes)
        device.synchronize()
        with use_stream(other):
            for _ in range(4):
                device.fill(address, 1, nbytes)
        allocation.record_stream(other)
        del allocation
        again, address = device.empty(nbytes)
        device.fill(address, 2, nbytes)
        host = np.empty(nbytes, np.uint8)
        device.read(host, address)
        assert (host == 2).all()
        del again


def test_copies(device: CudaDevice) -> None:
    data = np.random.default_rng(0).integers(0, 255, 1_000_003).astype(np.uint8)
    _kept, first = device.empty(data.nbytes)
    _also, second = device.empty(data.nbytes)
    device.write(first, data)
    device.copy(second, first, data.nbytes)
    device.fill(first, 7, data.nbytes)
    back = np.empty_like(data)
    device.read(back, second)
    assert (back == data).all()
    device.read(back, first)
    assert (back == 7).all()
    with pytest.raises(ValueError, match="C-contiguous"):
        device.write(first, np.zeros((4, 4))[:, ::2])


def test_pinned_memory(device: CudaDevice) -> None:
    array, address = device.pinned.empty(1 << 20)
    assert array.__array_interface__["data"][0] == address
    assert is_pinned(address) and not is_pinned(np.zeros(8).__array_interface__["data"][0])
    _kept, on_device = device.empty(1 << 20)
    array[:] = np.arange(1 << 20) % 251
    device.write(on_device, array)
    device.synchronize()
    result, _ = device.pinned.empty(1 << 20)
    device.start_read(result, on_device)
    device.synchronize()
    assert (result == np.arange(1 << 20) % 251).all()
    view = array[10:20]
    del array
    other, other_address = device.pinned.empty(1 << 20)
    assert other_address != address and (view == np.arange(10, 20)).all()
    del view
    again, again_address = device.pinned.empty(1 << 20)
    assert again_address == address
    del again, other, result
    assert device.pinned.release_idle() >= 3 << 20
    with pytest.raises(ValueError, match="not in pinned memory"):
        device.start_read(np.empty(16, np.uint8), on_device)


def test_streams_outlive_their_memory_in_cycles(device: CudaDevice) -> None:
    """A collection finalizes a cycle's stream, which is destroyed then, before its memory or after
    it; the driver crashes when memory is freed in a stream that is gone."""
    for nbytes in (4096, 5000, 1 << 20):
        owner = SimpleNamespace(stream=Stream(0), other=Stream(0))
        owner.owner = owner
        with use_stream(owner.stream):
            owner.memory = device.empty(nbytes)
            owner.used = device.empty(nbytes)
        owner.used[0].record_stream(owner.other)
        owner.pinned = device.pinned.buffer(nbytes)
        owner.pinned.record_stream(owner.other)
        del owner
        gc.collect()
    device.release_idle()


def test_pinned_memory_waits_for_its_streams(device: CudaDevice) -> None:
    stream = Stream(0)
    buffer = device.pinned.buffer(64 << 20)
    address = buffer.address
    _kept, on_device = device.empty(64 << 20)
    device.synchronize()
    with use_stream(stream):
        for _ in range(8):
            device.start_read(np.asarray(buffer), on_device)
    buffer.record_stream(stream)
    del buffer
    busy = not stream.query()
    other = device.pinned.buffer(64 << 20)
    assert other.address != address or not busy
    stream.synchronize()
