"""Triton on NVIDIA GPUs: from a graph whose values are on one GPU to a loaded program.

In: a traced graph on ``Device("cuda", i)``. Out: ``Prepared``, whose runner takes ``DeviceArray``s.
As on the CPU, a plan is found in the cache by the hash of its graph, and then nothing is
optimized or generated.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flamec.codegen.options import CodegenOptions
from flamec.config import CompileOptions
from flamec.cpu_backend import PLAN_KIND, generator_digest
from flamec.errors import CompileError, user_location
from flamec.ir.graph import Graph
from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.plan import ExecutionPlan
from flamec.ir.types import Device, DType, TensorType, dtype_of_numpy
from flamec.prepared import Prepared, cache_key, generate_plan, graph_device
from flamec.progress import progress_line
from flamec.runtime.cpu.threads import available_cpus
from flamec.runtime.cuda.device import CudaDevice, KernelError
from flamec.runtime.cuda.driver import CudaUnavailableError
from flamec.runtime.cuda.program import BoundCudaProgram, CudaProgram
from flamec.runtime.cuda.triton_compiler import TritonError, triton_version
from flamec.runtime.kernel_cache import KernelCache

ALIGNMENT = 16  # of the addresses that kernels are compiled for

_devices: dict[tuple[int, CompileOptions], CudaDevice] = {}
_lock = threading.Lock()


def device(index: int, options: CompileOptions) -> CudaDevice:
    """The process's GPU ``index`` for these options; CompileError says why there is none."""
    with _lock:
        if (index, options) not in _devices:
            cache = KernelCache(options.cache_folder, options.cache_bytes)
            jobs = options.threads or available_cpus()
            try:
                found = CudaDevice(index, cache, plan_memory, jobs)
            except (CudaUnavailableError, ValueError) as error:
                raise CompileError(f"cuda:{index} cannot be used: {error}") from error
            _devices[index, options] = found
        return _devices[index, options]


@dataclass(frozen=True)
class DeviceArray:
    """A dense array on a GPU. ``memory`` keeps it alive."""

    device: Device
    shape: tuple[int, ...]
    dtype: DType
    address: int
    memory: Any

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def allocate(gpu: CudaDevice, shape: tuple[int, ...], dtype: DType) -> DeviceArray:
    """Uninitialised memory, for the work in the current stream."""
    memory, address = gpu.empty(max(1, math.prod(shape) * dtype.itemsize))
    return DeviceArray(Device("cuda", gpu.index), shape, dtype, address, memory)


def upload(gpu: CudaDevice, array: np.ndarray) -> DeviceArray:
    """A copy on the GPU."""
    target = allocate(gpu, array.shape, dtype_of_numpy(array.dtype))
    if array.nbytes:
        gpu.write(target.address, np.ascontiguousarray(array))
    return target


def download(gpu: CudaDevice, array: DeviceArray) -> np.ndarray:
    """A copy in host memory; waits for the work before it."""
    target = np.empty(array.shape, array.dtype.numpy)
    if target.nbytes:
        gpu.read(target, array.address)
    return target


def prepare(
    graph: Graph,
    symbols: Sequence[str],
    options: CompileOptions,
    size_hints: Mapping[str, int] | None = None,
    narrow: bool = False,
) -> Prepared:
    """Load the graph's program, generating and compiling what the cache does not have.

    ``size_hints``, ``narrow``: see ``CodegenOptions``.
    """
    started = time.perf_counter()
    gpu = device(graph_device(graph).index, options)
    codegen = CodegenOptions(size_hints=size_hints or {}, narrow=narrow)
    prepared = Prepared(graph, None, options, None, codegen)
    facts = f"{generator_digest()} {_triton_version()} {codegen.key}"
    identity = hashlib.sha256(facts.encode()).hexdigest()
    key = cache_key(graph, symbols, identity)
    content = gpu.cache.read(key, PLAN_KIND)
    plan = None if content is None else ExecutionPlan.from_json(content.decode())
    if plan is None:
        plan = generate_plan(prepared, symbols)
        gpu.cache.put(key, PLAN_KIND, plan.to_json().encode(), {"graph": graph.name})
    prepared.plan = plan
    prepared.seconds["plan"] = time.perf_counter() - started
    program = _load(gpu, graph, plan)
    prepared.seconds["load"] = time.perf_counter() - started - prepared.seconds["plan"]
    prepared.kernels_compiled = program.kernels_compiled
    prepared.kernels_from_cache = len(plan.kernels) - program.kernels_compiled
    prepared.runner = CudaRunner(gpu, program, list(symbols))
    return prepared


