"""Forward and backward programs: what is kept between them, and that together they are right."""

from __future__ import annotations

import numpy as np
import pytest
from triton_graphs import gelu, layer_norm, softmax

from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
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


@pytest.mark.parametrize("expensive", [False, True])
@pytest.mark.parametrize("make", [softmax_of_halves, norm])
def test_both_parts_give_the_values_of_the_whole(make: object, expensive: bool) -> None:
    graph: Graph = make()  # type: ignore[operator]
    joint = differentiate_graph(graph, range(len(graph.inputs)))
    parts = partition(joint, len(graph.inputs), 1, expensive)
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
