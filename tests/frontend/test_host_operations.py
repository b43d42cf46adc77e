"""Operations that NumPy computes in the host's memory, inside compiled programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec
from flamec.codegen.compile_graph import compile_graph
from flamec.codegen.triton.compile_graph import compile_graph as compile_for_gpu
from flamec.errors import DataDependentError
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.plan import ExecutionPlan, HostCall, Launch
from flamec.ir.shape import SymbolicDim, evaluate_dim
from flamec.ir.types import TensorType, float32
from flamec.runtime.host_calls import no_host


def sorted_products(size: Any) -> Graph:
    b = GraphBuilder()
    x = b.input(TensorType((size, 4), float32))
    values, places = b.sort(b.mul(x, x), axis=0, descending=False)
    return b.build([b.add(values, values), places])


def factorized_products(size: Any) -> Graph:
    b = GraphBuilder()
    x = b.input(TensorType((size, 4, 4), float32))
    factor = b.cholesky(b.mul(x, x))
    return b.build([b.add(factor, factor)])


def test_a_sort_of_a_program_in_c_is_a_call_of_the_host() -> None:
    plan = compile_graph(sorted_products(SymbolicDim.symbol("B"))).plan
    assert [step.kind for step in plan.steps] == ["pointwise", "sort", "pointwise"]
    (call,) = plan.actions
    assert isinstance(call, HostCall)
    assert call.op == "sort" and call.attributes == {"axis": 0, "descending": False}


@pytest.mark.parametrize("size", [7, 5000, SymbolicDim.symbol("B")])
def test_a_sort_on_a_gpu_is_kernels(size: Any) -> None:
    """So the program is a CUDA graph."""
    plan = compile_for_gpu(sorted_products(size)).plan
    assert [step.kind for step in plan.steps] == ["pointwise", "sort", "pointwise"]
    assert all(isinstance(action, Launch) for action in plan.actions)
    assert ExecutionPlan.from_json(plan.to_json()) == plan


def test_a_line_of_any_length_is_sorted_by_its_four_digits() -> None:
    """Three launches a digit, whatever the size; without elements only those that add up work."""
    plan = compile_for_gpu(sorted_products(SymbolicDim.symbol("B"))).plan
    grids = [a.grid[0] for a in plan.actions if isinstance(a, Launch)][1:-1]
    assert len(grids) == 3 * 4
    for size in (0, 1, 513, 100000):
        blocks = [evaluate_dim(grid, {"B": size}) for grid in grids]
        assert all(blocks[i] == blocks[i + 2] for i in range(0, 12, 3))
        assert all((blocks[i] > 0) == (size > 0) for i in range(0, 12, 3))
    assert len({a.kernel for a in plan.actions}) == len(plan.kernels) == 7


def test_few_of_many_are_found_without_putting_all_in_order() -> None:
    b = GraphBuilder()
    x = b.input(TensorType((8, 16000), float32))
    plan = compile_for_gpu(b.build(b.topk(x, axis=1, count=100, largest=True))).plan
    assert [a.grid[0] for a in plan.actions] == [8 * 8, 8, 1]


@pytest.mark.parametrize("generate", [compile_graph, compile_for_gpu])
def test_a_plan_calls_the_host_between_kernels(generate: Any) -> None:
    plan = generate(factorized_products(SymbolicDim.symbol("B"))).plan
    assert [step.kind for step in plan.steps] == ["pointwise", "host", "pointwise"]
    (call,) = [action for action in plan.actions if isinstance(action, HostCall)]
    assert call.op == "cholesky"
    launches = [i for i, a in enumerate(plan.actions) if isinstance(a, Launch)]
    assert launches in ([], [0, 2])
    assert ExecutionPlan.from_json(plan.to_json()) == plan
    host = plan.steps[1]
    assert str(host.bytes_read) == str(64 * SymbolicDim.symbol("B"))


def test_operands_are_dense_whatever_they_are_made_of() -> None:
    x = flamec.tensor(np.random.default_rng(0).normal(size=(6, 5)))

    def views(x: flamec.Tensor) -> list[flamec.Tensor]:
        parts = [x.T, x[1:4], x[::2, 1:], x[2], x.reshape(3, 10), x[:, :1].expand(6, 5)]
        parts += [x.flip(0), flamec.cat([x, x + 1]), flamec.arange(5.0), x[:0]]
        return [part.sort(-1).values for part in parts]

    for found, wanted in zip(flamec.compile(views)(x), views(x), strict=True):
        np.testing.assert_array_equal(found.numpy(), wanted.numpy())


def test_an_input_is_replaced_by_what_the_host_computes_of_it() -> None:
    @flamec.compile
    def step(x: flamec.Tensor) -> flamec.Tensor:
        x.copy_(x.sort(descending=True).values)
        return x[0] + 1

    x = flamec.tensor([3.0, 1.0, 2.0])
    assert step(x).item() == 4
    assert x.tolist() == [3, 2, 1]


def test_results_of_the_host_in_training() -> None:
    def step(w: flamec.Tensor, x: flamec.Tensor) -> flamec.Tensor:
        loss = ((x * w).topk(2).values ** 2).sum()
        loss.backward()
        return loss

    def gradient(function: Any) -> np.ndarray:
        w = flamec.tensor([[0.5, -1.0, 2.0, 0.25]], requires_grad=True)
        function(w, flamec.tensor(np.arange(12.0).reshape(3, 4), dtype=flamec.float32))
        assert w.grad is not None
        return w.grad.numpy()

    np.testing.assert_allclose(gradient(flamec.compile(step)), gradient(step), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:.*run at each call")
def test_values_are_read_by_splitting() -> None:
    for name in ("unique", "unique_consecutive"):
        function = getattr(flamec, name)
        with pytest.raises(DataDependentError, match=name):
            flamec.compile(lambda x, f=function: f(x), fullgraph=True)(flamec.ones(3))
        compiled = flamec.compile(lambda x, f=function: f(x))
        for data in ([1.0, 1.0, 2.0], [3.0, 1.0, 3.0]):
            assert compiled(flamec.tensor(data)).tolist() == function(flamec.tensor(data)).tolist()


def test_a_device_without_a_host_says_so() -> None:
    call = HostCall("sort", {}, (), ())
    with pytest.raises(ValueError, match="sort: the device was not told"):
        no_host(call, ())


def test_sorted_on_a_gpu(gpu: Any) -> None:
    x = flamec.tensor([[3.0, float("nan"), 1.0]])
    values, places = x.to(gpu).sort()
    assert values.device == gpu and places.device == gpu
    assert places.tolist() == [[2, 0, 1]]
    compiled = flamec.compile(lambda x: (x * 2).sort(descending=True).indices)
    assert compiled(x.to(gpu)).tolist() == [[1, 0, 2]]
    unique, counts = flamec.unique(flamec.tensor([2, 1, 2], device=gpu), return_counts=True)
    assert unique.device == gpu and counts.tolist() == [1, 2]


def test_different_elements_are_found_on_the_gpu(gpu: Any) -> None:
    """As on the CPU; equal ones count once, each NaN by itself, in any order."""
    rng = np.random.default_rng(0)
    data = [rng.integers(-3, 4, (4, 9)), rng.integers(0, 2, 50) > 0]
    data.append(np.where(rng.integers(0, 5, 30) > 0, rng.integers(0, 3, 30), np.nan))
    for array in data:
        for function in (flamec.unique, flamec.unique_consecutive):
            x = flamec.tensor(array)
            wanted = function(x, return_inverse=True, return_counts=True)
            found = function(x.to(gpu), return_inverse=True, return_counts=True)
            assert all(part.device == gpu for part in found)
            values, inverse, counts = (part.cpu().numpy() for part in found)
            np.testing.assert_array_equal(values, wanted[0].numpy())
            np.testing.assert_array_equal(values[inverse], array)
            assert np.bincount(inverse.reshape(-1)).tolist() == counts.tolist()
            np.testing.assert_array_equal(counts, wanted[2].numpy())
            assert function(x.to(gpu)).shape == wanted[0].shape
    assert flamec.unique(flamec.zeros(0, device=gpu)).shape == (0,)