def _triton_version() -> str:
    try:
        return triton_version()
    except TritonError as error:
        raise CompileError(str(error)) from error


def _load(gpu: CudaDevice, graph: Graph, plan: ExecutionPlan) -> CudaProgram:
    """The plan on the device; CompileError names the kernel that failed and the user's lines."""
    try:
        with progress_line("compiling", "kernels") as progress:
            return gpu.load(plan, progress)
    except KernelError as error:
        step = plan.steps[plan.notes["kernel_steps"][error.kernel]]
        lines = "".join(f"\n  {line}" for line in step.locations)
        raise CompileError(
            f"{graph.name} (called at {user_location()}): {step.name} "
            f"({', '.join(step.operations)}) cannot run on {gpu.name}: {error}"
            + (f"\nit computes what these lines say:{lines}" if lines else "")
        ) from error


class CudaMemory:
    """The ``DeviceMemory`` (``prepared.py``) of one GPU; all its arrays are dense."""

    def __init__(self, gpu: CudaDevice) -> None:
        self._gpu = gpu

    def empty(self, type: TensorType) -> DeviceArray:
        shape: Any = type.shape
        return allocate(self._gpu, shape, type.dtype)

    def dense(self, array: DeviceArray) -> DeviceArray:
        result = allocate(self._gpu, array.shape, array.dtype)
        self.copy(result, array)
        return result

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        self._gpu.copy(target.address, source.address, source.nbytes)

    def number(self, dtype: DType) -> DeviceArray:
        return allocate(self._gpu, (), dtype)

    def write_number(self, cell: DeviceArray, value: bool | int | float) -> None:
        self._gpu.write(cell.address, np.asarray(value, cell.dtype.numpy))


class CudaRunner:
    """A loaded program; binds sizes given in the order of the trace's symbols."""

    def __init__(self, gpu: CudaDevice, program: CudaProgram, symbols: Sequence[str]) -> None:
        self.gpu = gpu
        self.memory = CudaMemory(gpu)
        self.program = program
        self._order = [symbols.index(s) for s in program.plan.symbols]

    def bind(self, sizes: tuple[int, ...]) -> CudaInvocation:
        ordered = tuple(sizes[i] for i in self._order)
        return CudaInvocation(self.gpu, self.program.bind(ordered))


class CudaInvocation:
    """Addresses of inputs and outputs, then one call, which does not wait.

    Inputs whose address kernels cannot use are copied, and copied back if they are updated.
    """

    def __init__(self, gpu: CudaDevice, bound: BoundCudaProgram) -> None:
        self._gpu, self._bound = gpu, bound
        self._addresses = bound.addresses
        self._inputs = bound.plan.inputs
        self._outputs = [o.buffer for o in bound.plan.outputs]
        self._copies: dict[int, tuple[DeviceArray, DeviceArray]] = {}

    def set_input(self, position: int, array: DeviceArray) -> None:
        self._copies.pop(position, None)
        if array.address % ALIGNMENT and array.nbytes:
            copy = allocate(self._gpu, array.shape, array.dtype)
            self._copies[position] = (array, copy)
            array = copy
        self._addresses[self._inputs[position]] = array.address

    def set_output(self, position: int, array: DeviceArray) -> None:
        self._addresses[self._outputs[position]] = array.address

    def run(self) -> None:
        for original, copy in self._copies.values():
            self._gpu.copy(copy.address, original.address, copy.nbytes)
        self._bound()
        for position in self._bound.plan.updated:
            if position in self._copies:
                original, copy = self._copies[position]
                self._gpu.copy(original.address, copy.address, copy.nbytes)
