"""C on the CPU: from a graph, through the cache, to a loaded program.

A program seen before is found by the hash of its traced graph: its plan is read
from the cache and nothing is optimized, generated or compiled.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from sys import getrefcount
from typing import Any

import numpy as np

import flamec.codegen
import flamec.ir
from flamec.config import CompileOptions, default_options
from flamec.errors import CompileError
from flamec.host_evaluation import evaluate_host_call
from flamec.host_memory import HostMemory
from flamec.ir.graph import Graph
from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.plan import ExecutionPlan
from flamec.ir.types import TensorType
from flamec.places import with_places, without_places
from flamec.prepared import (
    Prepared,
    cache_key,
    generate_plan,
    options_of_code,
    output_allocator,
    stage_error,
)
from flamec.runtime.cpu.compiler import CompileError as CompilerError
from flamec.runtime.cpu.compiler import (
    Compiler,
    NoCompilerError,
    find_compiler,
    header_digest,
    local_key,
)
from flamec.runtime.cpu.device import CpuDevice
from flamec.runtime.cpu.threads import available_cpus
from flamec.runtime.executable import BoundProgram, Executable
from flamec.runtime.fork_locks import held_in_forks
from flamec.runtime.kernel_cache import PORTABLE, KernelCache

PLAN_KIND = "plan"
_SMALL = 1024  # bytes of an output for which two arrays are kept

_devices: dict[CompileOptions, CpuDevice] = {}
_chosen_threads: int | None = None
_lock = held_in_forks(threading.Lock())


@cache
def _compiler(command: str | None) -> Compiler | None:
    try:
        return find_compiler(command)
    except NoCompilerError:
        if command is not None:
            raise
        return None


def is_available(options: CompileOptions) -> bool:
    """Whether a C compiler was found; CompileError if the one asked for does not exist."""
    try:
        return _compiler(options.c_compiler) is not None
    except NoCompilerError as error:
        raise CompileError(str(error)) from error


def device(options: CompileOptions) -> CpuDevice:
    """The process's CPU device for these options; CompileError without a C compiler."""
    options = replace(options, memory_budget=1.0)  # of a program, not of a device
    with _lock:
        if options not in _devices:
            if not is_available(options):
                raise CompileError(
                    "backend 'c' was asked for, but no C compiler was found; install gcc or "
                    "clang, or pip install ziglang"
                )
            compiler = _compiler(options.c_compiler)
            assert compiler is not None
            _devices[options] = CpuDevice(
                compiler,
                KernelCache(options.cache_folder, options.cache_bytes),
                plan_memory,
                _threads_of(options),
                evaluate=evaluate_host_call,
            )
        return _devices[options]


def _threads_of(options: CompileOptions) -> int:
    usual = default_options().threads
    if _chosen_threads is not None and options.threads == usual:
        return _chosen_threads
    return options.threads or available_cpus()


def thread_count() -> int:
    """How many threads a parallel loop may use where no options say otherwise."""
    return _threads_of(default_options())


def set_thread_count(count: int) -> None:
    """Change ``thread_count()``, from each program's next call on."""
    global _chosen_threads
    usual = default_options().threads
    with _lock:
        _chosen_threads = count
        for options, cpu in _devices.items():
            if options.threads == usual:
                cpu.set_threads(count)


@cache
def generator_digest() -> str:
    """Identifies the code that makes programs, by its content: another's are not reused."""
    digest = hashlib.sha256(header_digest().encode())
    for folder in (*flamec.ir.__path__, *flamec.codegen.__path__):
        for file in sorted(Path(folder).rglob("*")):
            if file.suffix in (".py", ".j2"):
                digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def prepare(graph: Graph, symbols: Sequence[str], options: CompileOptions) -> Prepared:
    """Load the graph's program, generating and compiling what the cache does not have."""
    started = time.perf_counter()
    cpu = device(options)
    codegen = options_of_code(options)
    identity = f"{generator_digest()} {codegen.strict} {codegen.memory_budget}"
    portable = cache_key(graph, symbols, identity)
    key = local_key(cpu.compiler, portable)
    prepared = Prepared(graph, None, options, None, codegen)
    plan = _cached_plan(cpu.cache, key, graph)
    if plan is None:
        plan = generate_plan(prepared, symbols)
        facts = {"graph": graph.name, PORTABLE: portable}
        cpu.cache.put(key, PLAN_KIND, without_places(plan, graph).to_json().encode(), facts)
    prepared.seconds["plan"] = time.perf_counter() - started
    load(prepared, plan, symbols)
    prepared.seconds["load"] = time.perf_counter() - started - prepared.seconds["plan"]
    return prepared


