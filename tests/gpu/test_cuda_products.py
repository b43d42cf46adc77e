"""Matrix products on a GPU: every form against float64, precision, determinism."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_execution import run_on
from triton_products import CASES, SPLIT_TMA, Case, check_case, compiled, operands, product

from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.codegen.triton.product_schedule import target_facts
from flamec.ir.builder import GraphBuilder
from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.plan import ExecutionPlan
from flamec.ir.types import bfloat16, float32
from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.kernel_cache import KernelCache

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def planned(cache: KernelCache) -> CudaDevice:
    return CudaDevice(0, cache, plan_memory, jobs=8)


@pytest.mark.parametrize("name", CASES)
def test_forms(name: str, planned: CudaDevice) -> None:
    if CASES[name].schedule.tma and not target_facts(planned.target).tma:
        pytest.skip("this GPU has no copy engine")
    wrong = check_case(name, lambda plan, arrays, sizes: run_on(planned, plan, arrays, sizes))
    assert not wrong


def error_of(planned: CudaDevice, precision: str) -> float:
    """The largest error of a product of normal numbers, against the largest element."""
    graph = product(256, 256, 2048, float32)(GraphBuilder())
    options = CodegenOptions(target=planned.target, float32_products=precision)
    plan = compile_graph(graph, options).plan
    x, y = operands(graph, 0, np.random.default_rng(0))
    ((result,), _) = run_on(planned, plan, [x, y], {})
    wanted = x.astype(np.float64) @ y.astype(np.float64)
    return float(np.abs(result - wanted).max() / np.abs(wanted).max())


def test_precision_of_float32(planned: CudaDevice) -> None:
    errors = {p: error_of(planned, p) for p in ("ieee", "tf32x3", "tf32")}
    assert errors["ieee"] < 1e-6
    assert errors["tf32x3"] < 4e-6
    assert 2e-5 < errors["tf32"] < 2e-3


def run_moved(planned: CudaDevice, plan: ExecutionPlan, arrays: list[np.ndarray]) -> list[bytes]:
    """The results of one bound program with its operands at other addresses at each call."""
    bound = planned.load(plan).bind(())
    found, held = [], []
    (output,) = plan.outputs
    for _ in range(4):
        for buffer, array in zip(plan.inputs, arrays, strict=True):
            memory, address = planned.empty(array.nbytes)
            planned.write(address, array)
            held.append(memory)
            bound.addresses[buffer] = address
        result = np.zeros(output.type.shape, output.type.dtype.numpy)
        memory, address = planned.empty(result.nbytes)
        held.append(memory)
        bound.addresses[output.buffer] = address
        bound()
        planned.read(result, address)
        found.append(result.tobytes())
    assert bound.graph is not None, "the two launches were not captured"
    return found


def test_split_sums_are_the_same_each_time(planned: CudaDevice) -> None:
    """Also in a captured graph whose arrays move."""
    case = Case(product(64, 128, 4096, bfloat16, left=True), SPLIT_TMA, 2)
    if not target_facts(planned.target).tma:
        pytest.skip("this GPU has no copy engine")
    arrays = operands(case.make(GraphBuilder()), 0, np.random.default_rng(1))
    results = run_moved(planned, compiled(case, planned.target).plan, arrays)
    assert len(set(results)) == 1
    found = np.frombuffer(results[0], dtype=arrays[0].dtype).reshape(64, 128).astype(np.float64)
    wanted = arrays[0].astype(np.float64).T @ arrays[1].astype(np.float64)
    assert np.abs(found - wanted).max() <= 2.0**-7 * np.abs(wanted).max()
