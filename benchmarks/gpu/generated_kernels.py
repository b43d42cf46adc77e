"""Bandwidth of generated kernels: gelu, softmax, layer_norm on one GPU.

``python benchmarks/gpu/generated_kernels.py`` prints microseconds and effective GB/s (each
distinct tensor counted once), by CUDA events around many calls, median of several rounds.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import triton_graphs as graphs

from flamec.codegen.triton.compile_graph import compile_graph
from flamec.config import default_options
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.passes.manager import run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.shape import evaluate_dim
from flamec.ir.types import TensorType, bfloat16, float32
from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.cuda.stream import Event
from flamec.runtime.kernel_cache import KernelCache


def _matmul(b: GraphBuilder, n: int) -> Graph:
    x, y = (b.input(TensorType((n, n), bfloat16)) for _ in range(2))
    return b.build([graphs.matmul(b, x, y)])


def _total(b: GraphBuilder, n: int) -> Graph:
    return b.build([b.sum(b.input(TensorType((n,), float32)), axes=(0,))])


CASES: dict[str, Callable[[GraphBuilder], Graph]] = {
    "gelu 64M f32": lambda b: graphs.gelu_chain(b, 1 << 26),
    "softmax 16384x4096 bf16": lambda b: graphs.softmax_graph(b, (16384, 4096)),
    "layer_norm 16384x4096 f32": lambda b: graphs.layer_norm_graph(b, 16384, 4096),
    "layer_norm_backward 16384x1024 f32": lambda b: graphs.layer_norm_backward(b, 16384, 1024),
    "sum 64M f32": lambda b: _total(b, 1 << 26),
    "matmul 4096 bf16": lambda b: _matmul(b, 4096),
    "matmul 8192 bf16": lambda b: _matmul(b, 8192),
}


def measure(device: CudaDevice, make: Callable[[GraphBuilder], Graph]) -> tuple[float, int, int]:
    """Seconds of one call, bytes moved, and arithmetic operations."""
    graph = run_passes(make(GraphBuilder()), pipeline(), False)[0]
    plan = compile_graph(graph).plan
    bound = device.load(plan).bind(())
    held = []
    for buffer in (*plan.inputs, *(o.buffer for o in plan.outputs)):
        nbytes = evaluate_dim(plan.buffers[buffer].bytes, {})
        allocation, address = device.empty(nbytes)
        device.fill(address, 0, nbytes)
        held.append(allocation)
        bound.addresses[buffer] = address
    for _ in range(5):
        bound()
    stream = device.current_stream()
    rounds = []
    for _ in range(7):
        start, stop = Event(enable_timing=True), Event(enable_timing=True)
        start.record(stream)
        for _ in range(20):
            bound()
        stop.record(stream)
        device.synchronize()
        rounds.append(start.elapsed_time(stop) / 20 * 1e-3)
    flops = sum(evaluate_dim(step.flops, {}) for step in plan.steps)
    return statistics.median(rounds), evaluate_dim(plan.bytes_moved(), {}), flops


def main() -> None:
    options = default_options()
    cache = KernelCache(options.cache_folder, options.cache_bytes)
    device = CudaDevice(0, cache, plan_memory)
    print(f"{device.properties.name}, NumPy {np.__version__}")
    for name, make in CASES.items():
        seconds, moved, flops = measure(device, make)
        print(
            f"{name}: {seconds * 1e6:.1f} us, {moved / seconds / 1e9:.0f} GB/s, "
            f"{flops / seconds / 1e12:.1f} Tflop/s",
            flush=True,
        )


if __name__ == "__main__":
    main()
