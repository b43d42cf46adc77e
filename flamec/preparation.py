"""Backends: make a traced graph runnable in C on the CPU, on a GPU, or through NumPy.

``prepare`` chooses by the options; ``cpu_backend`` is the place where code
generation meets the runtime.
"""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from flamec import cpu_backend
from flamec.config import CompileOptions
from flamec.errors import node_error
from flamec.host_memory import HostMemory
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.passes.place import on_one_device
from flamec.ir.types import TensorType
from flamec.prepared import Prepared, errors_of_compilation, graph_device, output_allocator
from flamec.runtime.interrupts import uninterrupted


def prepare(graph: Graph, symbols: Sequence[str], options: CompileOptions) -> Prepared:
    """Make ``graph`` runnable with the backend that ``options`` ask for; on a GPU with Triton.

    ``symbols``: the names of its symbolic sizes in the order in which sizes are
    bound. Raises CompileError if the C compiler fails or, for backend ``"c"``, is missing.
    """
    started = time.perf_counter()
    device = graph_device(graph)
    if options.check:
        from flamec.checked_values import CheckedRunner

        prepared = Prepared(graph, None, options, None)
        prepared.runner = CheckedRunner(graph, symbols, device, options.check)
        return prepared
    if device.type == "cuda":
        from flamec.gpu import gpu

        if len(graph.devices) > 1:
            graph = on_one_device(graph, device)
        return gpu(device).prepare(graph, symbols, options)
    backend = options.backend
    if backend == "auto":
        backend = "c" if cpu_backend.is_available(options) else "evaluate"
        if backend == "evaluate":
            _warn_no_compiler()
    if backend == "c":
        return cpu_backend.prepare(graph, symbols, options)
    prepared = Prepared(graph, None, options, None)
    with errors_of_compilation(prepared, "passes"):
        optimized = prepared.optimized
    prepared.runner = EvaluatedRunner(optimized, symbols)
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


class EvaluatedRunner:
    """Runs the optimized graph node by node through NumPy."""

    threads = 1
    memory = HostMemory()

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
        # weakly, so that whoever counts the references to an output does not find ours
        self.outputs: list[weakref.ref[np.ndarray] | None] = [None] * len(graph.outputs)

    def set_input(self, position: int, array: np.ndarray) -> None:
        self.inputs[position] = array

    def set_output(self, position: int, array: np.ndarray) -> None:
        self.outputs[position] = weakref.ref(array)

    def new_output(self, position: int, type: TensorType) -> Callable[[], np.ndarray]:
        return output_allocator(self, HostMemory(), position, type)

    def run(self) -> None:
        outputs, updates = evaluate_graph(
            self.graph, self.inputs, self.bindings, explain=node_error
        )
        for reference, result in zip(self.outputs, outputs, strict=True):
            array = None if reference is None else reference()
            assert array is not None, "an output was not set"
            np.copyto(array, result)
        copies = {p: np.array(v, copy=True) for p, v in updates.items()}
        with uninterrupted():
            for position, result in copies.items():
                np.copyto(self.inputs[position], result)