def load(prepared: Prepared, plan: ExecutionPlan, symbols: Sequence[str]) -> None:
    """Make ``prepared`` run a plan; StageError if the C compiler fails."""
    prepared.plan = plan
    try:
        program = device(prepared.options).load(plan, prepared.graph.name)
    except CompilerError as error:
        raise stage_error(prepared, "compile", error, str(error)) from error
    if program.compiled:
        prepared.kernels_compiled = plan.kernel_count
    else:
        prepared.kernels_from_cache = plan.kernel_count
    prepared.runner = CRunner(program, list(symbols))


def _cached_plan(cache: KernelCache, key: str, graph: Graph) -> ExecutionPlan | None:
    content = cache.read(key, PLAN_KIND)
    if content is None:
        return None
    return with_places(ExecutionPlan.from_json(content.decode()), graph)


class CRunner:
    """A loaded program; binds sizes given in the order of the trace's symbols."""

    memory = HostMemory()

    def __init__(self, program: Executable, symbols: Sequence[str]) -> None:
        self.program = program
        self._order = [symbols.index(s) for s in program.plan.symbols]

    @property
    def threads(self) -> int:
        return int(self.program.runtime.functions.threads)

    def bind(self, sizes: tuple[int, ...]) -> CInvocation:
        ordered = tuple(sizes[i] for i in self._order)
        return CInvocation(self.program.bind(ordered, sizes), self.program.plan)


class CInvocation:
    """Addresses of inputs and outputs, then one call."""

    __slots__ = ("_addresses", "_bound", "_inputs", "_outputs", "run")

    def __init__(self, bound: BoundProgram, plan: ExecutionPlan) -> None:
        self._bound = bound
        self._addresses = bound.addresses
        self._inputs = plan.inputs
        self._outputs = [o.buffer for o in plan.outputs]
        self.run = bound.__call__

    def set_input(self, position: int, array: np.ndarray) -> None:
        self._addresses[self._inputs[position]] = _address(array)

    def set_output(self, position: int, array: np.ndarray) -> None:
        self._addresses[self._outputs[position]] = _address(array)

    def new_output(self, position: int, type: TensorType) -> Callable[[], np.ndarray]:
        memory = CRunner.memory
        if math.prod(type.shape) * type.dtype.itemsize <= _SMALL:
            buffer = self._outputs[position]
            return _small_output(self._addresses, buffer, lambda: memory.empty(type))
        return output_allocator(self, memory, position, type)


def _small_output(
    addresses: Any, buffer: int, empty: Callable[[], np.ndarray]
) -> Callable[[], np.ndarray]:
    """Gives one of two arrays that nobody else knows, else a new one, and sets its address.

    Two, because a loop that says ``loss = step()`` holds a result until it has the next. To
    find an address takes longer than the rest of such an output.
    """
    first, second = empty(), empty()
    first_address, second_address = _address(first), _address(second)

    def references() -> int:
        return getrefcount(first)

    unshared = references()

    def new() -> np.ndarray:
        nonlocal first, second, first_address, second_address
        if getrefcount(first) == unshared:
            addresses[buffer] = first_address
            return first
        if getrefcount(second) == unshared:
            addresses[buffer] = second_address
            return second
        first, second = second, empty()
        first_address, second_address = second_address, _address(second)
        addresses[buffer] = second_address
        return second

    return new


def _address(array: Any) -> int:
    """Where a contiguous array begins; ctypes knows it five times sooner than NumPy tells it."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    except (TypeError, ValueError):  # read-only, empty, or of a type without a buffer format
        address: int = array.__array_interface__["data"][0]
        return address
