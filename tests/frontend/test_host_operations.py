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
from flamec.ir.shape import SymbolicDim
from flamec.ir.types import TensorType, float32
from flamec.runtime.host_calls import no_host


def sorted_products(size: Any) -> Graph:
    b = GraphBuilder()
    x = b.input(TensorType((size, 4), float32))
    values, places = b.sort(b.mul(x, x), axis=0, descending=False)
    return b.build([b.add(values, values), places])


@pytest.mark.parametrize("generate", [compile_graph, compile_for_gpu])
def test_a_plan_calls_the_host_between_kernels(generate: Any) -> None:
    plan = generate(sorted_products(SymbolicDim.symbol("B"))).plan
    assert [step.kind for step in plan.steps] == ["pointwise", "host", "pointwise"]
    (call,) = [action for action in plan.actions if isinstance(action, HostCall)]
    assert call.op == "sort" and call.attributes == {"axis": 0, "descending": False}
    launches = [i for i, a in enumerate(plan.actions) if isinstance(a, Launch)]
    assert launches in ([], [0, 2])
    assert ExecutionPlan.from_json(plan.to_json()) == plan
    host = plan.steps[1]
    assert str(host.bytes_read) == str(16 * SymbolicDim.symbol("B"))


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
