"""Sums of arrays that lie side by side in zeros become one array that is put together."""

from __future__ import annotations

import numpy as np
import pytest

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph, Value
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.passes.join_borders import join_borders
from flamec.ir.shape import Dim, SymbolicDim
from flamec.ir.types import TensorType, float32, int64


def placed(
    b: GraphBuilder, low: Dim, size: Dim, high: Dim, axis: int = 1, fill: float = 0
) -> Value:
    shape = tuple(size if n == axis else 3 for n in range(2))
    x = b.input(TensorType(shape, float32))
    borders = (tuple(amount if n == axis else 0 for n in range(2)) for amount in (low, high))
    value: Value = b.pad(
        x, b.constant(fill, x.type), **dict(zip(("low", "high"), borders, strict=True))
    )
    return value


def joined(graph: Graph) -> Graph:
    return eliminate_dead_code(join_borders(graph))


def names(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes if node.op.name not in ("full", "add")]


def results(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Before and after, to the sign of zeros."""
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(v.type.shape).astype(np.float32) for v in graph.inputs]
    for array in arrays:
        array[0] = np.array([-0.0, 0.0, np.nan, np.inf], np.float32)[: array.shape[1]]
    before, after = (evaluate_graph(g, arrays)[0][0] for g in (graph, joined(graph)))
    return before, after


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("axis", [0, 1])
def test_pieces_that_cover_an_array(order: tuple[int, ...], axis: int) -> None:
    b = GraphBuilder()
    places = [(0, 4, 5), (4, 3, 2), (7, 2, 0)]
    pieces = [placed(b, *place, axis=axis) for place in places]
    if axis == 0:
        pieces = pieces[:3]
    first, second, third = (pieces[n] for n in order)
    graph = b.build([b.add(b.add(first, second), third)])
    assert names(joined(graph)) == ["concatenate"]
    if axis == 1:
        before, after = results(graph)
        assert before.tobytes() == after.tobytes()


def test_pieces_with_zeros_around_them_stay_so() -> None:
    b = GraphBuilder()
    graph = b.build([b.add(placed(b, 1, 4, 5), placed(b, 5, 3, 2))])
    assert names(joined(graph)) == ["concatenate", "pad"]
    before, after = results(graph)
    assert before.tobytes() == after.tobytes()


def test_an_array_of_the_users_pieces_keeps_no_negative_zero() -> None:
    b = GraphBuilder()
    x, y = (b.input(TensorType((3, 2), float32)) for _ in range(2))
    together = b.concatenate(x, y, axis=1)
    wide = b.pad(together, b.constant(0, x.type), low=(0, 0), high=(0, 4))
    graph = b.build([b.add(wide, placed(b, 4, 4, 0))])
    assert names(joined(graph)) == ["concatenate"]
    before, after = results(graph)
    assert before.tobytes() == after.tobytes()


def test_a_sum_with_a_negative_zero_may_be_one() -> None:
    b = GraphBuilder()
    x, zero = b.input(TensorType((3, 4), float32)), -0.0
    sums = b.add(x, b.constant(zero, x.type))
    wide = b.pad(sums, b.constant(0, sums.type.with_shape(())), low=(0, 0), high=(0, 4))
    graph = b.build([b.add(wide, placed(b, 4, 4, 0))])
    assert names(joined(graph)) == ["concatenate"]
    before, after = results(graph)
    assert before.tobytes() == after.tobytes()


def test_symbolic_sizes() -> None:
    b, n = GraphBuilder(), SymbolicDim.symbol("n")
    graph = b.build([b.add(placed(b, 0, n, n), placed(b, n, n, 0))])
    assert names(joined(graph)) == ["concatenate"]


def test_what_is_left_alone() -> None:
    def refused(b: GraphBuilder, left: Value, right: Value) -> bool:
        graph = b.build([b.add(left, right)])
        return join_borders(graph) is graph

    b = GraphBuilder()
    assert refused(b, placed(b, 0, 4, 4), placed(b, 3, 4, 1))  # they overlap
    b = GraphBuilder()
    assert refused(b, placed(b, 0, 3, 5), placed(b, 4, 4, 0))  # zeros are between them
    b = GraphBuilder()
    assert refused(b, placed(b, 0, 4, 4), placed(b, 4, 4, 0, fill=1))  # not zeros
    b = GraphBuilder()
    assert refused(b, placed(b, 0, 4, 4, fill=-0.0), placed(b, 4, 4, 0, fill=-0.0))  # negative ones
    b = GraphBuilder()
    assert refused(b, placed(b, 0, 1, 2, axis=0), placed(b, 1, 2, 0))  # along two axes
    b = GraphBuilder()
    x, y = (b.input(TensorType((3, 2), int64)) for _ in range(2))
    zero = b.constant(0, x.type)
    left, right = b.pad(x, zero, low=(0, 0), high=(0, 2)), b.pad(y, zero, low=(0, 2), high=(0, 0))
    assert refused(b, left, right)  # integers
