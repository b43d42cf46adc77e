"""GPUs that load plans and run nothing, to count plans, launches and kernels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flamec.ir.plan import ExecutionPlan
from flamec.runtime.cuda.device import KernelError
from flamec.runtime.cuda.triton_compiler import BINARY_KIND, kernel_key
from flamec.runtime.kernel_cache import KernelCache


class PlanningGpu:
    """Loads plans without compiling them; ``plans``: those loaded so far, in order."""

    index, name, target = 0, "cuda:0", "sm_90"
    properties = SimpleNamespace(name="Simulated GPU")

    def __init__(self, folder: Path) -> None:
        self.cache = KernelCache(folder)
        self.plans: list[ExecutionPlan] = []
        self.fails = False

    def load(self, plan: ExecutionPlan, progress: Any = None, label: str = "") -> Any:
        if self.fails:
            raise KernelError(0, ValueError("too much shared memory"))
        self.plans.append(plan)

        def bind(sizes: tuple[int, ...], key: tuple[int, ...] | None = None) -> Any:
            return SimpleNamespace(plan=plan, sizes=sizes, addresses=[0] * len(plan.buffers))

        return SimpleNamespace(plan=plan, kernels_compiled=len(plan.kernels), bind=bind)


class CompilingGpu(PlanningGpu):
    """Keeps something in the cache for each kernel that is not there, in place of machine code."""

    def load(self, plan: ExecutionPlan, progress: Any = None, label: str = "") -> Any:
        loaded = super().load(plan, progress, label)
        keys = [kernel_key(source, self.target) for source in plan.kernels]
        missing = [key for key in dict.fromkeys(keys) if self.cache.get(key, BINARY_KIND) is None]
        for key in missing:
            self.cache.put(key, BINARY_KIND, f"code of {key}".encode(), {})
        loaded.kernels_compiled = len(missing)
        return loaded
