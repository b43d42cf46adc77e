"""Runs one kernel that ``flamec kernels --write`` wrote to a file of its own.

In: the kernel's source text, and a plan (JSON) without it. Out: lines on standard output: the time
of the best run, and for each array that is written its sum and a checksum of its bytes. Invariant:
the inputs are the same in every run and on every machine: ``inputs`` draws them from a generator
with a fixed seed, floats from [0, 1), integers below the bound that the file states; or they are
those of a run, from a file.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flamec.config import default_options
from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import evaluate_dim
from flamec.ir.types import DType

_SEED = 0
_SECONDS = 0.2  # of repeated runs
_MOST_RUNS = 1000


def inputs(
    plan: ExecutionPlan, sizes: Mapping[str, int], written: Sequence[int], index_bound: int
) -> dict[int, np.ndarray]:
    """The arrays that the kernel is given, by buffer; those that it writes are zeros."""
    rng = np.random.default_rng(_SEED)
    return {
        number: _array(
            plan.buffers[number].dtype,
            evaluate_dim(plan.buffers[number].elements, sizes),
            number in written,
            index_bound,
            rng,
        )
        for number in plan.inputs
    }


def save_inputs(plan: ExecutionPlan, arrays: Mapping[int, np.ndarray], file: Path) -> None:
    """Keep the arrays of a plan's buffers: bytes, because NumPy's files know not all dtypes."""
    content: dict[str, Any] = {f"buffer{n}": arrays[n].view(np.uint8) for n in plan.inputs}
    np.savez(file, **content)


def saved_inputs(plan: ExecutionPlan, file: Path) -> dict[int, np.ndarray]:
    """What ``save_inputs`` kept."""
    with np.load(file, allow_pickle=False) as content:
        return {n: content[f"buffer{n}"].view(plan.buffers[n].dtype.numpy) for n in plan.inputs}


def _array(
    dtype: DType, count: int, zeros: bool, index_bound: int, rng: np.random.Generator
) -> np.ndarray:
    if zeros:
        return np.zeros(count, dtype.numpy)
    if dtype.is_floating_point:
        return rng.random(count).astype(dtype.numpy)
    if dtype.kind == "bool":
        return rng.random(count) < 0.5
    return rng.integers(0, index_bound, count).astype(dtype.numpy)


def run(
    plan: str,
    sources: Sequence[str],
    sizes: Mapping[str, int],
    written: Sequence[int],
    index_bound: int,
    target: str = "",
    values: Path | None = None,
) -> None:
    """Compile the kernel, run it and print what came out.

    ``sources``: the C text, or the text of each Triton kernel. ``target``: the GPU that it was
    written for; on a machine without a GPU the kernel is compiled for it and not run.
    ``values``: a file with the inputs, where they were saved.
    """
    data = json.loads(plan)
    if target:
        for kernel, text in zip(data["kernels"], sources, strict=True):
            kernel["text"] = text
    else:
        (data["source"],) = sources
    whole = ExecutionPlan.from_json(json.dumps(data))
    if values is None:
        arrays = inputs(whole, sizes, written, index_bound)
    else:
        arrays = saved_inputs(whole, values)
    order = tuple(sizes[s] for s in whole.symbols)
    ran = _on_gpu(whole, arrays, order, target) if target else _on_cpu(whole, arrays, order)
    if ran is None:
        return
    seconds, results = ran
    step = whole.steps[0]
    moved = evaluate_dim(step.bytes_read, sizes) + evaluate_dim(step.bytes_written, sizes)
    flops = evaluate_dim(step.flops, sizes)
    print(
        f"{step.name}: {seconds * 1e6:.2f} us, {moved / seconds / 1e9:.2f} GB/s, "
        f"{flops / seconds / 1e9:.2f} GFLOP/s"
    )
    for number in written:
        array = results[number]
        total = array.astype(np.float64).sum()
        print(f"{whole.buffers[number].name}: {_checksum(array, total)}")


def _checksum(array: np.ndarray, total: float) -> str:
    return f"sum {total:.9g}, crc32 {zlib.crc32(array.tobytes()):08x}"


def _on_cpu(
    plan: ExecutionPlan, arrays: dict[int, np.ndarray], sizes: tuple[int, ...]
) -> tuple[float, dict[int, np.ndarray]]:
    from flamec import cpu_backend

    bound = cpu_backend.device(default_options()).load(plan, plan.steps[0].name).bind(sizes)
    for number, array in arrays.items():
        bound.addresses[number] = array.ctypes.data
    bound()
    results = {number: array.copy() for number, array in arrays.items()}
    return _best(bound), results


def _on_gpu(
    plan: ExecutionPlan, arrays: dict[int, np.ndarray], sizes: tuple[int, ...], target: str
) -> tuple[float, dict[int, np.ndarray]] | None:
    from flamec import cuda_backend
    from flamec.runtime.cuda.driver import unavailable_reason
    from flamec.runtime.cuda.stream import Event, current_stream

    options = default_options()
    reason = unavailable_reason()
    if reason is not None:
        _compile_only(plan, target, options)
        print(f"not run: {reason}")
        return None
    device = cuda_backend.device(0, options)
    bound = device.load(plan, label=plan.steps[0].name).bind(sizes)
    memory: dict[int, Any] = {}
    for number, array in arrays.items():
        memory[number], bound.addresses[number] = device.empty(max(1, array.nbytes))
        device.write(bound.addresses[number], array)
    bound()
    results = {}
    for number, array in arrays.items():
        results[number] = np.empty_like(array)
        device.read(results[number], bound.addresses[number])
    stream = current_stream(0)
    first, last = Event(enable_timing=True), Event(enable_timing=True)

    def timed() -> float:
        first.record(stream)
        bound()
        last.record(stream)
        last.synchronize()
        return 1e-3 * first.elapsed_time(last)

    return min(timed() for _ in range(20)), results


def _compile_only(plan: ExecutionPlan, target: str, options: Any) -> None:
    from flamec.runtime.cuda.triton_compiler import compile_kernel
    from flamec.runtime.kernel_cache import KernelCache

    cache = KernelCache(options.cache_folder, options.cache_bytes)
    for source in plan.kernels:
        binary, _ = compile_kernel(source, target, cache)
        print(
            f"{source.function}: compiled for {target}, {binary.registers} registers, "
            f"{binary.stack_bytes} bytes of stack, {binary.shared_bytes} bytes of shared memory"
        )


def _best(call: Callable[[], None]) -> float:
    """Seconds of the fastest run."""
    best, end, runs = float("inf"), time.perf_counter() + _SECONDS, 0
    while runs < 3 or (runs < _MOST_RUNS and time.perf_counter() < end):
        start = time.perf_counter()
        call()
        best, runs = min(best, time.perf_counter() - start), runs + 1
    return best
