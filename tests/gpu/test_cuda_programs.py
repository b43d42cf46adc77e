"""Graphs and whole programs on a GPU: replay, changed addresses, held outputs, fallbacks."""

from __future__ import annotations

import gc
import threading
import warnings
from typing import Any

import numpy as np
import pytest
from gpu_kernels import affine, affine_twice_plan

from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.cuda.graph import CaptureError, capture
from flamec.runtime.cuda.module import load_kernel
from flamec.runtime.cuda.program import BoundCudaProgram, CaptureWarning, CudaProgram
from flamec.runtime.cuda.stream import Stream, use_stream
from flamec.runtime.cuda.transfer import Copy, Fill
from flamec.runtime.cuda.triton_compiler import compile_kernel

pytestmark = pytest.mark.gpu


def random_vector(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


class Call:
    """One call of the plan ``affine_twice_plan`` with memory of its own."""

    def __init__(self, device: CudaDevice, bound: BoundCudaProgram, seed: int, n: int) -> None:
        self.device = device
        self.x = random_vector(seed, n)
        self.memory: list[Any] = []
        for position in (0, 2, 3):
            memory, address = device.empty(4 * n)
            self.memory.append(memory)
            bound.addresses[position] = address
            if position == 0:
                device.write(address, self.x)
        self.outputs = [bound.addresses[2], bound.addresses[3]]
        bound()

    def check(self) -> None:
        for address, expected in zip(
            self.outputs, (2 * (3 * self.x + 1) - 1, 2 * self.x), strict=True
        ):
            result = np.empty_like(self.x)
            self.device.read(result, address)
            np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def program(device: CudaDevice) -> CudaProgram:
    return device.load(affine_twice_plan())


def test_a_graph_repeats_its_steps(device: CudaDevice) -> None:
    binary, _ = compile_kernel(affine(), device.target, device.cache)
    launch = load_kernel(device.context, binary).launch((1, 1, 1))
    held = [device.empty(4096) for _ in range(4)]
    a, b, c, d = (address for _, address in held)
    launch.set_arguments(a, b, 1024, 2.0, 1.0)
    copy, fill = Copy(4096, c, b), Fill(4096, 0, a)
    device.write(a, np.full(1024, 5, np.float32))
    graph = capture(device.context, [launch, copy, fill])
    assert len(graph.nodes) == 3
    stream = device.current_stream()
    result = np.empty(1024, np.float32)
    for expected in (11, 1, 1):
        graph.launch(stream)
        device.read(result, c)
        assert (result == expected).all()
    copy.to, copy.source, fill.to, fill.value = d, b, c, 1
    launch.set_number(4, 7.0)
    for step in (launch, copy, fill):
        graph.update(step, stream)
    graph.launch(stream)
    device.read(result, d)
    assert (result == 7).all()
    device.read(result, c)
    assert (result.view(np.uint8) == 1).all()


def test_capture_failures_say_why(device: CudaDevice) -> None:
    _, address = device.empty(4096)
    fill = Fill(4096, 1, address)

    class Waits(Fill):
        def __call__(self, stream: Stream) -> None:
            stream.synchronize()

    class DoesNothing(Fill):
        def __call__(self, stream: Stream) -> None:
            pass

    with pytest.raises(CaptureError, match=r"step 1: cuStreamSynchronize failed: CUDA_ERROR_"):
        capture(device.context, [fill, Waits(1)])
    with pytest.raises(CaptureError, match=r"step 1 .* put no work"):
        capture(device.context, [fill, DoesNothing(1)])
    capture(device.context, [fill]).launch(device.current_stream())
    device.synchronize()


def test_memory_may_be_given_back_during_a_capture(device: CudaDevice) -> None:
    _, address = device.empty(4096)
    held = [device.empty(1 << 20)[0] for _ in range(8)]

    class Collects(Fill):
        def __call__(self, stream: Stream) -> None:
            super().__call__(stream)
            held.pop()
            gc.collect()
            held.insert(0, device.empty(1 << 20)[0])

    graph = capture(device.context, [Collects(4096, i, address) for i in range(8)])
    graph.launch(device.current_stream())
    result = np.empty(4096, np.uint8)
    device.read(result, address)
    assert (result == 7).all()


def test_a_program_keeps_a_hundred_outputs_intact(device: CudaDevice, program: CudaProgram) -> None:
    bound = program.bind((5000,))
    calls = [Call(device, bound, seed, 5000) for seed in range(100)]
    graphs = set(bound.graphs)
    assert len(graphs) == 2 and {len(graph.nodes) for graph in graphs} == {6}
    for call in calls:
        call.check()
    Call(device, bound, 7, 5000).check()
    assert set(bound.graphs) == graphs


def test_sizes_threads_and_streams(device: CudaDevice, program: CudaProgram) -> None:
    for seed, n in enumerate((1, 4096, 100_001, 4096, 1, 0)):
        Call(device, program.bind((n,)), seed, n).check()
    stream = Stream(0)
    for seed in range(4):
        with use_stream(stream):
            Call(device, program.bind((4096,)), seed, 4096).check()
        Call(device, program.bind((4096,)), seed, 4096).check()
    wrong: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for seed in range(number, number + 5):
                Call(device, program.bind((20_000,)), seed, 20_000).check()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    device.release_idle()
    Call(device, program.bind((4096,)), 1, 4096).check()


def test_without_graphs(device: CudaDevice, program: CudaProgram) -> None:
    with pytest.warns(CaptureWarning, match="kernel by kernel, not as a CUDA graph: no reason"):
        program.no_graph("no reason")
    bound = program.bind((3000,))
    for seed in range(3):
        Call(device, bound, seed, 3000).check()
    assert bound.graph is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program.no_graph("no reason")


def test_addresses_that_a_kernel_was_not_compiled_for(
    device: CudaDevice, program: CudaProgram
) -> None:
    bound = program.bind((512,))
    for seed in range(3):
        Call(device, bound, seed, 512).check()
    _, address = device.empty(4096)
    bound.addresses[0] = address + 4
    with pytest.raises(ValueError, match=r"multiples of 16; buffer 0 \(x\)"):
        bound()
    Call(device, bound, 9, 512).check()
    unaligned = device.load(affine_twice_plan(aligned=False))
    kernel = unaligned.plan.kernels[0]
    assert kernel.aligned == ()


def test_a_second_load_compiles_nothing(device: CudaDevice, program: CudaProgram) -> None:
    assert not device.load(affine_twice_plan()).compiled
