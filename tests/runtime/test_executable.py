"""Binding sizes, memory of temporaries, errors, and the cost of a call."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

import numpy as np
import pytest
from counted_calls import called_by
from small_plans import program_plan

from flamec.ir.shape import SymbolicDim
from flamec.ir.types import float32, int64
from flamec.runtime.allocator import current_arena
from flamec.runtime.cpu.compiler import CompileError
from flamec.runtime.cpu.device import CpuDevice
from flamec.runtime.program_errors import ProgramError

MakeDevice = Callable[[int], CpuDevice]

DOUBLE_TWICE = """
int64_t flamec_program(FlamecCall *call) {
    int64_t n = call->sizes[0];
    const float *x = call->buffers[0];
    float *y = call->buffers[1], *t = call->buffers[2];
    for (int64_t i = 0; i < n; i += FLAMEC_LANES)
        vstore_n_f32(t + i, vload_n_f32(x + i, n - i) * 2.0f, n - i);
    for (int64_t i = 0; i < n; i += FLAMEC_LANES)
        vstore_n_f32(y + i, vload_n_f32(t + i, n - i) * 2.0f, n - i);
    return 0;
}
"""
FAIL = """
int64_t flamec_program(FlamecCall *call) {
    const int64_t *x = call->buffers[0];
    call->error_detail = x[1];
    return x[0];
}
"""
SCRATCH = """
static void body(void *context, int64_t begin, int64_t end, int thread) {
    unsigned char *own = (unsigned char *)((FlamecCall *)context)->scratch + 128 * thread;
    (void)begin;
    (void)end;
    for (int i = 0; i < 100; i++) own[i] = (unsigned char)(thread + 1);
}
int64_t flamec_program(FlamecCall *call) {
    float *t = call->buffers[1];
    t[0] = t[9] = 7.0f;
    call->runtime->parallel_for(body, call, 3, 1);
    *(int64_t *)call->buffers[0] = (int64_t)call->scratch - (int64_t)t;
    return 0;
}
"""


def n() -> SymbolicDim:
    size = SymbolicDim.symbol("n")
    assert isinstance(size, SymbolicDim)
    return size


def test_sizes_and_addresses(make_device: MakeDevice) -> None:
    device = make_device(1)
    plan = program_plan(DOUBLE_TWICE, [(float32, n())], [(float32, n())], [n()])
    program = device.load(plan)
    for size in (0, 1, 7, 100, 5000, 100):
        x = np.arange(size, dtype=np.float32)
        out, address = device.empty(4 * size)
        bound = program.bind((size,))
        bound.addresses[0] = x.ctypes.data
        bound.addresses[1] = address
        bound()
        np.testing.assert_array_equal(out.view(np.float32), x * 4)
    assert program.bind((100,)) is program.bind((100,))
    with pytest.raises(ValueError, match=r"1 sizes \(n\), 2 were given"):
        program.bind((1, 2))


def test_a_second_load_compiles_nothing(make_device: MakeDevice) -> None:
    plan = program_plan(DOUBLE_TWICE + "/* unique */", [(float32, n())], [(float32, n())], [n()])
    assert make_device(1).load(plan).compiled
    assert not make_device(1).load(plan).compiled


def test_the_least_recently_used_sizes_are_forgotten(make_device: MakeDevice) -> None:
    plan = program_plan(DOUBLE_TWICE, [(float32, n())], [(float32, n())], [n()])
    program = make_device(1).load(plan)
    first, second = program.bind((1,)), program.bind((2,))
    for size in range(3, 66):
        program.bind((size,))
        assert program.bind((1,)) is first
    assert program.bind((2,)) is not second


def test_the_planned_peak_is_what_the_call_touches(make_device: MakeDevice) -> None:
    plan = program_plan(DOUBLE_TWICE, [(float32, n())], [(float32, n())], [n()])
    program = make_device(1).load(plan)
    x = np.ones(1000, np.float32)
    out = np.empty_like(x)
    bound = program.bind((1000,))
    bound.addresses[0], bound.addresses[1] = x.ctypes.data, out.ctypes.data
    bound()
    arena = current_arena().view()
    arena[:] = 0xAB
    bound()
    touched = np.flatnonzero(arena != 0xAB)
    assert bound.peak_bytes == bound.layout.peak_bytes == 4032
    assert touched[-1] < bound.peak_bytes
    assert touched[-1] >= bound.peak_bytes - 64


def test_each_thread_has_its_scratch_memory(make_device: MakeDevice) -> None:
    device = make_device(3)
    program = device.load(program_plan(SCRATCH, [], [(int64, 1)], [10], scratch=100))
    out = np.zeros(1, np.int64)
    bound = program.bind()
    bound.addresses[0] = out.ctypes.data
    bound()
    assert bound.peak_bytes == 64 + 3 * 128
    assert out[0] == 64
    arena = current_arena().view()
    arena[:] = 0
    bound()
    for thread in range(3):
        assert (arena[64 + 128 * thread :][:100] == thread + 1).all()
    assert not arena[bound.peak_bytes :].any()
    device.set_threads(8)
    bound()
    assert bound.peak_bytes == 64 + 8 * 128


def test_programs_of_one_thread_share_the_arena(make_device: MakeDevice) -> None:
    """A program that needs more moves it; the others follow."""
    device = make_device(1)
    plan = program_plan(DOUBLE_TWICE, [(float32, n())], [(float32, n())], [n()])
    program = device.load(plan)
    bounds = []
    for size in (10, 10_000, 10_000_000):
        x = np.ones(size, np.float32)
        out = np.zeros_like(x)
        bound = program.bind((size,))
        bound.addresses[0], bound.addresses[1] = x.ctypes.data, out.ctypes.data
        bounds.append((bound, x, out))
        for known, _, result in bounds:
            result[:] = 0
            known()
            assert (result == 4).all()
    assert current_arena().address % (2 << 20) == 0


def test_threads_do_not_share_bound_programs(make_device: MakeDevice) -> None:
    plan = program_plan(DOUBLE_TWICE, [(float32, n())], [(float32, n())], [n()])
    program = make_device(2).load(plan)
    found = []

    def run(value: float) -> None:
        x, out = np.full(5000, value, np.float32), np.zeros(5000, np.float32)
        for _ in range(200):
            bound = program.bind((5000,))
            bound.addresses[0], bound.addresses[1] = x.ctypes.data, out.ctypes.data
            bound()
            if not (out == 4 * value).all():
                return
        found.append(bound)

    threads = [threading.Thread(target=run, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(bound) for bound in found}) == 4


def test_error_codes(make_device: MakeDevice) -> None:
    errors = ("IndexError: index {detail} is out of range", "something broke ({detail})")
    program = make_device(1).load(program_plan(FAIL, [(int64, 2)], errors=errors))
    x = np.array([1, -5])
    bound = program.bind()
    bound.addresses[0] = x.ctypes.data
    with pytest.raises(IndexError, match=r"^index -5 is out of range$"):
        bound()
    x[:] = 2, 9
    with pytest.raises(ProgramError, match=r"^something broke \(9\)$"):
        bound()
    for code in (3, -1):
        x[0] = code
        with pytest.raises(ProgramError, match=f"unknown error code {code}"):
            bound()
    x[0] = 0
    bound()


def test_a_program_that_does_not_compile(make_device: MakeDevice) -> None:
    device = make_device(1)
    with pytest.raises(CompileError, match="nonsense"):
        device.load(program_plan("nonsense"))
    good = program_plan("int64_t flamec_program(FlamecCall *c) { (void)c; return 0; }")
    device.load(good).bind()()
    with pytest.raises(AttributeError, match="no_such_entry"):
        device.load(dataclasses.replace(good, entry="no_such_entry"))


def test_a_call_is_one_call_of_c(make_device: MakeDevice) -> None:
    source = "int64_t flamec_program(FlamecCall *c) { (void)c; return 0; }"
    bound = make_device(1).load(program_plan(source)).bind()
    bound()
    assert called_by(bound) == ["BoundProgram.__call__"]  # the C function is no Python object
