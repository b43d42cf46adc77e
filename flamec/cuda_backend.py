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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from sys import getrefcount
from typing import Any

import numpy as np

from flamec.codegen.options import CodegenOptions
from flamec.config import CompileOptions
from flamec.cpu_backend import PLAN_KIND, generator_digest
from flamec.device_array import DeviceArray
from flamec.errors import CompileError, OperationError
from flamec.gpu import Gpu, gpu
from flamec.host_evaluation import evaluate_host_call
from flamec.ir.actions import dim_of
from flamec.ir.graph import Graph
from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import evaluate_dim
from flamec.ir.types import DType, TensorType, dtype_of_numpy
from flamec.places import with_places, without_places
from flamec.prepared import (
    Prepared,
    cache_key,
    errors_of_compilation,
    generate_plan,
    graph_device,
    options_for_gpu,
    output_allocator,
    stage_error,
)
from flamec.progress import progress_line
from flamec.runtime.cpu.threads import available_cpus
from flamec.runtime.cuda.device import CudaDevice, KernelError
from flamec.runtime.cuda.driver import CudaUnavailableError
from flamec.runtime.cuda.program import BoundCudaProgram, CudaProgram
from flamec.runtime.cuda.triton_compiler import TritonError, triton_version
from flamec.runtime.kernel_cache import KernelCache
from flamec.sized_runner import SizedProgram, SizedRunner, sized_options
from flamec.tuning import Tuning, plain, program_key

_SMALL = 1 << 16  # bytes of an output that is kept to be given again
ALIGNMENT = 16  # of the addresses that kernels are compiled for

_devices: dict[tuple[int, CompileOptions], CudaDevice] = {}
_tunings: dict[tuple[int, CompileOptions], Tuning] = {}
_lock = threading.Lock()


def device(index: int, options: CompileOptions) -> CudaDevice:
    """The process's GPU ``index`` for these options; CompileError says why there is none."""
    options = replace(options, memory_budget=1.0)  # of a program, not of a device
    with _lock:
        if (index, options) not in _devices:
            cache = KernelCache(options.cache_folder, options.cache_bytes)
            jobs = options.threads or available_cpus()
            try:
                found = CudaDevice(index, cache, plan_memory, jobs, evaluate=evaluate_host_call)
            except (CudaUnavailableError, ValueError) as error:
                raise CompileError(f"cuda:{index} cannot be used: {error}") from error
            _devices[index, options] = found
        return _devices[index, options]


def prepare(
    graph: Graph,
    symbols: Sequence[str],
    options: CompileOptions,
    size_hints: Mapping[str, int] | None = None,
    narrow: bool = False,
    near: bool = False,
    unaligned: Sequence[int] = (),
) -> Prepared:
    """Load the graph's program, generating and compiling what the cache does not have.

    ``size_hints``, ``narrow``, ``near``: see ``CodegenOptions``; ``unaligned``: inputs of which
    kernels read or write single elements, at any addresses. A program over symbolic sizes
    of which there are no hints is made for classes of sizes, when they are met (``SizedRunner``).
    """
    started = time.perf_counter()
    place = graph_device(graph)
    runtime = device(place.index, options)
    codegen = codegen_options(place.index, options, size_hints, narrow, near)
    prepared = Prepared(graph, None, options, None, codegen)
    plan = _plan(prepared, symbols, runtime, _program_name(graph, symbols, codegen))
    prepared.seconds["plan"] = time.perf_counter() - started
    if plan.symbols and size_hints is None:
        prepared.plan = plan
        memory = CudaMemory(gpu(place))
        make_general = partial(_loaded, prepared, plan, symbols)
        prepared.runner = SizedRunner(prepared, symbols, memory, _make_sized, make_general)
        return prepared
    load(prepared, plan.with_unaligned(unaligned), symbols)
    prepared.seconds["load"] = time.perf_counter() - started - prepared.seconds["plan"]
    return prepared


def _make_sized(program: SizedProgram) -> CudaRunner:
    """The runner of a program for a class of sizes, from the cache or generated and compiled."""
    started = time.perf_counter()
    graph, known, symbols = program.general.graph, program.size_class, program.symbols
    place = graph_device(graph)
    runtime = device(place.index, program.options)
    codegen = program.codegen = sized_options(program.general.code_options, known, symbols)
    name = _program_name(graph, symbols, codegen, known.text(symbols))
    plan = _plan(program, known.symbols(symbols), runtime, name)
    program.seconds["plan"] = time.perf_counter() - started
    load(program, plan, known.symbols(symbols))
    program.seconds["load"] = time.perf_counter() - started - program.seconds["plan"]
    assert isinstance(program.runner, CudaRunner)
    return program.runner


