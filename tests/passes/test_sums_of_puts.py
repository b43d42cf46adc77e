"""The rule of ``simplify`` about sums over rows that have one value each."""

from __future__ import annotations

import numpy as np
import pytest

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph, Value
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.passes.simplify import simplify
from flamec.ir.types import TensorType, float32, int64


def names_of(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


def one_in_each_row(b: GraphBuilder, values: Value, columns: Value, negated: bool = False) -> Value:
    zeros = b.full_like(0.0, TensorType((5, 7), float32))
    counter = b.iota(shape=(5,), axis=0, dtype=int64)
    placed = b.index_put(zeros, values, counter, columns, mode="add")
    return b.sum(b.neg(placed) if negated else placed, axes=(1,))


@pytest.mark.parametrize("negated", [False, True])
def test_the_sum_of_one_value_in_each_row_is_that_value(negated: bool) -> None:
    b = GraphBuilder()
    values, columns = b.input(TensorType((5,), float32)), b.input(TensorType((5,), int64))
    graph = b.build([one_in_each_row(b, values, columns, negated)])
    simple = eliminate_dead_code(simplify(graph))
    assert "index_put" not in names_of(simple) and "sum" not in names_of(simple)
    arrays = [np.array([1, -0.0, np.nan, np.inf, -2], np.float32), np.array([0, 6, -1, 3, 2])]
    (wanted,), _ = evaluate_graph(graph, arrays)
    (found,), _ = evaluate_graph(simple, arrays)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(np.signbit(found[[0, 1, 4]]), np.signbit(wanted[[0, 1, 4]]))


def test_sums_of_other_puts_stay() -> None:
    """Rows in another order, or something else than zeros below."""
    b = GraphBuilder()
    values, rows, columns = (b.input(TensorType((5,), d)) for d in (float32, int64, int64))
    counter = b.iota(shape=(5,), axis=0, dtype=int64)
    zeros, ones = (b.full_like(v, TensorType((5, 7), float32)) for v in (0.0, 1.0))
    puts = [
        b.index_put(zeros, values, rows, columns, mode="add"),
        b.index_put(ones, values, counter, columns, mode="add"),
        b.index_put(zeros, values, counter, columns, mode="amax"),
    ]
    graph = simplify(b.build([b.sum(x, axes=(1,)) for x in puts]))
    assert names_of(graph).count("sum") == 3
