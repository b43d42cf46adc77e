"""Products of many rows that meet, by the order of their places: values, and which are so taken."""

from __future__ import annotations

import numpy as np
import pytest

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.passes import segment_products as products
from flamec.ir.passes.manager import run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.shape import Dim, SymbolicDim
from flamec.ir.types import DType, TensorType, float16, float32, float64, int16, int64

N = SymbolicDim.symbol("N")


def scatter(
    rows: tuple[Dim, ...],
    places: tuple[int, ...],
    inner: tuple[int, ...] = (),
    dtype: DType = float64,
) -> Graph:
    b = GraphBuilder()
    x = b.input(TensorType((*places, *inner), dtype))
    values = b.input(TensorType((*rows, *inner), dtype))
    indices = [b.input(TensorType(rows, int64)) for _ in places]
    return b.build([b.index_put(x, values, *indices, mode="prod")])


def segmented(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> Graph:
    """With lines of nine rows."""
    for name, value in (("JOINED", 3), ("STEPS", 2), ("LINE", 9), ("FEW_ROWS", 16)):
        monkeypatch.setattr(products, name, value)
    monkeypatch.setattr(products, "LONGEST", 9**3)
    typical = CodegenOptions(size_hints={"N": 64}).typical
    result = products.segment_products(graph, typical)
    modes = [n.attributes["mode"] for n in result.nodes if n.op.name == "index_put"]
    assert modes == ["any"]
    return result


@pytest.mark.parametrize(
    ("rows", "places", "inner"),
    [((200,), (5,), ()), ((50, 4), (3, 40), ()), ((90,), (1,), (2, 3)), ((45,), (1000,), ())],
)
def test_values(
    rows: tuple[int, ...],
    places: tuple[int, ...],
    inner: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(0)
    x, values = (1 + random.standard_normal((*s, *inner)) / 8 for s in (places, rows))
    values.flat[3], values.flat[-1] = -0.0, np.inf
    indices = [random.integers(-n, n, rows) for n in places]
    graph = segmented(scatter(rows, places, inner), monkeypatch)
    (found,), _ = evaluate_graph(graph, [x, values, *indices])
    wanted = x.copy()
    np.multiply.at(wanted, tuple(indices), values)
    np.testing.assert_allclose(found, wanted, 1e-12)


@pytest.mark.parametrize("dtype", [int16, int64])
def test_symbolic_sizes_and_integers(dtype: DType, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = segmented(scatter((N,), (2,), dtype=dtype), monkeypatch)
    random = np.random.default_rng(1)
    for size in (1, 9, 10, 81, 82, 700):
        x, values = (random.integers(-5, 6, s).astype(dtype.numpy) for s in (2, size))
        values[values == 0] = 1
        index = random.integers(0, 2, size)
        (found,), _ = evaluate_graph(graph, [x, values, index])
        np.multiply.at(x, index, values)
        np.testing.assert_array_equal(found, x)


def test_half_floats_are_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = segmented(scatter((100,), (1,), dtype=float16), monkeypatch)
    values = (1 + np.random.default_rng(0).standard_normal(100) / 32).astype(np.float16)
    x, index = np.ones(1, np.float16), np.zeros(100, np.int64)
    (found,), _ = evaluate_graph(graph, [x, values, index])
    np.testing.assert_array_equal(found, values.astype(np.float64).prod().astype(np.float16))


def test_which_rows_blocks_still_look_at() -> None:
    def text(rows: Dim, places: int, *inner: int) -> str:
        graph = run_passes(scatter((rows,), (places,), inner, float32), pipeline(), False)[0]
        plan = compile_graph(graph, CodegenOptions(size_hints={"N": 1 << 16})).plan
        return "".join(kernel.text for kernel in plan.kernels)

    for many in (text(1 << 16, 100), text(N, 100), text(1 << 14, 100, 64)):
        assert "owned" not in many and "flamec_sort_move" in many
    for few in (text(1000, 100), text(2048, 4096, 1024)):
        assert "owned" in few and "sort" not in few
