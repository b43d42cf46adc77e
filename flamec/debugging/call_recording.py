"""Turn one call of a function into reproductions: every graph that is compiled, with its inputs.

In: a function and arguments. Out: a titled ``Reproduction`` for each program that the call and the
gradients of its results run. The programs are evaluated by NumPy as they were traced; no pass runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import flamec
from flamec.checked_values import CheckedInvocation, CheckedRunner
from flamec.codegen.options import CodegenOptions
from flamec.compiled_function import CompiledFunction
from flamec.config import CompileOptions
from flamec.debugging.recording import reproduction_of
from flamec.debugging.reproduction import Reproduction
from flamec.differentiable import DifferentiableProgram
from flamec.ir.graph import Graph
from flamec.prepared import Prepared, graph_device, options_of_code
from flamec.split_program import SplitProgram
from flamec.structures import flatten
from flamec.tensor import Tensor


def record_call(
    function: CompiledFunction, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[str, Reproduction]]:
    """Call the function once, and differentiate its results if they take part in autograd.

    Raises what the function raises. It has the effects of a call.
    """
    recorder = _Recorder(function.function, function.options, function.dynamic)
    result = recorder(*args, **kwargs)
    leaves, _ = flatten(result)
    tracked = [t for t in leaves if isinstance(t, Tensor) and t.requires_grad]
    last = [p.final if isinstance(p, SplitProgram) else p for p in recorder.programs]
    if tracked and any(isinstance(p, DifferentiableProgram) for p in last):
        generator = np.random.default_rng(0)
        total: Any = 0
        for tensor in tracked:
            weights = np.asarray(generator.standard_normal(tuple(tensor.shape)))
            total = total + (tensor.double() * flamec.tensor(weights).to(tensor.device)).sum()
        total.backward()
    found = [
        replace(reproduction_of(r.prepared), sizes=r.sizes, values=r.values)
        for r in recorder.runners
        if r.values is not None
    ]
    if len(found) == 1:
        return [("", found[0])]
    return [(f"program {i} of {len(found)}", entry) for i, entry in enumerate(found, 1)]


class _Recorder(CompiledFunction):
    """Compiles nothing: programs are evaluated, and remember their first inputs."""

    def __init__(self, function: Any, options: CompileOptions, dynamic: bool | None) -> None:
        super().__init__(function, options, dynamic)
        self.runners: list[_RecordingRunner] = []

    def _make_own(self, graph: Graph, symbols: tuple[str, ...]) -> Prepared:
        prepared = Prepared(graph, None, self.options, None, _codegen(graph, self.options))
        runner = _RecordingRunner(prepared, symbols)
        self.runners.append(runner)
        prepared.runner = runner
        return prepared


def _codegen(graph: Graph, options: CompileOptions) -> CodegenOptions | None:
    """How code for the graph is generated on its device; None for a GPU that is not there."""
    place = graph_device(graph)
    if place.type == "cpu":
        return options_of_code(options)
    from flamec import cuda_backend, gpu

    if gpu.unavailable_reason() is not None:
        return None
    return cuda_backend.codegen_options(place.index, options)


class _RecordingRunner(CheckedRunner):
    def __init__(self, prepared: Prepared, symbols: Sequence[str]) -> None:
        super().__init__(prepared.graph, symbols, graph_device(prepared.graph), "")
        self.prepared = prepared
        self.sizes: dict[str, int] = {}
        self.values: dict[int, np.ndarray] | None = None

    def bind(self, sizes: tuple[int, ...]) -> CheckedInvocation:
        bindings = dict(zip(self.symbols, sizes, strict=True))
        return _RecordingInvocation(self, bindings)


class _RecordingInvocation(CheckedInvocation):
    _runner: _RecordingRunner

    def evaluating(self, inputs: Sequence[np.ndarray]) -> None:
        runner = self._runner
        if runner.values is None:
            runner.sizes = dict(self._bindings)
            runner.values = {i: np.array(a) for i, a in enumerate(inputs)}
