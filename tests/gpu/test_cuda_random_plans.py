"""Random graphs as GPU programs against the evaluator. The seed of a failure is in its message."""

from __future__ import annotations

import os

import numpy as np
import pytest
from gpu_execution import run_on
from plan_batch import bindings_of
from random_programs import ProgramMaker

from flamec.codegen.triton.compile_graph import compile_graph
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.passes.plan_memory import plan_memory
from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.kernel_cache import KernelCache

PROGRAMS = 5
BATCHES = range(200 if os.environ.get("FLAMEC_TEST_LEVEL") == "full" else 8)


@pytest.fixture(scope="module")
def planned(cache: KernelCache) -> CudaDevice:
    return CudaDevice(0, cache, plan_memory, jobs=2)


@pytest.mark.gpu
@pytest.mark.parametrize("batch", BATCHES)
def test_generated_and_evaluated_agree(batch: int, planned: CudaDevice) -> None:
    for seed in range(batch * PROGRAMS, (batch + 1) * PROGRAMS):
        maker = ProgramMaker(seed)
        graph = maker.graph(4 + seed % 25)
        plan = compile_graph(graph).plan
        single = any(v.type.dtype.name == "float32" for v in graph.values())
        tolerance = 2e-4 if single else 1e-9
        for size in (3, 1, 0, 40) if seed % 2 else (3,):
            arrays = maker.arrays(size)
            with np.errstate(all="ignore"):
                outputs, updates = evaluate_graph(graph, arrays)
            got, new = run_on(planned, plan, arrays, bindings_of(plan, arrays))
            wanted = [*outputs, *(updates[i] for i in sorted(updates))]
            for actual, expected in zip(
                [*got, *(new[i] for i in sorted(new))], wanted, strict=True
            ):
                scale = max(1.0, float(np.nanmax(np.abs(expected)))) if expected.size else 1.0
                close = np.allclose(
                    actual, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True
                )
                assert close, f"seed {seed}, B = {size}: {np.abs(actual - expected).max()}"
