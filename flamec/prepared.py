"""A graph made runnable: the record, and what every backend offers.

In: a traced graph and options. Out: ``Prepared``, whose ``runner`` executes it and
whose properties show the stages in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from flamec.codegen.errors import LoweringError, stage_of
from flamec.codegen.options import CodegenOptions
from flamec.config import CompileOptions
from flamec.errors import CompileError, StageError, user_location
from flamec.ir.graph import Graph
from flamec.ir.passes.manager import Pass, PassError, PassRecord, Repeat, run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.plan import ExecutionPlan
from flamec.ir.types import CPU, Device, DType, TensorType
from flamec.state import process

if TYPE_CHECKING:
    from flamec.codegen.compile_graph import CompiledGraph
    from flamec.codegen.triton.compile_graph import LoweredProgram

VERSION = "0.1.0"


class Invocation(Protocol):
    """A program with its sizes bound: set inputs and outputs (arrays of its device), then run.

    ``new_output`` gives a function that allocates an output of this (concrete) type and sets
    it; it may give memory that it gave before if nobody knows the array any more.
    """

    def set_input(self, position: int, array: Any) -> None: ...
    def set_output(self, position: int, array: Any) -> None: ...
    def new_output(self, position: int, type: TensorType) -> Callable[[], Any]: ...
    def run(self) -> None: ...


class DeviceMemory(Protocol):
    """Arrays where a program runs: what the call needs beside the program itself.

    An array is whatever ``Tensor._array`` holds on that device. It has ``flags.c_contiguous``;
    everything else that is done with it is done here. Work is in the order of the calls.
    """

    def empty(self, type: TensorType) -> Any:
        """Uninitialised memory for an output of this (concrete) type."""

    def dense(self, array: Any) -> Any:
        """A row-major copy of a strided array, to be given to a program."""

    def copy(self, target: Any, source: Any) -> None:
        """Write the elements of a dense array into one of the same shape, perhaps strided."""

    def number(self, dtype: DType) -> Any:
        """A zero-dimensional array for a Python number that a program reads at each call."""

    def write_number(self, cell: Any, value: Any) -> None:
        """Store a Python number in such a cell, for the programs that are run from now on."""


def options_of_code(options: CompileOptions) -> CodegenOptions:
    """What the options of a function say about its code, on any device."""
    return CodegenOptions(
        strict=options.numerics == "strict",
        deterministic=options.deterministic,
        memory_budget=options.memory_budget,
    )


def options_for_gpu(target: str, options: CompileOptions) -> CodegenOptions:
    """How code for a GPU such as ``"sm_90"``, there or not, is generated, with float32's precision
    as it is set now."""
    return replace(
        options_of_code(options),
        target=target,
        float32_products=process.float32_precision.products,
        float32_convolutions=process.float32_precision.convolutions,
    )


def output_allocator(
    invocation: Invocation, memory: DeviceMemory, position: int, type: TensorType
) -> Callable[[], Any]:
    """``Invocation.new_output`` for a backend that has nothing better: allocate, then set."""
    empty, set_output = memory.empty, invocation.set_output

    def new() -> Any:
        array = empty(type)
        set_output(position, array)
        return array

    return new


class Runner(Protocol):
    """A compiled graph, and the memory that its inputs and outputs are in.

    ``threads``: how many have private memory while it runs (``ExecutionPlan.scratch``).
    """

    @property
    def threads(self) -> int: ...

    @property
    def memory(self) -> DeviceMemory: ...

    def bind(self, sizes: tuple[int, ...]) -> Invocation: ...


@dataclass
class Prepared:
    """A graph made runnable, and what that took. ``passes``: those of the pipeline if None.

    ``sized``: on a GPU, the programs for classes of sizes that were met, by what the sizes of
    the class have in common; they run in place of this one (``sized_runner.py``).
    """

    graph: Graph
    runner: Runner | None
    options: CompileOptions
    plan: ExecutionPlan | None
    codegen: CodegenOptions | None = None
    kernels_compiled: int = 0
    kernels_from_cache: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    passes: Sequence[Pass | Repeat] | None = None
    sized: dict[str, Prepared] = field(default_factory=dict)
    listeners: list[Callable[[Prepared], None]] = field(default_factory=list)

    @property
    def own_graph(self) -> Graph:
        """The traced graph over the symbols that the program is compiled for."""
        return self.graph

    def report(self, program: Prepared) -> None:
        """Tell the listeners of a program that was loaded for sizes that a call had."""
        for listener in self.listeners:
            listener(program)

    def bind(self, sizes: tuple[int, ...]) -> Invocation:
        """The program with its symbolic sizes bound."""
        assert self.runner is not None
        return self.runner.bind(sizes)

    @property
    def memory(self) -> DeviceMemory:
        """Where the program's inputs and outputs are."""
        assert self.runner is not None
        return self.runner.memory

    @property
    def threads(self) -> int:
        """How many threads have private memory while the program runs."""
        return 1 if self.runner is None else self.runner.threads

    @cached_property
    def pass_records(self) -> list[PassRecord]:
        """Every run of a pass, in order; made again if the program came from the cache."""
        strict = self.options.numerics == "strict"
        passes = pipeline(strict=strict) if self.passes is None else self.passes
        return run_passes(self.graph, passes, self.options.verify)[1]

    def after(self, name: str) -> Graph:
        """The graph after the first run of the pass ``name``."""
        return next(r.after for r in self.pass_records if r.name == name)

    @cached_property
    def optimized(self) -> Graph:
        """The graph after all passes."""
        records = self.pass_records
        return records[-1].after if records else self.graph

    @property
    def code_options(self) -> CodegenOptions:
        """How code is generated: as ``codegen`` says, else by the options of the function."""
        return self.codegen or options_of_code(self.options)

    @cached_property
    def lowered(self) -> LoweredProgram:
        """Kernels for a GPU before their schedules are chosen."""
        from flamec.codegen.triton.compile_graph import lower_graph

        return lower_graph(self.optimized, self.code_options)

    @cached_property
    def compiled(self) -> CompiledGraph:
        """Fusion groups, kernels and plan; made again if the program came from the cache."""
        if graph_device(self.graph).type == "cuda":
            from flamec.codegen.triton.compile_graph import emit_graph

            return emit_graph(self.lowered, self.code_options)
        from flamec.codegen.compile_graph import compile_graph

        return compile_graph(self.optimized, self.code_options)


