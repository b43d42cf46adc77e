"""A GPU that compiles programs and runs none: plans, schedules and caches on any machine.

Run as a program: ``FOLDER MODE`` prepares a graph with the cache in FOLDER and prints JSON: what
was compiled, which packages were imported, and the plan's hash.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import simulated_gpu

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec import cuda_backend, tuning
from flamec.config import CompileOptions, default_options
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.plan import ExecutionPlan
from flamec.ir.types import Device, TensorType, bfloat16, float32
from flamec.prepared import Prepared
from flamec.runtime.cuda.compile_worker import Progress
from flamec.runtime.cuda.device import KernelError, compile_plan
from flamec.runtime.cuda.timing import TimedPlan
from flamec.runtime.cuda.triton_compiler import TritonError
from flamec.runtime.kernel_cache import KernelCache

HEAVY = ("triton", "jinja2", "networkx", "torch", "cuda", "rich")
Seconds = Callable[[int, int], float]


class CompilingGpu:
    """What the backend asks of ``CudaDevice`` before a program is run."""

    index, name, target = 0, "cuda:0", "sm_90"
    properties = SimpleNamespace(name="Simulated GPU")

    def __init__(self, cache: KernelCache, jobs: int = 2) -> None:
        self.cache, self.jobs = cache, jobs

    def load(self, plan: ExecutionPlan, progress: Progress | None = None, label: str = "") -> Any:
        compiled = compile_plan(plan, self.target, self.cache, self.jobs, progress)
        for number, kernel in enumerate(compiled):
            try:
                kernel.result()
            except TritonError as error:
                raise KernelError(number, error) from error
        return SimpleNamespace(plan=plan, kernels_compiled=sum(k.compiled for k in compiled))


class FakeTimer:
    """Stands in for ``PlanTimer``: a time is a function of the position among how many."""

    def __init__(self, seconds: Seconds) -> None:
        self.seconds, self.tried = seconds, 0

    def compile(self, groups: Sequence[Sequence[TimedPlan]], progress: Any = None) -> None:
        self.tried += sum(map(len, groups))

    def time(
        self, groups: Sequence[Sequence[TimedPlan]], progress: Any = None
    ) -> list[list[float]]:
        return [[self.seconds(i, len(group)) for i in range(len(group))] for group in groups]


def no_timer(position: int, count: int) -> float:
    raise AssertionError("a program was timed")


def new_process(
    patch: pytest.MonkeyPatch, folder: Path, seconds: Seconds = no_timer
) -> tuple[CompileOptions, FakeTimer]:
    """As if the process had just begun, with its cache in ``folder``."""
    simulated_gpu.install(patch)
    timer = FakeTimer(seconds)
    options = default_options(cache_folder=folder)
    gpu = CompilingGpu(KernelCache(folder))
    patch.setattr(cuda_backend, "device", lambda index, options: gpu)
    patch.setattr(cuda_backend, "_tunings", {})
    patch.setattr(tuning, "PlanTimer", lambda gpu, plan_memory: timer)
    return options, timer


def graph() -> Graph:
    """A product with an epilogue, and a sum over rows."""
    gpu, b = Device("cuda", 0), GraphBuilder()
    x, w = (b.input(TensorType(s, bfloat16, gpu)) for s in ((512, 256), (256, 768)))
    product = b.dot_general(x, w, contract=((1,), (0,)), batch=((), ()))
    y = b.input(TensorType((4096, 512), float32, gpu))
    return b.build([b.exp(product), b.sum(b.mul(y, y), axes=(0,))])


def prepare(options: CompileOptions) -> Prepared:
    return cuda_backend.prepare(graph(), (), options)


def plan_hash(prepared: Prepared) -> str:
    assert prepared.plan is not None
    return hashlib.sha256(prepared.plan.to_json().encode()).hexdigest()


def main() -> None:
    patch = pytest.MonkeyPatch()
    options, _ = new_process(patch, Path(sys.argv[1]))
    before = {name for name in HEAVY if name in sys.modules}
    prepared = prepare(default_options(cache_folder=options.cache_folder, autotune=sys.argv[2]))
    facts = {
        "compiled": prepared.kernels_compiled,
        "from_cache": prepared.kernels_from_cache,
        "imported": [name for name in HEAVY if name in sys.modules and name not in before],
        "plan": plan_hash(prepared),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
