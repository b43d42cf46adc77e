"""Parallel loops: partition, nesting, concurrent callers, fork, and how many threads to use."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_plans import program_plan

from flamec.ir.types import int64
from flamec.runtime.cpu.device import CpuDevice
from flamec.runtime.cpu.threads import available_cpus
from flamec.runtime.executable import BoundProgram

MakeDevice = Callable[[int], CpuDevice]

# Writes (begin, end, times run) for each chunk at its thread number; sizes are n and grain.
PARTITION = """
static void body(void *context, int64_t begin, int64_t end, int thread) {
    int64_t *row = (int64_t *)context + 3 * thread;
    row[0] = begin;
    row[1] = end;
    row[2]++;
}
int64_t flamec_program(FlamecCall *call) {
    const int64_t *sizes = call->buffers[0];
    call->runtime->parallel_for(body, call->buffers[1], sizes[0], sizes[1]);
    return 0;
}
"""
NESTED = """
static const FlamecRuntime *runtime;
typedef struct { int64_t *rows; int64_t outer; } Inner;
static void inner(void *context, int64_t begin, int64_t end, int thread) {
    Inner *c = context;
    int64_t *row = c->rows + 3 * (4 * c->outer + thread);
    row[0] = begin;
    row[1] = end;
    row[2]++;
}
static void outer(void *context, int64_t begin, int64_t end, int thread) {
    Inner c = {context, thread};
    (void)begin;
    (void)end;
    runtime->parallel_for(inner, &c, 10, 1);
}
int64_t flamec_program(FlamecCall *call) {
    runtime = call->runtime;
    runtime->parallel_for(outer, call->buffers[1], 4, 1);
    return 0;
}
"""
SUM = """
typedef struct { const int64_t *x; int64_t *partial; } Sums;
static void body(void *context, int64_t begin, int64_t end, int thread) {
    Sums *c = context;
    int64_t sum = 0;
    for (int64_t i = begin; i < end; i++) sum += c->x[i];
    c->partial[thread] = sum;
}
int64_t flamec_program(FlamecCall *call) {
    int64_t partial[16] = {0};
    Sums c = {call->buffers[0], partial};
    call->runtime->parallel_for(body, &c, 10000, 10);
    *(int64_t *)call->buffers[1] = 0;
    for (int i = 0; i < 16; i++) *(int64_t *)call->buffers[1] += partial[i];
    return 0;
}
"""


def bound_to(device: CpuDevice, source: str, *arrays: np.ndarray) -> BoundProgram:
    inputs = [(int64, array.size) for array in arrays[:-1]]
    plan = program_plan(source, inputs, [(int64, arrays[-1].size)])
    bound = device.load(plan).bind()
    for position, array in enumerate(arrays):
        bound.addresses[position] = array.ctypes.data
    return bound


def partition(device: CpuDevice, n: int, grain: int) -> list[list[int]]:
    sizes, rows = np.array([n, grain]), np.zeros((32, 3), np.int64)
    bound_to(device, PARTITION, sizes, rows)()
    return [row for row in rows.tolist() if row[2]]


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize(("n", "grain"), [(0, 1), (1, 1), (7, 1), (7, 100), (1000, 10), (25, 10)])
def test_chunks_are_contiguous_and_depend_on_the_numbers_alone(
    make_device: MakeDevice, threads: int, n: int, grain: int
) -> None:
    chunks = partition(make_device(threads), n, grain)
    wanted = 0 if n == 0 else max(1, min(threads, n // grain))
    assert len(chunks) == wanted
    assert all(count == 1 for *_, count in chunks)
    edges = [0] + [end for _, end, _ in chunks]
    assert edges[-1] == n
    assert [begin for begin, *_ in chunks] == edges[:-1]
    if wanted > 1:
        lengths = [end - begin for begin, end, _ in chunks]
        assert min(lengths) >= grain
        assert max(lengths) - min(lengths) <= 1
    assert chunks == partition(make_device(threads), n, grain)


def test_devices_with_different_numbers_of_threads_do_not_disturb_each_other(
    make_device: MakeDevice,
) -> None:
    few, many = make_device(2), make_device(8)
    for _ in range(3):
        assert len(partition(few, 1000, 1)) == 2
        assert len(partition(many, 1000, 1)) == 8


def test_a_loop_inside_a_loop_runs_the_same_chunks(make_device: MakeDevice) -> None:
    sizes, rows = np.zeros(1, np.int64), np.zeros((4, 4, 3), np.int64)
    bound_to(make_device(4), NESTED, sizes, rows)()
    expected = [[0, 3, 1], [3, 6, 1], [6, 8, 1], [8, 10, 1]]
    assert rows.tolist() == [expected] * 4


def test_set_threads_changes_later_calls(make_device: MakeDevice) -> None:
    device = make_device(2)
    sizes, rows = np.array([100, 1]), np.zeros((32, 3), np.int64)
    bound = bound_to(device, PARTITION, sizes, rows)
    for threads in (2, 5, 1, 3):
        device.set_threads(threads)
        rows[:] = 0
        bound()
        assert rows[:, 2].sum() == threads
    with pytest.raises(ValueError, match="at least 1"):
        device.set_threads(0)


def test_callers_on_many_threads_get_right_answers(make_device: MakeDevice) -> None:
    device = make_device(4)
    wrong: list[int] = []

    def run(seed: int) -> None:
        x = np.random.default_rng(seed).integers(0, 1000, 10000)
        out = np.zeros(1, np.int64)
        bound = bound_to(device, SUM, x, out)
        for _ in range(300):
            bound()
            if out[0] != x.sum():
                wrong.append(seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert not wrong


def test_workers_sleep_between_calls(make_device: MakeDevice) -> None:
    x, out = np.ones(10000, np.int64), np.zeros(1, np.int64)
    bound = bound_to(make_device(4), SUM, x, out)
    bound()
    here = str(threading.get_native_id())

    def switches() -> dict[str, list[str]]:
        """How often each of the other threads has given its processor away or lost it."""
        found = {}
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                status = (task / "status").read_text()
                found[task.name] = re.findall(r"ctxt_switches:\s*(\d+)", status)
        found.pop(here, None)
        return found

    before: dict[str, list[str]] = {}
    deadline = time.monotonic() + 30
    while before != (now := switches()) and time.monotonic() < deadline:  # until they are asleep
        before = now
        time.sleep(0.2)
    assert len(now) >= 3 and before == now
    bound()
    assert out[0] == 10000


def run_in_child(run: Callable[[], bool]) -> None:
    """Fork; the child exits with 0 if ``run`` gives True. Fails if it hangs."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if run() else 1
        finally:
            os._exit(status)
    end = time.time() + 30
    while time.time() < end:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the forked child hangs")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_runs_programs(make_device: MakeDevice) -> None:
    x, out = np.arange(10000), np.zeros(1, np.int64)
    bound = bound_to(make_device(4), SUM, x, out)
    bound()

    def run() -> bool:
        for _ in range(50):
            out[0] = 0
            bound()
            if out[0] != x.sum():
                return False
        return True

    run_in_child(run)
    assert run()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_while_another_thread_computes(make_device: MakeDevice) -> None:
    device = make_device(4)
    x = np.arange(10000)
    stop = threading.Event()

    def compute() -> None:
        busy = bound_to(device, SUM, x, np.zeros(1, np.int64))
        while not stop.is_set():
            busy()

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        out = np.zeros(1, np.int64)
        bound = bound_to(device, SUM, x, out)

        def run() -> bool:
            bound()
            return bool(out[0] == x.sum())

        for _ in range(10):
            run_in_child(run)
    finally:
        stop.set()
        thread.join()


def test_available_cpus_respects_affinity() -> None:
    assert 1 <= available_cpus() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu.max": "300000 100000"}, 3),
        ({"cpu.max": "150000 100000"}, 1),
        ({"cpu.max": "20000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
    ],
)
def test_available_cpus_respects_the_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], limit: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n")
    assert available_cpus(tmp_path) == limit