@contextmanager
def errors_of_compilation(prepared: Prepared, stage: str) -> Iterator[None]:
    """What fails inside becomes a StageError, which names the stage; a reproduction is written.

    ``stage``: the name if the exception does not know a more exact one. A CompileError says what
    the user's program or the machine lacks: it is let through.
    """
    try:
        yield
    except CompileError:
        raise
    except Exception as error:
        raise stage_error(prepared, stage, error) from error


def stage_error(
    prepared: Prepared, stage: str, error: Exception, message: str | None = None
) -> StageError:
    """The error to raise for ``error``; writes the reproduction."""
    from flamec.debugging.recording import record_failure  # only where something failed

    graph, cause = prepared.graph, error
    if isinstance(error, PassError):
        stage, message = error.name, message or str(error)
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    else:
        stage = stage_of(error, stage)
    if message is None:
        message = str(error)
        if not isinstance(error, LoweringError):
            message = f"the stage {stage} failed: {type(error).__name__}: {error}"
    text = f"{graph.name} (called at {user_location()}): {message}"
    path, note = record_failure(prepared, stage, cause)
    return StageError(f"{text}\n{note}" if note else text, stage, cause, path)


def generate_plan(prepared: Prepared, symbols: Sequence[str]) -> ExecutionPlan:
    """Optimize, fuse and lower; StageError names the stage that failed."""
    with errors_of_compilation(prepared, "lower"):
        plan = prepared.compiled.plan
    unknown = set(plan.symbols) - set(symbols)
    if unknown:
        raise CompileError(f"the program needs sizes that no argument has: {sorted(unknown)}")
    return plan


def graph_device(graph: Graph) -> Device:
    """Where a graph runs: on the GPU that some of its values are on, else on the CPU.

    CompileError for values on several GPUs.
    """
    gpus = [device for device in graph.devices if device.type != "cpu"]
    if len(gpus) > 1:
        names = " and ".join(map(str, gpus))
        raise CompileError(
            f"{graph.name} computes on {names}; a compiled function runs on one GPU "
            f"(at {user_location()})"
        )
    return gpus[0] if gpus else CPU


def cache_key(graph: Graph, symbols: Sequence[str], identity: str) -> str:
    """The name of a graph's program in the cache."""
    text = "\n".join([VERSION, graph.fingerprint(), ",".join(symbols), identity])
    return hashlib.sha256(text.encode()).hexdigest()