def _program_name(
    graph: Graph, symbols: Sequence[str], codegen: CodegenOptions, sizes: str = ""
) -> str:
    """The name of a program in the cache; ``sizes``: the class that it is for."""
    facts = f"{generator_digest()} {_triton_version()} {codegen.key} {sizes}"
    return cache_key(graph, symbols, hashlib.sha256(facts.encode()).hexdigest())


def codegen_options(
    index: int,
    options: CompileOptions,
    size_hints: Mapping[str, int] | None = None,
    narrow: bool = False,
    near: bool = False,
) -> CodegenOptions:
    """How code for the process's GPU ``index`` is generated."""
    return replace(
        options_for_gpu(device(index, options).target, options),
        size_hints=size_hints or {},
        near=near,
        narrow=narrow,
    )


def load(prepared: Prepared, plan: ExecutionPlan, symbols: Sequence[str]) -> None:
    """Make ``prepared`` run a plan; StageError names the kernel that failed."""
    prepared.plan = plan
    prepared.runner = _loaded(prepared, plan, symbols)


def _loaded(prepared: Prepared, plan: ExecutionPlan, symbols: Sequence[str]) -> CudaRunner:
    place = graph_device(prepared.graph)
    program = load_kernels(device(place.index, prepared.options), prepared, plan)
    prepared.kernels_compiled = program.kernels_compiled
    prepared.kernels_from_cache = len(plan.kernels) - program.kernels_compiled
    return CudaRunner(gpu(place), program, list(symbols))


def _plan(
    prepared: Prepared, symbols: Sequence[str], gpu: CudaDevice, program: str
) -> ExecutionPlan:
    """The plan with the schedules that its parts have now, from the cache if it is there."""
    graph, tuning = prepared.graph, _tuning(gpu, prepared.options)
    parts = tuning.remembered_parts(program)
    plan = None
    if parts is not None and not tuning.has_work(parts):
        plan = _cached_plan(gpu, program_key(program, parts, tuning.stored(parts)), graph)
    if plan is None:
        with errors_of_compilation(prepared, "lower"):
            kernels = prepared.lowered.kernels
        codegen = prepared.code_options
        schedules, parts = tuning.select(kernels, codegen)
        prepared.codegen = replace(codegen, schedules=schedules)
        plan = generate_plan(prepared, symbols)
        tuning.remember_parts(program, parts)
        key = program_key(program, parts, plain(schedules))
        kept = without_places(plan, graph).to_json().encode()
        gpu.cache.put(key, PLAN_KIND, kept, {"graph": graph.name})
    return plan


def _cached_plan(gpu: CudaDevice, key: str, graph: Graph) -> ExecutionPlan | None:
    content = gpu.cache.read(key, PLAN_KIND)
    if content is None:
        return None
    return with_places(ExecutionPlan.from_json(content.decode()), graph)


def _tuning(gpu: CudaDevice, options: CompileOptions) -> Tuning:
    with _lock:
        if (gpu.index, options) not in _tunings:
            _tunings[gpu.index, options] = Tuning(gpu, options)
        return _tunings[gpu.index, options]


def _triton_version() -> str:
    try:
        return triton_version()
    except TritonError as error:
        raise CompileError(str(error)) from error


def load_kernels(gpu: CudaDevice, prepared: Prepared, plan: ExecutionPlan) -> CudaProgram:
    """The plan on the device; StageError names the kernel that failed and the user's lines."""
    try:
        with progress_line("compiling", "kernels") as progress:
            return gpu.load(plan, progress, prepared.graph.name)
    except KernelError as error:
        step = plan.steps[plan.notes["kernel_steps"][error.kernel]]
        lines = "".join(f"\n  {line}" for line in step.locations)
        message = (
            f"{step.name} ({', '.join(step.operations)}) cannot run on {gpu.name}: {error}"
            + (f"\nit computes what these lines say:{lines}" if lines else "")
        )
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise stage_error(prepared, "compile", cause, message) from error


