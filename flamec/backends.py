"""From a graph to something that runs: C on the CPU, or the NumPy evaluator.

The only place where code generation meets the runtime. ``prepare`` looks the
graph up in the cache, or optimizes it, generates its program and compiles it.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

import flamec
from flamec.config import CompileOptions
from flamec.errors import CompileError
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.plan import ExecutionPlan
from flamec.ir.types import TensorType

if TYPE_CHECKING:
    from flamec.codegen.compile_graph import CompiledGraph


class Invocation(Protocol):
    """A program with its sizes bound: set every input and output, then run."""

    def set_input(self, position: int, array: np.ndarray) -> None: ...
    def set_output(self, position: int, array: np.ndarray) -> None: ...
    def run(self) -> None: ...


class Runner(Protocol):
    """A compiled graph."""

    def bind(self, sizes: tuple[int, ...]) -> Invocation: ...


@dataclass
class Prepared:
    """A graph made runnable, and what that took."""

    graph: Graph
    runner: Runner
    options: CompileOptions
    plan: ExecutionPlan | None
    kernels_compiled: int = 0
    kernels_from_cache: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @cached_property
    def optimized(self) -> Graph:
        """The graph after all passes."""
        return optimize(self.graph, self.options)

    @cached_property
    def compiled(self) -> CompiledGraph:
        """Fusion groups, kernels and plan; made again if the program came from the cache."""
        from flamec.codegen.compile_graph import compile_graph

        return compile_graph(self.optimized)


def optimize(graph: Graph, options: CompileOptions) -> Graph:
    """Run the pipeline of passes."""
    from flamec.ir.passes.pipeline import run_pipeline

    return run_pipeline(graph, verify=options.verify).graph


def prepare(graph: Graph, symbols: Sequence[str], options: CompileOptions) -> Prepared:
    """Make ``graph`` runnable with the backend that ``options`` ask for.

    ``symbols``: the names of its symbolic sizes in the order in which sizes are
    bound. Raises CompileError if the C compiler fails or, for backend ``"c"``, is missing.
    """
    from flamec import cpu_backend

    started = time.perf_counter()
    backend = options.backend
    if backend == "auto":
        backend = "c" if cpu_backend.is_available(options) else "evaluate"
        if backend == "evaluate":
            _warn_no_compiler()
    if backend == "c":
        return cpu_backend.prepare(graph, symbols, options)
    optimized = optimize(graph, options)
    prepared = Prepared(graph, EvaluatedRunner(optimized, symbols), options, None)
    prepared.__dict__["optimized"] = optimized
    prepared.seconds["passes"] = time.perf_counter() - started
    return prepared


_warned = False


def _warn_no_compiler() -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            "flamec found no C compiler: compiled functions run through NumPy, correct but "
            "slower. Install one (apt install gcc, or pip install ziglang) and run "
            "'flamec doctor' to check.",
            RuntimeWarning,
            stacklevel=2,
        )


def cache_key(graph: Graph, symbols: Sequence[str], identity: str) -> str:
    """The name of a graph's program in the cache."""
    text = "\n".join([flamec.__version__, graph.fingerprint(), ",".join(symbols), identity])
    return hashlib.sha256(text.encode()).hexdigest()


class EvaluatedRunner:
    """Runs the optimized graph node by node through NumPy."""

    def __init__(self, graph: Graph, symbols: Sequence[str]) -> None:
        self.graph = graph
        self.symbols = tuple(symbols)

    def bind(self, sizes: tuple[int, ...]) -> EvaluatedInvocation:
        return EvaluatedInvocation(self.graph, dict(zip(self.symbols, sizes, strict=True)))


class EvaluatedInvocation:
    def __init__(self, graph: Graph, bindings: Mapping[str, int]) -> None:
        self.graph = graph
        self.bindings = bindings
        self.inputs: list[np.ndarray] = [np.empty(0)] * len(graph.inputs)
        self.outputs: list[np.ndarray] = [np.empty(0)] * len(graph.outputs)

    def set_input(self, position: int, array: np.ndarray) -> None:
        self.inputs[position] = array

    def set_output(self, position: int, array: np.ndarray) -> None:
        self.outputs[position] = array

    def run(self) -> None:
        outputs, updates = evaluate_graph(self.graph, self.inputs, self.bindings)
        for array, result in zip(self.outputs, outputs, strict=True):
            np.copyto(array, result)
        copies = {p: np.array(v, copy=True) for p, v in updates.items()}
        for position, result in copies.items():
            np.copyto(self.inputs[position], result)


def allocate(type: TensorType, shape: tuple[int, ...]) -> np.ndarray:
    """Fresh memory for an output."""
    return np.empty(shape, type.dtype.numpy)


def describe_failure(error: Exception, graph: Graph) -> CompileError:
    """A CompileError that carries the text of the graph which could not be compiled."""
    failure = CompileError(f"{type(error).__name__}: {error}")
    failure.graph = graph  # type: ignore[attr-defined]
    return failure


BackendCheck = Callable[[CompileOptions], bool]
Bindings = Mapping[str, Any]
