"""Derivatives of elementwise ops where mathematics leaves a choice: kinks, ties, zeros."""

from __future__ import annotations

import numpy as np
import scipy.special

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.passes.differentiate import differentiate_graph
from flamec.ir.types import TensorType, bool_, float32, float64, int64


def graph_of(name: str, shapes: tuple[tuple[int, ...], ...]) -> Graph:
    b = GraphBuilder()
    operands = [b.input(TensorType(shape, float64)) for shape in shapes]
    return b.build([getattr(b, name)(*operands)])


def run(graph: Graph, arrays: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    return evaluate_graph(graph, arrays)[0]


def gradients_at(name: str, *points: list[float], order: int = 1) -> list[list[float]]:
    """The gradient of the sum by each operand; of order 2 that of the first operand's gradient."""
    arrays = [np.array(p) for p in points]
    graph = graph_of(name, tuple(a.shape for a in arrays))
    wrt = list(range(len(arrays)))
    for k in range(order):
        # the output to differentiate is the gradient by the first operand
        graph = differentiate_graph(graph, wrt, [0 if k == 0 else len(graph.outputs) - len(wrt)])
        arrays.append(np.ones(graph.inputs[-1].type.shape))
    return [list(g) for g in run(graph, arrays)[-len(wrt) :]]


def test_kinks_follow_pytorch() -> None:
    nan = float("nan")
    assert gradients_at("abs", [-2.0, 0.0, 3.0]) == [[-1, 0, 1]]
    assert gradients_at("maximum", [1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == [[0.5, 0, 1], [0.5, 1, 0]]
    assert gradients_at("minimum", [1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == [[0.5, 1, 0], [0.5, 0, 1]]
    assert gradients_at("maximum", [nan, 1.0], [1.0, nan]) == [[1, 1], [1, 1]]
    assert gradients_at("copysign", [0.0, 2.0, -2.0], [-1.0, -1.0, -1.0])[0] == [0, -1, 1]
    assert gradients_at("floor", [0.5]) == [[0]]


def test_pow_at_zero() -> None:
    zero, inf = [0.0] * 4, float("inf")
    by_x, by_y = gradients_at("pow", zero, [0.0, 1.0, 2.0, 0.5])
    assert by_x == [0, 1, 0, inf]
    assert by_y == [0, 0, 0, 0]
    assert gradients_at("pow", zero[:3], [0.0, 1.0, 2.0], order=2)[0] == [0, 0, 2]
    # the mixed derivative x^(y-1) + y x^(y-1) log x at y = 0
    assert gradients_at("pow", [2.0], [0.0], order=2)[1] == [0.5]


def test_where_sends_the_gradient_to_the_chosen_operand() -> None:
    b = GraphBuilder()
    condition = b.input(TensorType((3,), bool_))
    x, y = b.input(TensorType((3,), float64)), b.input(TensorType((), float64))
    graph = differentiate_graph(b.build([b.where(condition, x, y)]), [1, 2])
    mask = np.array([True, False, False])
    _, dx, dy = run(graph, [mask, np.zeros(3), np.array(5.0), np.array([1.0, np.inf, 4.0])])
    assert dx.tolist() == [1, 0, 0]
    assert dy == np.inf


def test_convert_converts_the_gradient_back() -> None:
    b = GraphBuilder()
    x = b.input(TensorType((2,), float64))
    graph = differentiate_graph(b.build([b.convert(x, dtype=float32)]), [0])
    assert graph.outputs[1].type.dtype is float64
    b = GraphBuilder()
    x = b.input(TensorType((2,), float64))
    rounded = b.convert(b.convert(x, dtype=int64), dtype=float64)
    graph = differentiate_graph(b.build([rounded]), [0])
    assert run(graph, [np.array([1.5, 2.0]), np.ones(2)])[1].tolist() == [0, 0]


def test_derivatives_of_trigamma_of_any_order() -> None:
    points = [-1.3, 0.3, 2.5, 20.0]
    (fourth,) = gradients_at("polygamma1", points, order=3)
    wanted = scipy.special.polygamma(4, np.array([0.7, *points[1:]]))
    wanted[0] -= 24 / (-0.3) ** 5 + 24 / (-1.3) ** 5  # recurrence 6.4.6 of Abramowitz, Stegun
    np.testing.assert_allclose(fourth, wanted, rtol=1e-9)
