"""Programs of branches and loops as a CUDA graph has them, with kernels in Triton's interpreter.

The nodes of ``PlanSteps`` are done in the host's memory, in the order in which a graph does them:
what is read and written where, which elements of sequences move when, and what says whether there
is another step. The kernels of ``control.ptx`` are played by ``Graph``; what they do themselves is
tested on a GPU. Run as a program with TRITON_INTERPRET=1 and names of graphs of
``triton_graphs.py``: a line of JSON for each.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import driver_stand_in
import numpy as np
import pytest
from triton_cases import check_graph
from triton_interpreter import PointerArgument, kernel_of

from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.plan import ExecutionPlan, KernelSource
from flamec.ir.shape import evaluate_dim, evaluate_shape
from flamec.runtime.cuda import transfer
from flamec.runtime.cuda.conditional import ConditionalNode, ControlStep
from flamec.runtime.cuda.control_kernels import HANDLE
from flamec.runtime.cuda.driver import context
from flamec.runtime.cuda.kernel_binary import KernelBinary
from flamec.runtime.cuda.module import KernelLaunch, LoadedKernel
from flamec.runtime.cuda.plan_steps import PlanSteps
from flamec.runtime.cuda.triton_compiler import _flat_parameters


class Graph:
    """Does what the nodes of a graph would."""

    def __init__(self, sources: Mapping[LoadedKernel, KernelSource]) -> None:
        self.sources = sources
        self.handles: dict[int, int] = {}
        self.steps = 0  # of loops

    def run(self, steps: Sequence[Any]) -> None:
        for step in steps:
            if isinstance(step, (ControlStep, ConditionalNode)):
                self.decide(step.node if isinstance(step, ControlStep) else step)
            elif isinstance(step, transfer.Fill):
                ctypes.memset(step.to, step.value, step.nbytes)
            elif isinstance(step, transfer.Copy):
                ctypes.memmove(step.to, step.source, step.nbytes)
            else:
                getattr(self, step.kernel.binary.name, self.kernel)(step)

    def decide(self, node: Any) -> None:
        handle = len(self.handles) + 1
        self.handles[handle] = -1
        for launch in node.setters:
            launch.set_number(HANDLE, handle)
        self.run(node.before)
        if not node.repeats:
            self.run(node.bodies[0 if self.handles[handle] else 1])
            return
        while self.handles[handle]:
            self.steps += 1
            self.run(node.bodies[0])

    def kernel(self, launch: KernelLaunch) -> None:
        source, given = self.sources[launch.kernel], {}
        names = [(name, kind) for name, kind in source.parameters if kind != "constexpr"]
        for slot, (name, kind) in enumerate(names):
            word = launch.values[slot]
            if kind.startswith("*"):
                given[name] = PointerArgument(word, kind)
            else:
                assert kind in ("i32", "i64"), kind
                given[name] = ctypes.c_int64(word).value if kind == "i64" else word
        with np.errstate(all="ignore"):
            kernel_of(source)[launch.grid](**given, **source.constants)

    def flamec_choose(self, launch: KernelLaunch) -> None:
        handle, predicate = launch.values
        self.handles[handle] = ctypes.c_bool.from_address(predicate).value

    def flamec_fill(self, launch: KernelLaunch) -> None:
        target, nbytes, value = launch.values
        ctypes.memset(target, value & 0xFF, nbytes)

    def flamec_advance(self, launch: KernelLaunch) -> None:
        words = [ctypes.c_int64(v).value for v in launch.values]
        handle, counter, _, total, count, predicate, made, goes, error, flags, moves, _ = words[:12]
        step = 0 if flags & 1 else ctypes.c_int64.from_address(counter).value + 1
        if count:
            total = max(0, min(total, ctypes.c_int64.from_address(count).value))
        ended, coming = (total - step, total - 1 - step) if flags & 2 else (step - 1, step)
        for row in range(moves):
            source, target, nbytes, by, on = words[12 + 5 * row : 17 + 5 * row]
            if not by or step < total:
                ctypes.memmove(target + ended * on, source + coming * by, nbytes)
        if flags & 4:
            return
        go = step < total and (not predicate or ctypes.c_bool.from_address(predicate).value)
        go = go and not (error and ctypes.c_int64.from_address(error).value)
        self.handles[handle] = go
        if goes:
            ctypes.c_bool.from_address(goes).value = go
        ctypes.c_int64.from_address(counter).value = step
        if made:
            ctypes.c_int64.from_address(made).value = step


def run_captured(
    plan: ExecutionPlan, inputs: Sequence[np.ndarray], bindings: Mapping[str, int]
) -> tuple[list[np.ndarray], dict[int, np.ndarray]]:
    """Like ``run_plan`` of the interpreter."""
    with pytest.MonkeyPatch.context() as patch:
        driver_stand_in.install(patch)
        kernels = [_loaded(source) for source in plan.kernels]
        program: Any = SimpleNamespace(
            plan=plan, context=context(0), kernels=kernels, graphs=True, no_graph=pytest.fail
        )
        made = PlanSteps(program, bindings)
        layout = plan_memory(plan, bindings)
        arena = np.full(layout.peak_bytes + 64, 0x7B, np.uint8)
        memory = {made.own: np.full(made.own_bytes, 0x7B, np.uint8), made.ticket: np.zeros(1)}
        for position, array in zip(plan.inputs, inputs, strict=True):
            memory[position] = np.array(array, copy=True, order="C")
        for output in plan.outputs:
            shape = evaluate_shape(output.type.shape, bindings)
            memory[output.buffer] = np.full(shape, 77, output.type.dtype.numpy)
        memory |= {number: arena[offset:] for number, offset in layout.offsets.items()}
        for number, buffer in enumerate(plan.buffers):
            if buffer.kind in ("errors", "counters"):
                memory[number] = np.zeros(evaluate_dim(buffer.elements, bindings) + 1, np.int64)
        for buffer, uses in made.uses.items():
            for _, set_address in uses:
                set_address(memory[buffer].ctypes.data)
        graph = Graph(dict(zip(kernels, plan.kernels, strict=True)))
        graph.run(made.steps)
        assert graph.steps or not all(bindings.values())
        words = [memory[n] for n, buffer in enumerate(plan.buffers) if buffer.kind == "errors"]
        assert not any(word.any() for word in words), "an error was reported"
    outputs = [memory[output.buffer] for output in plan.outputs]
    return outputs, {p: memory[plan.inputs[p]] for p in plan.updated}


def _loaded(source: KernelSource) -> LoadedKernel:
    parameters = tuple(_flat_parameters(source, has_maps=False))
    binary = KernelBinary(source.function, "sm_90", b"", 128, 0, 32, 0, parameters)
    return LoadedKernel(context(0), binary)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        wrong = check_graph(name, run_captured)
        print(json.dumps({"row": name, "samples": 1, "wrong": wrong}), flush=True)
