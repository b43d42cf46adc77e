"""Programs and eager operations on masks and indices without elements, or without True ones, on a
GPU that is not there, their kernels in Triton's interpreter, against the CPU.

Run as a program with TRITON_INTERPRET=1: a line of JSON with what was wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import simulated_gpu
from simulated_gpu import GPU, at
from triton_eager import InterpretedGpu, InterpretedRunner

import flamec
from flamec.codegen.options import CodegenOptions
from flamec.config import CompileOptions
from flamec.cuda_backend import CudaInvocation
from flamec.functional import true_places
from flamec.ir.graph import Graph
from flamec.ir.plan import ExecutionPlan
from flamec.prepared import Prepared


class BoundPlan:
    """Called like ``BoundCudaProgram``."""

    def __init__(self, plan: ExecutionPlan, launch: Callable[[Sequence[int]], None]) -> None:
        self.plan, self.launch = plan, launch
        self.addresses = [0] * len(plan.buffers)

    def __call__(self) -> None:
        given = (*self.plan.inputs, *(output.buffer for output in self.plan.outputs))
        self.launch([self.addresses[n] for n in given])


class ProgramRunner(InterpretedRunner):
    def bind(self, sizes: tuple[int, ...]) -> Any:
        bound: Any = BoundPlan(self.plan, super().bind(sizes).bound.launch)
        return CudaInvocation(self.gpu, bound)


class ProgramGpu(InterpretedGpu):
    """Whole programs are interpreted, too."""

    def prepare(self, graph: Graph, symbols: Sequence[str], options: CompileOptions) -> Prepared:
        prepared = Prepared(graph, None, options, None)
        runner = ProgramRunner(self, graph, symbols, CodegenOptions())
        prepared.runner, prepared.plan = runner, runner.plan
        for kernel in runner.plan.kernels:  # Triton fails to compile a division of constants by 0
            assert "_divide(u0, u0)" not in kernel.text, kernel.text
        return prepared


def _set(x: Any, y: Any) -> Any:
    z = x.clone()
    z[x > 0] = 3.0
    z[y > 0] = y[y > 0]
    return z


def _none(x: Any, *shape: int) -> Any:
    return flamec.zeros(shape, dtype=flamec.int64, device=x.device)


def _put(x: Any, y: Any) -> Any:
    z = x.reshape(-1).clone()
    z.index_add_(0, _none(x, 0), y.reshape(-1)[:0])
    return z.index_put_((_none(x, 0),), y.reshape(-1)[:0] + 1) + 1


CASES: dict[str, Callable[[Any, Any], Any]] = {
    "nonzero": lambda x, y: (x > 0).nonzero(),
    "places as a tuple": lambda x, y: (x > 0).nonzero(as_tuple=True),
    "argwhere": lambda x, y: flamec.argwhere(x > 0),
    "under a mask": lambda x, y: x[y > 0],
    "sum under a mask": lambda x, y: x[x > 0].sum(),
    "largest under a mask": lambda x, y: (x[y > 0] * 2 + 1).sum(0),
    "masked_select": lambda x, y: x.masked_select(x > 0),
    "count": lambda x, y: flamec.count_nonzero(x > 0),
    "unique": lambda x, y: flamec.unique(x, return_inverse=True, return_counts=True),
    "unique in turn": lambda x, y: flamec.unique_consecutive(x, return_counts=True),
    "set under a mask": _set,
    "looked up": lambda x, y: (x.reshape(-1)[_none(x, 0)].sum(), x.reshape(-1)[_none(x, 0, 2)]),
    "gathered": lambda x, y: flamec.gather(x, 0, _none(x, *[0] * x.dim())).sum(),
    "taken": lambda x, y: x.take(_none(x, 0)).sum(),
    "as many as there are": lambda x, y: x.reshape(-1)[_none(x, x.numel())].sum(),
    "put": _put,
    "all of them": lambda x, y: (
        (x > 0).nonzero(),
        x[x > 0],
        x.masked_select(x > 0),
        x[x > 0].sum(),
    ),
}
SHAPES = ((0,), (3, 0), (0, 3), (2, 3))
FROM_SOME_TO_NONE: dict[str, Callable[[Any, Any], Any]] = {  # one program for both
    "always the first": lambda x, i: x[_none(x, x.shape[0])].sum(),
    "one place": lambda x, i: x[i[0].expand(x.shape[0])].sum(),
    "one place a row": lambda x, i: x[i[:, None].expand(2, x.shape[0])].sum(1),
    "put at one place": lambda x, i: x.clone().index_add_(0, i[:1].expand(x.shape[0]), x),
}


def _difference(case: Any, run: Any, arrays: Sequence[np.ndarray], gpu: Any) -> str:
    words = at(gpu.runtime.words.address, (512,), np.dtype(np.int64))
    words[...] = 0
    wanted, got = ([flamec.tensor(a, device=d) for a in arrays] for d in ("cpu", GPU))
    try:
        wanted, got = case(*wanted), run(*got)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if words.any():
        return "an index was out of range"
    several = isinstance(wanted, tuple)
    for a, b in zip(*((r if several else (r,)) for r in (got, wanted)), strict=True):
        a, b = a.cpu().numpy(), b.numpy()
        if a.shape != b.shape or a.dtype != b.dtype or not np.array_equal(a, b):
            return f"{a} of {a.shape}, not {b} of {b.shape}"
    return ""


def main() -> None:
    patch = pytest.MonkeyPatch()
    simulated_gpu.install(patch)
    gpu = ProgramGpu(0)
    patch.setattr("flamec.gpu._gpus", {0: gpu})
    runtime: Any = gpu.runtime
    runtime.words = runtime.allocate(4096)
    patch.setattr(true_places, "LEAST_ELEMENTS", 0)
    wrong = {}
    for name, case in CASES.items():
        for shape in SHAPES:
            arrays = [-np.ones(shape, np.float32)] * 2
            programs = {
                "eager": case,
                "compiled": flamec.compile(case, dynamic=False),
                "symbolic": flamec.compile(case, dynamic=True),
            }
            for mode, run in programs.items():
                found = _difference(case, run, arrays, gpu)
                if found:
                    wrong[f"{name} {shape} {mode}"] = found
    for name, case in FROM_SOME_TO_NONE.items():
        run = flamec.compile(case, dynamic=True)
        for size in (3, 0):
            arrays = [np.ones(size, np.float32), np.zeros(2, np.int64)]
            found = _difference(case, run, arrays, gpu)
            if found:
                wrong[f"{name}, {size}"] = found
    print(json.dumps({"wrong": wrong}))


if __name__ == "__main__":
    main()
