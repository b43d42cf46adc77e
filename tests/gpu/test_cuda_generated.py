"""Generated kernels on a GPU: every row of the op table, and fused graphs, against the oracle."""

from __future__ import annotations

import pytest
from gpu_execution import run_on
from op_row import Row
from op_table import COMPILED
from triton_cases import check_fault, check_graph, check_row
from triton_graphs import FAULTS, GRAPHS

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
@pytest.mark.parametrize("name", FAULTS)
def test_an_index_out_of_range_is_raised_once_at_the_next_read(
    name: str, planned: CudaDevice
) -> None:
    wrong = check_fault(name, lambda plan, arrays, sizes: run_on(planned, plan, arrays, sizes))
    assert not wrong, wrong
    planned.synchronize()
