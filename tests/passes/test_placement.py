"""What moves between operations: permutations into contractions, values onto one device."""

from __future__ import annotations

import numpy as np
from pass_graphs import Body, X, graph_of, names

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Value
from flamec.ir.passes.absorb_permutations import absorb_permutations
from flamec.ir.passes.place import eliminate_transfers, on_one_device
from flamec.ir.passes.simplify import simplify
from flamec.ir.types import CPU, Device, TensorType, float32, float64
from flamec.ir.verify import verify

# absorb_permutations -------------------------------------------------------------------------


def product(b: GraphBuilder, x: Value, y: Value, contract, batch=((), ())) -> Value:
    return b.dot_general(x, y, contract=contract, batch=batch)


def check_absorbed(body: Body, wanted: list[str], *shapes: tuple[int, ...]) -> None:
    graph = graph_of(body, *(TensorType(s, float64) for s in shapes))
    result = absorb_permutations(graph)
    assert names(result) == wanted
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s) for s in shapes]
    before, after = (evaluate_graph(g, arrays)[0][0] for g in (graph, result))
    np.testing.assert_allclose(after, before, rtol=1e-12)


def test_permuted_operands_and_results_are_absorbed() -> None:
    def linear(b: GraphBuilder, x: Value, w: Value) -> Value:
        return product(b, x, b.permute(w, axes=(1, 0)), ((1,), (0,)))

    def weight_gradient(b: GraphBuilder, x: Value, g: Value) -> Value:
        return b.permute(product(b, x, g, ((0,), (0,))), axes=(1, 0))

    def heads(b: GraphBuilder, q: Value, k: Value) -> Value:
        q, k = (b.permute(v, axes=(0, 2, 1, 3)) for v in (q, k))
        scores = product(b, q, k, ((3,), (3,)), ((0, 1), (0, 1)))
        return b.permute(scores, axes=(1, 0, 3, 2))

    def crossed(b: GraphBuilder, x: Value, y: Value) -> Value:
        return product(b, b.permute(x, axes=(1, 0, 2)), y, ((2,), (0,)))

    check_absorbed(linear, ["dot_general"], (5, 3), (4, 3))
    check_absorbed(weight_gradient, ["dot_general"], (5, 3), (5, 4))
    check_absorbed(heads, ["dot_general"], (2, 5, 3, 4), (2, 6, 3, 4))
    check_absorbed(crossed, ["permute", "dot_general"], (2, 3, 4), (4, 5))  # free axes swap


def test_a_product_that_is_also_read_unpermuted_is_not_computed_twice() -> None:
    def body(b: GraphBuilder, x: Value) -> Value:
        square = product(b, x, x, ((1,), (1,)))
        return b.add(square, b.permute(square, axes=(1, 0)))

    check_absorbed(body, ["dot_general", "permute", "add"], (3, 4))


def test_all_contractions_are_written_as_wanted_in_one_run() -> None:
    def body(b: GraphBuilder, x: Value, w: Value) -> Value:
        for _ in range(3):  # each depends on the one before
            product = b.dot_general(w, x, contract=((2,), (2,)), batch=((0,), (0,)))
            x = b.permute(product, axes=(2, 0, 1))
            x = b.permute(x, axes=(1, 0, 2))
        return x

    types = TensorType((2, 3, 4), float32), TensorType((2, 4, 4), float32)
    graph = simplify(graph_of(body, *types))
    found = absorb_permutations(graph)
    assert names(graph).count("permute") == 3 and names(found).count("permute") <= 1
    arrays = [np.random.default_rng(0).standard_normal(t.shape).astype(np.float32) for t in types]
    before, after = (evaluate_graph(g, arrays)[0][0] for g in (graph, found))
    np.testing.assert_allclose(before, after, rtol=1e-5)


def test_the_wanted_innermost_dimension_is_the_products() -> None:
    def body(b: GraphBuilder, x: Value, w: Value) -> Value:
        product = b.dot_general(x, w, contract=((2,), (2,)), batch=((0,), (0,)))
        return b.permute(product, axes=(2, 0, 1))

    types = TensorType((2, 3, 4), float32), TensorType((2, 5, 4), float32)
    graph = graph_of(body, *types)
    found = absorb_permutations(graph)
    (permute,) = (n for n in found.nodes if n.op.name == "permute")
    assert permute.attributes["axes"] == (1, 0, 2)
    arrays = [np.random.default_rng(0).standard_normal(t.shape).astype(np.float32) for t in types]
    before, after = (evaluate_graph(g, arrays)[0][0] for g in (graph, found))
    np.testing.assert_allclose(before, after, rtol=1e-5)


# devices -------------------------------------------------------------------------------------


def test_transfers_that_lead_nowhere_go() -> None:
    graph = graph_of(lambda b, x: b.exp(b.to_device(x, device=CPU)), X)
    assert names(eliminate_transfers(graph)) == ["exp"]


def test_a_program_over_two_devices_is_placed_on_one() -> None:
    gpu = Device("cuda", 1)
    b = GraphBuilder()
    x, y = b.input(X), b.input(X.with_device(gpu))
    count = b.add(x, b.full_like(1.0, X))
    total = b.add(y, b.to_device(count, device=gpu))
    graph = b.build([total, b.to_device(total, device=CPU)], {0: count})
    placed = verify(on_one_device(graph, gpu))
    assert graph.devices == (CPU, gpu) and placed.devices == (gpu,)
    assert [v.type.dtype for v in placed.outputs] == [v.type.dtype for v in graph.outputs]
    arrays = [np.arange(12, dtype=np.float32).reshape(3, 4) for _ in range(2)]
    for outcome in (evaluate_graph(placed, arrays), evaluate_graph(graph, arrays)):
        (first, second), updates = outcome
        np.testing.assert_array_equal(first, 2 * arrays[0] + 1)
        np.testing.assert_array_equal(second, first)
        np.testing.assert_array_equal(updates[0], arrays[0] + 1)
    assert "to_device" not in names(eliminate_transfers(placed))
