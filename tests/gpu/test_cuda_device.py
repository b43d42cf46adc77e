"""Contexts, errors, streams, events, threads and forks on a GPU."""

from __future__ import annotations

import os
import sys
import threading

import numpy as np
import pytest
from gpu_kernels import plan_in_order

from flamec.runtime.cuda import driver
from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.cuda.graph import capture
from flamec.runtime.cuda.stream import Event, Stream, current_stream, default_stream, use_stream

pytestmark = pytest.mark.gpu


def test_properties(device: CudaDevice) -> None:
    facts = device.properties
    assert driver.is_available() and driver.device_count() >= 1
    assert facts.name and facts.uuid.startswith("GPU-") and len(facts.uuid) == 40
    assert device.target == f"sm_{facts.major}{facts.minor}"
    assert facts.total_memory > 1 << 30
    assert facts.warp_size == 32 and facts.multi_processor_count > 0
    assert facts.shared_memory_per_block_optin >= 48 << 10
    free, total = device.context.memory_info()
    assert 0 < free <= total


def test_missing_device() -> None:
    with pytest.raises(ValueError, match="cuda:99 was asked for, but the devices are cuda:0"):
        driver.context(99)


def test_errors_have_names(device: CudaDevice) -> None:
    with pytest.raises(driver.CudaError, match=r"CUDA_ERROR_INVALID_(IMAGE|SOURCE)") as caught:
        driver.check(driver.driver().cuModuleLoadData(b"nonsense\0"), "cuModuleLoadData")
    assert caught.value.call == "cuModuleLoadData"
    assert not caught.value.context_lost


def test_events_time_and_order(device: CudaDevice) -> None:
    first, second = Stream(0), Stream(0)
    start, end = Event(enable_timing=True), Event(enable_timing=True)
    _kept, address = device.empty(256 << 20)
    with use_stream(first):
        assert current_stream() is first
        start.record(first)
        device.fill(address, 1, 256 << 20)
        end.record(first)
    assert current_stream() is default_stream()
    second.wait_stream(first)
    second.synchronize()
    assert end.query() and first.query()
    assert 0 < start.elapsed_time(end) < 1000
    with pytest.raises(ValueError, match="without enable_timing"):
        Event().elapsed_time(end)
    with pytest.raises(ValueError, match="end_event was not recorded"):
        start.elapsed_time(Event(enable_timing=True))
    assert Event().query()


def test_streams_are_ordered_by_events(device: CudaDevice) -> None:
    """What one stream writes is read in another one only after it was waited for."""
    first, second = Stream(0), Stream(0, priority=-1)
    nbytes = 64 << 20
    memory, address = device.empty(nbytes)
    copied, copy = device.empty(nbytes)
    for value in range(1, 6):
        with use_stream(first):
            first.wait_stream(second)
            device.fill(address, value, nbytes)
        with use_stream(second):
            second.wait_stream(first)
            device.copy(copy, address, nbytes)
            host = np.empty(nbytes, np.uint8)
            device.read(host, copy)
        assert (host == value).all()
    memory.record_stream(first)
    memory.record_stream(second)
    copied.record_stream(second)


def test_copies_between_devices(device: CudaDevice) -> None:
    """From the last device to the first, or within the only one."""
    last = CudaDevice(driver.device_count() - 1, device.cache, plan_in_order)
    data = np.random.default_rng(1).integers(0, 255, 1 << 20).astype(np.uint8)
    source, source_address = last.empty(data.nbytes)
    to, to_address = device.empty(data.nbytes)
    last.write(source_address, data)
    device.copy_from(to_address, last, source_address, data.nbytes)
    last.fill(source_address, 0, data.nbytes)
    result = np.empty_like(data)
    device.read(result, to_address)
    assert (result == data).all()
    if last.index:
        assert isinstance(driver.can_access_peer(0, last.index), bool)
    del source, to


def test_threads_share_a_device(device: CudaDevice) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            for size in (1000, 100_000, 1_000_000):
                _, address = device.empty(size)
                device.fill(address, number, size)
                host = np.empty(size, np.uint8)
                device.read(host, address)
                if not (host == number).all():
                    wrong.append((number, size))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_child_gets_an_error(device: CudaDevice) -> None:
    allocation, _ = device.empty(1024)
    idle, _ = device.empty(16)
    del idle  # kept by the pool: a child must not get it, neither now nor after its own releases
    event, stream, graph = Event(), Stream(), capture(device.context, ())
    event.record(stream)
    child = os.fork()
    if child == 0:
        errors: list[object] = []
        sys.unraisablehook = errors.append  # what destructors raise
        del allocation, event, stream, graph
        for nbytes in (16, 1024):
            try:
                device.empty(nbytes)
            except driver.CudaUnavailableError as error:
                errors.append("forked" in str(error) and not driver.is_available())
        os._exit(0 if errors == [True, True] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    device.synchronize()
