"""Sums of products with the latest factor outside: values, what waits in memory, what is left."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from flamec.codegen.compile_graph import CodegenOptions, compile_graph
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph, Value
from flamec.ir.passes.differentiate import differentiate_graph
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.passes.factor_gradients import factor_gradients
from flamec.ir.passes.manager import run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.types import CPU, DType, TensorType, bfloat16, float32, float64

ROWS, WIDTH = 256, 64


def gelu(b: GraphBuilder, x: Value) -> Value:
    def number(value: float) -> Value:
        return b.full(value=value, shape=(), dtype=x.type.dtype, device=CPU)

    cdf = b.mul(number(0.5), b.add(number(1.0), b.erf(b.mul(x, number(0.5**0.5)))))
    return b.mul(x, cdf)


def two_layers(dtype: DType, count: int = 1) -> Graph:
    """Sums of gelu between matrices, and the gradients of all inputs."""
    b = GraphBuilder()
    x = b.input(TensorType((ROWS, WIDTH), dtype))
    weights = [b.input(TensorType((WIDTH, WIDTH), dtype)) for _ in range(2 * count)]
    y = x
    for first, second in zip(weights[::2], weights[1::2], strict=True):
        inner = b.dot_general(y, first, contract=((1,), (0,)), batch=((), ()))
        y = b.dot_general(gelu(b, inner), second, contract=((1,), (0,)), batch=((), ()))
    joint = differentiate_graph(b.build([b.sum(b.mul(y, y), axes=(0, 1))]), range(1 + 2 * count))
    return run_passes(joint, pipeline(), True)[0]


def names(graph: Graph) -> Counter[str]:
    return Counter(node.op.name for node in eliminate_dead_code(graph).nodes)


def test_values_are_those_of_the_chain_rule() -> None:
    graph = two_layers(float64)
    factored = factor_gradients(graph)
    assert factored is not graph
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=tuple(map(int, v.type.shape))) for v in graph.inputs]
    for a, b in zip(*(evaluate_graph(g, arrays)[0] for g in (factored, graph)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11 * np.abs(b).max())
    before, after = names(graph), names(factored)
    assert after["mul"] < before["mul"] and after["add"] == before["add"]


def test_one_value_of_gelu_waits_for_its_derivative() -> None:
    """Beside the result, which the gradient of a matrix needs; the argument does not wait."""
    wide = ROWS * WIDTH * 4

    def arena(layers: int, strict: bool) -> int:
        plan = compile_graph(two_layers(float32, layers), CodegenOptions(strict=strict)).plan
        return plan_memory(plan, {}).peak_bytes

    assert arena(7, strict=False) - arena(6, strict=False) == 3 * wide  # and what goes into it
    assert arena(7, strict=True) - arena(6, strict=True) > 3 * wide


def sums(*terms: tuple[str, ...], shared: bool = False, name: str = "add") -> Graph:
    """A sum of two products of named values: "g" comes from a long way, "r" is a row."""
    b = GraphBuilder()
    x, y, z = (b.input(TensorType((4, 3), float32)) for _ in range(3))
    row = b.input(TensorType((3,), float32))
    late = b.tanh(b.tanh(b.tanh(b.dot_general(x, x, contract=((0,), (0,)), batch=((), ())))))
    gradient = b.dot_general(x, late, contract=((1,), (0,)), batch=((), ()))
    known = {"g": gradient, "x": b.exp(x), "y": b.exp(y), "z": z, "r": row, "b": b.tanh(gradient)}
    products = []
    for first, *rest in terms:
        value = known[first]
        for other in rest:
            value = b.neg(value) if other == "-" else b.mul(value, known[other])
        products.append(value)
    return b.build([getattr(b, name)(*products), *(products if shared else ())])


@pytest.mark.parametrize("name", ["add", "sub"])
@pytest.mark.parametrize(
    "terms",
    [
        (("g", "x"), ("g", "y", "z")),
        (("x", "g"), ("z", "g", "r")),
        (("g", "x", "-"), ("y", "g")),
        (("g", "r"), ("g", "y")),
    ],
)
def test_the_latest_factor_is_outside(terms: tuple[tuple[str, ...], ...], name: str) -> None:
    graph = sums(*terms, name=name)
    factored = factor_gradients(graph)
    last = factored.outputs[0].node
    assert last is not None and last.op.name == "mul"
    assert last.inputs[0].node is not None and last.inputs[0].node.op.name == "dot_general"
    assert names(factored)["mul"] < names(graph)["mul"]
    rng = np.random.default_rng(1)
    shapes = [tuple(map(int, v.type.shape)) for v in graph.inputs]
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    (found,), (wanted,) = (evaluate_graph(g, arrays)[0] for g in (factored, graph))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("terms", "shared"),
    [
        ((("g", "x"), ("b", "y")), False),  # nothing in common
        ((("g", "x"), ("g", "y")), True),  # the products are results themselves
        ((("g", "b"), ("g", "x")), False),  # a factor comes later
        ((("x", "y"), ("x", "z")), False),  # y is not there before x
        ((("g",), ("g", "y")), False),  # not a product
    ],
)
def test_what_stays(terms: tuple[tuple[str, ...], ...], shared: bool) -> None:
    graph = sums(*terms, shared=shared)
    assert factor_gradients(graph) is graph


def test_halves_are_rounded_where_they_were() -> None:
    graph = two_layers(bfloat16)
    assert factor_gradients(graph) is graph
