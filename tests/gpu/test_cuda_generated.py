"""Generated kernels on a GPU: every row of the op table, and fused graphs, against the oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gpu_execution import run_on
from op_row import Row
from op_table import COMPILED
from triton_cases import check_fault, check_graph, check_row
from triton_graphs import FAULTS, GRAPHS
from triton_scatters import Case, cases, cases_with_tables, product_cases

from flamec.host_evaluation import evaluate_host_call
from flamec.ir.passes.plan_memory import plan_memory
from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.kernel_cache import KernelCache


@pytest.fixture(scope="module")
def planned(cache: KernelCache) -> CudaDevice:
    return CudaDevice(0, cache, plan_memory, jobs=8, evaluate=evaluate_host_call)


@pytest.mark.gpu
@pytest.mark.parametrize("row", COMPILED, ids=lambda row: row.name)
def test_every_op(row: Row, planned: CudaDevice) -> None:
    _, wrong = check_row(row, lambda plan, arrays: run_on(planned, plan, arrays, {})[0])
    assert not wrong, wrong[:3]


@pytest.mark.gpu
@pytest.mark.parametrize("name", GRAPHS)
def test_fused_graphs(name: str, planned: CudaDevice) -> None:
    wrong = check_graph(name, lambda plan, arrays, sizes: run_on(planned, plan, arrays, sizes))
    assert not wrong, wrong[:3]


@pytest.mark.gpu
@pytest.mark.parametrize(
    "case", [*cases(), *cases_with_tables(), *product_cases()], ids=lambda case: case.name
)
def test_scatters_of_many_rows(case: Case, planned: CudaDevice) -> None:
    """Each twice: what leaves anything to the order of rows differs from run to run."""
    large = case if case.lines else replace(case, rows=70_000)
    operands = large.operands(np.random.default_rng(3))
    sizes = {"N": large.rows} if large.symbolic else {}
    plan = large.plan()
    first, again = (run_on(planned, plan, operands, sizes)[0][0] for _ in range(2))
    assert not large.wrong(first, operands)
    specified = large.mode != "over"  # leaves elements as they were in memory
    if specified and (large.options.get("deterministic", True) or large.lines):
        assert first.tobytes() == again.tobytes()


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAULTS)
def test_an_index_out_of_range_is_raised_once_at_the_next_read(
    name: str, planned: CudaDevice
) -> None:
    wrong = check_fault(name, lambda plan, arrays, sizes: run_on(planned, plan, arrays, sizes))
    assert not wrong, wrong
    planned.synchronize()
