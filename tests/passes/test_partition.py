"""Forward and backward programs: what is kept between them, and that together they are right."""

from __future__ import annotations

import numpy as np
import pytest
from triton_graphs import gelu, layer_norm, softmax

from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph, Value
from flamec.ir.passes.differentiate import differentiate_graph
from flamec.ir.passes.partition import Partition, partition
from flamec.ir.types import TensorType, bfloat16, float32


def softmax_of_halves() -> Graph:
    b = GraphBuilder()
    x = b.input(TensorType((6, 33), bfloat16))
    return b.build([b.cast(softmax(b, b.cast(x, float32)), bfloat16)])


def norm() -> Graph:
    b = GraphBuilder()
    x, weight, bias = (b.input(TensorType(s, float32)) for s in ((6, 33), (33,), (33,)))
    return b.build([gelu(b, layer_norm(b, x, weight, bias))])


def shapes(parts: Partition) -> list[tuple[object, ...]]:
    return [v.type.shape for v in parts.forward.outputs[1:]]


@pytest.mark.parametrize("budget", [1.0, 0.5])
@pytest.mark.parametrize("expensive", [False, True])
@pytest.mark.parametrize("make", [softmax_of_halves, norm])
def test_both_parts_give_the_values_of_the_whole(
    make: object, expensive: bool, budget: float
) -> None:
    graph: Graph = make()  # type: ignore[operator]
    joint = differentiate_graph(graph, range(len(graph.inputs)))
    parts = partition(joint, len(graph.inputs), 1, expensive, budget)
    rng = np.random.default_rng(3)
    arrays = [
        rng.normal(size=tuple(map(int, v.type.shape))).astype(v.type.dtype.numpy)
        for v in joint.inputs
    ]
    wanted, _ = evaluate_graph(joint, arrays, {})
    given, gradients = arrays[: len(graph.inputs)], arrays[len(graph.inputs) :]
    (output, *saved), _ = evaluate_graph(parts.forward, given, {})
    assert len(saved) == parts.saved_count
    inputs = [*saved, *(given[i] for i in parts.saved_inputs), *gradients]
    found, _ = evaluate_graph(parts.backward, inputs, {})
    for a, b in zip([output, *found], wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_only_what_rows_fold_to_is_saved_where_all_else_may_run_again() -> None:
    graph = softmax_of_halves()
    parts = partition(differentiate_graph(graph, (0,)), 1, 1, expensive=True)
    assert set(shapes(parts)) == {(6,)} and parts.saved_inputs == (0,)


def test_expensive_values_are_saved_unless_told_otherwise() -> None:
    graph = softmax_of_halves()
    parts = partition(differentiate_graph(graph, (0,)), 1, 1)
    assert (6, 33) in shapes(parts) and parts.saved_inputs == ()


def test_with_a_memory_budget_only_inputs_are_kept_and_nodes_run_late() -> None:
    b = GraphBuilder()
    x, *weights = (b.input(TensorType(s, float32)) for s in ((6, 33), *[(33, 33)] * 3))
    for weight in weights:
        product = b.dot_general(x, weight, contract=((1,), (0,)), batch=((), ()))
        x = b.tanh(softmax(b, product))
    joint = differentiate_graph(b.build([x]), range(4))
    most, least = (partition(joint, 4, 1, True, budget) for budget in (1.0, 0.0))
    assert sum(map(_elements, least.forward.outputs)) < sum(map(_elements, most.forward.outputs))
    products = sum(node.op.name == "dot_general" for node in least.backward.nodes)
    assert products == 6  # those of the gradients alone
    exponentials = [i for i, n in enumerate(least.backward.nodes) if n.op.name == "exp"]
    between = least.backward.nodes[exponentials[0] : exponentials[-1]]
    assert any(node.op.name == "dot_general" for node in between)


def _elements(value: Value) -> int:
    return int(np.prod(value.type.shape))
