"""What the CUDA runtime itself costs: launches, graphs, memory, copies, compilation.

    python benchmarks/gpu/runtime_costs.py [--out FILE] [--peers]

Prints a table and writes JSON. ``--peers`` adds PyTorch's figures where it is installed.
Times are medians of repeated runs on the clock of the host, after a warm-up.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from flamec.ir.plan import (
    Argument,
    Buffer,
    ExecutionPlan,
    KernelSource,
    Launch,
    MemoryLayout,
    OutputSpec,
)
from flamec.ir.types import Device, TensorType, float32
from flamec.runtime.cuda.compile_worker import compile_kernels
from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.cuda.driver import driver
from flamec.runtime.cuda.graph import capture
from flamec.runtime.cuda.module import load_kernel
from flamec.runtime.cuda.stream import Event, Stream
from flamec.runtime.cuda.triton_compiler import compile_kernel
from flamec.runtime.kernel_cache import KernelCache

_TEXT = """import triton
import triton.language as tl


@triton.jit
def scale(x, out, n, factor, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    tl.store(out + i, tl.load(x + i, inside) * factor, inside)
"""
_PARAMETERS = (
    ("x", "*fp32"),
    ("out", "*fp32"),
    ("n", "i32"),
    ("factor", "fp32"),
    ("BLOCK", "constexpr"),
)
SOURCE = KernelSource(_TEXT, "scale", _PARAMETERS, {"BLOCK": 1024}, ("x", "out"))
_COUNT = 1024
_MEBI = 1 << 20


def chain_plan(kernels: int) -> ExecutionPlan:
    """``kernels`` tiny launches, one after another, from x to out."""
    vector = TensorType((_COUNT,), float32, Device("cuda", 0))
    size = Argument(value=_COUNT)
    launches = tuple(
        Launch(0, (1, 1, 1), (Argument(0), Argument(1), size, Argument(value=float(i))))
        for i in range(kernels)
    )
    return ExecutionPlan(
        buffers=(
            Buffer("x", "input", float32, _COUNT),
            Buffer("out", "output", float32, _COUNT),
        ),
        steps=(),
        inputs=(0,),
        input_types=(vector,),
        outputs=(OutputSpec(1, vector),),
        updated=(),
        symbols=(),
        source="",
        language="triton",
        kernels=(SOURCE,),
        actions=launches,
    )


def no_temporaries(plan: ExecutionPlan, bindings: Mapping[str, int]) -> MemoryLayout:
    return MemoryLayout({}, 0)


class Costs:
    """Named figures; ``host`` and ``device`` measure one and record it."""

    def __init__(self, runtime: CudaDevice) -> None:
        self.runtime = runtime
        self.figures: dict[str, float] = {}

    def record(self, name: str, value: float) -> None:
        self.figures[name] = value
        print(f"{name:<58}{value:12.3f}", flush=True)

    def host(self, name: str, work: Callable[[], Any], calls: int = 1000) -> None:
        """Microseconds of the host for one call, without waiting for the device."""
        times = []
        for _ in range(9):
            self.runtime.synchronize()
            started = time.perf_counter()
            for _ in range(calls):
                work()
            times.append((time.perf_counter() - started) / calls)
        self.runtime.synchronize()
        self.record(f"{name}, host µs", 1e6 * statistics.median(times[1:]))

    def device(self, name: str, work: Callable[[], Any], calls: int = 50) -> float:
        """Microseconds of the device for one call."""
        times = []
        stream = self.runtime.current_stream()
        for _ in range(7):
            start, end = Event(enable_timing=True), Event(enable_timing=True)
            start.record(stream)
            for _ in range(calls):
                work()
            end.record(stream)
            end.synchronize()
            times.append(1e3 * start.elapsed_time(end) / calls)
        median = statistics.median(times[1:])
        self.record(f"{name}, device µs", median)
        return median

    def bandwidth(self, name: str, nbytes: int, work: Callable[[], Any]) -> None:
        """GB/s of work that moves ``nbytes`` and returns when it is done."""
        times = []
        for _ in range(7):
            self.runtime.synchronize()
            started = time.perf_counter()
            work()
            self.runtime.synchronize()
            times.append(time.perf_counter() - started)
        self.record(f"{name}, GB/s", nbytes / 1e9 / statistics.median(times[1:]))


def launches(costs: Costs) -> None:
    runtime = costs.runtime
    stream = runtime.current_stream()
    binary, _ = compile_kernel(SOURCE, runtime.target, runtime.cache)
    launch = load_kernel(runtime.context, binary).launch()
    held = [runtime.empty(4 * _COUNT) for _ in range(2)]
    x, out = (address for _, address in held)
    launch.set_arguments(x, out, _COUNT, 2.0)
    costs.host("launch, arguments unchanged", lambda: launch(stream))

    def with_addresses() -> None:
        launch.values[0] = x
        launch.values[1] = out
        launch.values[2] = _COUNT
        launch(stream)

    def with_arguments() -> None:
        launch.set_arguments(x, out, _COUNT, 2.0)
        launch(stream)

    costs.host("launch, three values written", with_addresses)
    costs.host("launch, set_arguments", with_arguments)
    cu = driver()
    function = launch.kernel.function
    values = (x, out, _COUNT, 2.0, 0, 0)
    types = (ctypes.c_void_p,) * 2 + (ctypes.c_int, ctypes.c_float) + (ctypes.c_void_p,) * 2
    costs.host(
        "launch, cuda.bindings with a tuple of values and types",
        lambda: cu.cuLaunchKernel(function, 1, 1, 1, 128, 1, 1, 0, stream.raw, (values, types), 0),
    )
    library = ctypes.CDLL("libcuda.so.1")
    raw = ctypes.c_void_p(int(function)), ctypes.c_void_p(launch._pointers_address)
    null = ctypes.c_void_p(0)
    costs.host(
        "launch, ctypes",
        lambda: library.cuLaunchKernel(raw[0], 1, 1, 1, 128, 1, 1, 0, null, raw[1], None),
    )
    own = Stream(0)
    costs.host("launch, in a stream of its own", lambda: launch(own))
    costs.device("launch, stream busy", lambda: launch(stream), 1000)
    costs.host("event made and recorded", lambda: Event().record(stream))
    costs.host("stream synchronize, idle", stream.synchronize)


def graphs(costs: Costs) -> None:
    runtime = costs.runtime
    stream = runtime.current_stream()
    held = [runtime.empty(4 * _COUNT) for _ in range(40)]
    for count in (1, 10, 100):
        program = runtime.load(chain_plan(count))
        bound = program.bind(())
        bound.addresses[0], bound.addresses[1] = held[0][1], held[1][1]
        for _ in range(3):
            bound()
        costs.host(f"program of {count} kernels, same addresses", bound, 200)
        costs.device(f"program of {count} kernels, same addresses", bound, 200)
        turn = 0

        def other_output(bound: Any = bound) -> None:
            nonlocal turn
            turn = (turn + 1) % len(held)
            bound.addresses[1] = held[turn][1]
            bound()

        costs.host(f"program of {count} kernels, output moves in each", other_output, 50)
    binary, _ = compile_kernel(SOURCE, runtime.target, runtime.cache)
    steps = []
    for _ in range(100):
        launch = load_kernel(runtime.context, binary).launch()
        launch.set_arguments(held[0][1], held[1][1], _COUNT, 2.0)
        steps.append(launch)
    started = time.perf_counter()
    graph = capture(runtime.context, steps)
    costs.record("capture and instantiate 100 kernels, ms", 1e3 * (time.perf_counter() - started))
    costs.host("graph of 100 kernels, launch", lambda: graph.launch(stream), 50)
    costs.host("graph, update one kernel's arguments", lambda: graph.update(steps[50], stream))


def memory(costs: Costs) -> None:
    runtime = costs.runtime
    for size in (4 << 10, _MEBI, 64 * _MEBI):
        costs.host(f"allocate and give back {size >> 10} KiB", partial(runtime.empty, size))
    runtime.synchronize()
    sizes = [1 << (10 + i % 12) for i in range(100)]
    costs.host(
        "allocate 100 of 12 sizes, then give back", lambda: [runtime.empty(s) for s in sizes], 20
    )
    costs.host("pinned buffer of 1 MiB", lambda: runtime.pinned.empty(_MEBI), 200)
    nbytes = 1 << 30
    host = np.ones(nbytes >> 2, np.uint8)
    pinned, _ = runtime.pinned.empty(nbytes >> 2)
    pinned[:] = 1
    (_a, a), (_b, b) = runtime.empty(nbytes), runtime.empty(nbytes)
    quarter = nbytes >> 2
    costs.bandwidth("host to device, pageable", quarter, lambda: runtime.write(a, host))
    costs.bandwidth("host to device, pinned", quarter, lambda: runtime.write(a, pinned))
    costs.bandwidth("device to host, pageable", quarter, lambda: runtime.read(host, a))
    costs.bandwidth("device to host, pinned", quarter, lambda: runtime.read(pinned, a))
    took = costs.device("copy 1 GiB on the device", lambda: runtime.copy(b, a, nbytes), 10)
    costs.record("copy 1 GiB on the device, GB/s read and written", 2 * nbytes / 1e3 / took)
    took = costs.device("fill 1 GiB", lambda: runtime.fill(a, 0, nbytes), 10)
    costs.record("fill 1 GiB, GB/s written", nbytes / 1e3 / took)
    small = np.empty(1, np.float32)
    costs.host("read one float32, pageable", lambda: runtime.read(small, a), 500)
    small_pinned, _ = runtime.pinned.empty(4)
    costs.host("read one float32, pinned", lambda: runtime.read(small_pinned, a), 500)
    costs.host("write one float32", lambda: runtime.write(a, small), 500)


def compilation(costs: Costs, jobs: int) -> None:
    runtime = costs.runtime
    sources = [
        replace(SOURCE, text=_TEXT.replace("* factor", f"* factor + {i}")) for i in range(32)
    ]
    started = time.perf_counter()
    results = compile_kernels(sources, runtime.target, runtime.cache, jobs)
    costs.record(f"compile 32 kernels with {jobs} workers, s", time.perf_counter() - started)
    assert all(result.compiled for result in results)
    started = time.perf_counter()
    compile_kernels(sources, runtime.target, runtime.cache, jobs)
    costs.record("the same from the cache, ms", 1e3 * (time.perf_counter() - started))


def peers(costs: Costs) -> None:
    """PyTorch's figures for the same things."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed")
        return
    x, out = torch.randn(_COUNT, device="cuda"), torch.empty(_COUNT, device="cuda")
    costs.host("PyTorch: torch.mul(x, 2, out=out)", lambda: torch.mul(x, 2.0, out=out))
    costs.host("PyTorch: x * 2", lambda: x * 2.0)
    costs.host("PyTorch: torch.empty of 1 MiB", lambda: torch.empty(_MEBI // 4, device="cuda"))
    costs.host("PyTorch: item()", lambda: x[0].item(), 500)
    graph = torch.cuda.CUDAGraph()
    torch.mul(x, 2.0, out=out)
    with torch.cuda.graph(graph):
        for _ in range(100):
            torch.mul(x, 2.0, out=out)
    costs.host("PyTorch: graph of 100 kernels, replay", graph.replay, 50)
    costs.device("PyTorch: graph of 100 kernels, replay", graph.replay, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    parser.add_argument("--peers", action="store_true", help="measure PyTorch, too")
    parser.add_argument("--jobs", type=int, default=8, help="compiler processes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runtime = CudaDevice(0, KernelCache(Path(folder)), no_temporaries)
        print(f"{runtime.properties.name}, {runtime.target}")
        costs = Costs(runtime)
        for part in (launches, graphs, memory):
            part(costs)
        compilation(costs, arguments.jobs)
        if arguments.peers:
            peers(costs)
        if arguments.out:
            facts = {"device": runtime.properties.name, "figures": costs.figures}
            arguments.out.write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
