"""Bytes and arithmetic: counted by hand, and the same for nodes and for the kernels they become."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kernel_cases import Builder

from flamec.codegen.compile_graph import compile_graph
from flamec.ir.graph import Graph, Value
from flamec.ir.shape import SymbolicDim, evaluate_dim
from flamec.ir.types import DType, TensorType, bfloat16, float32, float64, int64
from flamec.ir.work import graph_work, node_work

Make = Callable[[Builder], Value]


def tensor(b: Builder, *shape: int, dtype: DType = float32) -> Value:
    return b.input(TensorType(shape, dtype))


def product(b: Builder, left: Value, right: Value) -> Value:
    return b.dot_general(left, right, contract=((1,), (0,)), batch=((), ()))


# name: (what to compute, bytes, arithmetic operations)
COUNTED: dict[str, tuple[Make, int, int]] = {
    "add": (lambda b: b.add(tensor(b, 3, 5), tensor(b, 3, 5)), 3 * 15 * 4, 15),
    "exp of bfloat16": (lambda b: b.exp(tensor(b, 7, dtype=bfloat16)), 2 * 7 * 2, 7),
    "sum of rows": (lambda b: b.sum(tensor(b, 4, 6), axes=(1,)), (24 + 4) * 4, 24),
    "running sum": (lambda b: b.cumsum(tensor(b, 4, 6), axis=1), 2 * 24 * 4, 24),
    "matrix product": (
        lambda b: product(b, tensor(b, 3, 8), tensor(b, 8, 5)),
        (24 + 40 + 15) * 4,
        2 * 3 * 8 * 5,
    ),
    "batched product in float64": (
        lambda b: b.dot_general(
            tensor(b, 2, 3, 8, dtype=float64),
            tensor(b, 2, 5, 8, dtype=float64),
            contract=((2,), (2,)),
            batch=((0,), (0,)),
        ),
        (48 + 80 + 30) * 8,
        2 * 2 * 3 * 8 * 5,
    ),
    "transposed view": (lambda b: b.permute(tensor(b, 4, 6), axes=(1, 0)), 0, 0),
    "nothing": (lambda b: b.add(tensor(b, 0, 5), tensor(b, 0, 5)), 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_of_one_operation(name: str) -> None:
    make, moved, computed = COUNTED[name]
    b = Builder(share=True)
    graph = b.build([make(b)])
    assert node_work(graph.nodes[-1]) == (moved, computed)


def test_a_gather_reads_what_it_gives() -> None:
    b = Builder(share=True)
    table, rows = tensor(b, 1000, 8), tensor(b, 3, dtype=int64)
    graph = b.build([b.index(table, rows, axis=0)])
    assert node_work(graph.nodes[-1]) == (2 * 3 * 8 * 4 + 3 * 8, 0)


def test_symbolic_sizes_stay_symbolic() -> None:
    b = Builder(share=True)
    n = SymbolicDim.symbol("n")
    x = b.input(TensorType((n, 4), float32))
    moved, computed = node_work(b.build([b.exp(x)]).nodes[-1])
    assert evaluate_dim(moved, {"n": 10}) == 2 * 40 * 4
    assert evaluate_dim(computed, {"n": 10}) == 40


def graph(make: Make) -> Graph:
    b = Builder(share=True)
    return b.build([make(b)])


KERNELS: dict[str, tuple[Make, int]] = {
    "chain": (lambda b: b.exp(b.mul(x := tensor(b, 30, 40), x)), 2 * 1200),
    "weighted row sums": (
        lambda b: b.sum(b.mul(tensor(b, 512, 1000), tensor(b, 512, 1000)), axes=(1,)),
        2 * 512_000,
    ),
    "product with an epilogue": (
        lambda b: b.exp(product(b, tensor(b, 64, 96), tensor(b, 96, 80))),
        2 * 64 * 96 * 80 + 64 * 80,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_count_the_arithmetic_of_their_nodes(name: str) -> None:
    make, computed = KERNELS[name]
    (step,) = compile_graph(graph(make)).plan.steps
    assert step.flops == computed
    assert graph_work(graph(make))[1] == computed


def test_a_kernel_moves_what_its_nodes_do_not_keep_to_themselves() -> None:
    made = graph(KERNELS["weighted row sums"][0])
    (step,) = compile_graph(made).plan.steps
    assert (step.bytes_read, step.bytes_written) == (2 * 512_000 * 4, 512 * 4)
    assert graph_work(made)[0] == step.bytes_read + step.bytes_written + 2 * 512_000 * 4
