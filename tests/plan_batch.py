"""Compile many plans as one library and run them: what back-end tests share.

``Batch.add(graph)`` generates a program, ``Batch.load()`` compiles all of them in one
run of the compiler, ``Batch.run(i, arrays)`` gives outputs and updated inputs. Memory
that a program must write is filled with rubbish before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.codegen.compile_graph import CodegenOptions, CompiledGraph, compile_graph
from flamec.host_evaluation import evaluate_host_call
from flamec.ir.graph import Graph
from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import SymbolicDim, evaluate_shape
from flamec.runtime.cpu.compiler import find_compiler
from flamec.runtime.cpu.device import CpuDevice
from flamec.runtime.executable import Executable
from flamec.runtime.kernel_cache import KernelCache

_START = "/* Bytes of private memory"
_NAMES = re.compile(
    r"\b(flamec_scratch|flamec_program|flamec_places|flamec_rows|(?:loop|product|steps?)_\d+(?:_after)?)\b"
)
_STEPS = re.compile(r"FLAMEC_STEP\((\d+)\)")

Arrays = list[np.ndarray]


class Batch:
    """Programs that share one translation unit."""

    def __init__(self, folder: Path, threads: int = 3, flags: tuple[str, ...] = ("-Og",)) -> None:
        cache = KernelCache(folder, 1 << 30)
        self.device = CpuDevice(
            find_compiler(), cache, plan_memory, threads, flags, evaluate=evaluate_host_call
        )
        self.compiled: list[CompiledGraph] = []
        self._programs: list[Executable] = []

    def add(self, graph: Graph, options: CodegenOptions | None = None) -> CompiledGraph:
        self.compiled.append(compile_graph(graph, options))
        return self.compiled[-1]

    def load(self) -> None:
        """Compile everything that was added."""
        plans = [c.plan for c in self.compiled]
        source = _joined(plans)
        for number, plan in enumerate(plans):
            entry = f"program_{number}_flamec_program"
            self._programs.append(self.device.load(replace(plan, source=source, entry=entry)))

    def run(
        self, number: int, arrays: Sequence[np.ndarray]
    ) -> tuple[Arrays, dict[int, np.ndarray]]:
        """Outputs, and the new values of updated inputs by position."""
        plan = self.compiled[number].plan
        bindings = bindings_of(plan, arrays)
        bound = self._programs[number].bind(tuple(bindings[s] for s in plan.symbols))
        inputs = [np.array(a, order="C", copy=True) for a in arrays]
        for buffer, array in zip(plan.inputs, inputs, strict=True):
            bound.addresses[buffer] = array.ctypes.data
        outputs = []
        for output in plan.outputs:
            shape = evaluate_shape(output.type.shape, bindings)
            array = np.ones(shape, output.type.dtype.numpy)
            outputs.append(array)
            bound.addresses[output.buffer] = array.ctypes.data
        bound()
        return outputs, {i: inputs[i] for i in plan.updated}


def bindings_of(plan: ExecutionPlan, arrays: Sequence[np.ndarray]) -> dict[str, int]:
    """The values of the plan's symbols for given inputs."""
    found: dict[str, int] = {}
    for type, array in zip(plan.input_types, arrays, strict=True):
        for size, value in zip(type.shape, array.shape, strict=True):
            if isinstance(size, SymbolicDim) and str(size) in plan.symbols:
                found[str(size)] = value
    return found


def _joined(plans: Sequence[ExecutionPlan]) -> str:
    """One source with one entry for each plan; they share the text before ``_START``."""
    texts = []
    for number, plan in enumerate(plans):
        head, mark, body = plan.source.partition(_START)
        texts = texts or [head]
        body = _STEPS.sub(r"step_\1(call)", mark + body)
        texts.append(_NAMES.sub(rf"program_{number}_\1", body))
    return "".join(texts)