class CudaMemory:
    """The ``DeviceMemory`` (``prepared.py``) of one GPU.

    Arrays of values on the CPU are NumPy arrays: an invocation carries them over.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu

    def empty(self, type: TensorType) -> Any:
        shape: Any = type.shape
        if type.device.type == "cpu":
            return np.empty(shape, type.dtype.numpy)
        return self._gpu.allocate(shape, type.dtype)

    def dense(self, array: Any) -> Any:
        if isinstance(array, DeviceArray):
            return self._gpu.dense(array)
        return np.ascontiguousarray(array)

    def copy(self, target: Any, source: Any) -> None:
        if isinstance(target, DeviceArray):
            self._gpu.copy(target, source)
        else:
            np.copyto(target, source)

    def number(self, dtype: DType) -> DeviceArray:
        return self._gpu.allocate((), dtype)

    def write_number(self, cell: DeviceArray, value: bool | int | float) -> None:
        self._gpu.write(cell, np.asarray(value, cell.dtype.numpy))


def _small_output(
    addresses: Any, buffer: int, empty: Callable[[], DeviceArray]
) -> Callable[[], DeviceArray]:
    """Gives one of two arrays that nobody else knows, else a new one, and sets its address.

    Two, because a loop that says ``loss = step()`` holds a result until it has the next. A new
    address would have to be written into the captured graph.
    """
    first, second = empty(), empty()

    def references() -> tuple[int, int]:
        return getrefcount(first), getrefcount(first.memory)

    array_references, memory_references = references()

    def new() -> DeviceArray:
        nonlocal first, second
        if (
            getrefcount(first) == array_references
            and getrefcount(first.memory) == memory_references
        ):
            chosen = first
        elif (
            getrefcount(second) == array_references
            and getrefcount(second.memory) == memory_references
        ):
            chosen = second
        else:
            first, second = second, empty()
            chosen = second
        addresses[buffer] = chosen.address
        return chosen

    return new


class CudaRunner:
    """A loaded program; binds sizes given in the order of the trace's symbols."""

    threads = 1

    def __init__(self, gpu: Gpu, program: CudaProgram, symbols: Sequence[str]) -> None:
        self.gpu = gpu
        self.memory = CudaMemory(gpu)
        self.program = program
        self._order = [symbols.index(s) for s in program.plan.symbols]
        lines = program.plan.notes.get("longest_lines", ())
        self._lines = [(step, dim_of(size), limit) for step, size, limit in lines]

    def bind(self, sizes: tuple[int, ...]) -> CudaInvocation:
        """OperationError for lines that are too long to sort."""
        ordered = tuple(sizes[i] for i in self._order)
        if self._lines:
            self._refuse_long_lines(dict(zip(self.program.plan.symbols, ordered, strict=True)))
        return CudaInvocation(self.gpu, self.program.bind(ordered, sizes))

    def _refuse_long_lines(self, bindings: Mapping[str, int]) -> None:
        for name, dim, limit in self._lines:
            size = evaluate_dim(dim, bindings)
            if size >= limit:
                steps = self.program.plan.steps
                places = [place for s in steps if s.name == name for place in s.locations]
                raise OperationError(
                    f"sort: a line of {size} elements is too long for a GPU, which sorts those of "
                    f"fewer than {limit}" + (f" (at {places[0]})" if places else "")
                )


class CudaInvocation:
    """Addresses of inputs and outputs, then one call, which does not wait.

    Inputs whose address kernels cannot use are copied, and copied back if they are updated.
    Inputs in host memory are copied to the GPU by each call; outputs and updated inputs there
    are copied back, which waits for the program.
    """

    def __init__(self, gpu: Gpu, bound: BoundCudaProgram) -> None:
        self._gpu, self.bound = gpu, bound  # eager mode calls its ``launch``
        self._addresses = bound.addresses
        self._inputs = bound.plan.inputs
        self._outputs = [o.buffer for o in bound.plan.outputs]
        self._copies: dict[int, tuple[Any, DeviceArray]] = {}
        self._fetched: dict[int, tuple[np.ndarray, DeviceArray]] = {}

    def set_input(self, position: int, array: Any) -> None:
        if self._copies:
            self._copies.pop(position, None)
        if array.__class__ is np.ndarray:
            copy = self._gpu.allocate(array.shape, dtype_of_numpy(array.dtype))
            self._copies[position] = (array, copy)
            array = copy
        elif array.address % ALIGNMENT and array.nbytes:
            copy = self._gpu.allocate(array.shape, array.dtype)
            self._copies[position] = (array, copy)
            array = copy
        self._addresses[self._inputs[position]] = array.address

    def set_output(self, position: int, array: Any) -> None:
        if array.__class__ is np.ndarray:
            fetched = self._gpu.allocate(array.shape, dtype_of_numpy(array.dtype))
            self._fetched[position] = (array, fetched)
            array = fetched
        self._addresses[self._outputs[position]] = array.address

    def new_output(self, position: int, type: TensorType) -> Callable[[], Any]:
        memory = CudaMemory(self._gpu)
        nbytes = math.prod(type.shape) * type.dtype.itemsize
        if type.device.type == "cpu" or nbytes > _SMALL:
            return output_allocator(self, memory, position, type)
        buffer = self._outputs[position]
        return _small_output(self._addresses, buffer, lambda: memory.empty(type))

    def run(self) -> None:
        if not self._copies and not self._fetched:
            self.bound()
            return
        for original, copy in self._copies.values():
            if isinstance(original, DeviceArray):
                self._gpu.copy(copy, original)
            else:
                self._gpu.write(copy, original)
        self.bound()
        for position in self.bound.plan.updated:
            if position in self._copies:
                original, copy = self._copies[position]
                if isinstance(original, DeviceArray):
                    self._gpu.copy(original, copy)
                else:
                    np.copyto(original, self._gpu.download(copy))
        for original, fetched in self._fetched.values():
            np.copyto(original, self._gpu.download(fetched))
        self._fetched.clear()
