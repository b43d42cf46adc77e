"""Scans of long rows by lines: values, and which are divided."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import flamec
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.compiled_function import CompiledFunction
from flamec.config import default_options
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.op import OpKind, lookup
from flamec.ir.passes import divide_scans
from flamec.ir.shape import Dim, SymbolicDim
from flamec.ir.types import DType, TensorType, bfloat16, float32, float64, int64

N = SymbolicDim.symbol("N")


def scan(name: str, shape: tuple[Dim, ...], axis: int, dtype: DType = float64) -> Graph:
    b = GraphBuilder()
    x = b.input(TensorType(shape, dtype))
    return b.build([getattr(b, name)(x, axis=axis)])


def recurrence(shape: tuple[Dim, ...], axis: int, dtype: DType = float64) -> Graph:
    b = GraphBuilder()
    x, factors = (b.input(TensorType(shape, dtype)) for _ in range(2))
    return b.build([b.recurrence(x, factors, axis=axis)])


def divided(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> Graph:
    monkeypatch.setattr(divide_scans, "LONG_ROW", 40)
    monkeypatch.setattr(divide_scans, "LINE", 4)
    typical = CodegenOptions(size_hints={"N": 64}).typical
    result = divide_scans.divide_scans(graph, typical)
    assert sum(node.op.kind is OpKind.SCAN for node in result.nodes) >= 2
    return result


@pytest.mark.parametrize("name", ["cumsum", "cumprod"])
@pytest.mark.parametrize(
    ("shape", "axis"), [((43,), 0), ((40, 2), 0), ((2, 173, 3), 1), ((2, 1, 52), 2)]
)
def test_lines_give_what_rows_give(
    name: str, shape: tuple[int, ...], axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Infinities and NaNs spoil what follows them alone, and zeros keep their signs."""
    x = 1 + np.random.default_rng(0).standard_normal(shape) / 8
    along = np.moveaxis(x, axis, 0)
    along[0] = -0.0
    for place, value in ((17, np.inf), (30, np.nan)) if name == "cumsum" else ((30, np.nan),):
        along[place].flat[0] = value
    graph = scan(name, shape, axis)
    (found,), _ = evaluate_graph(divided(graph, monkeypatch), [x])
    wanted = getattr(np, name)(x, axis=axis)
    np.testing.assert_allclose(found, wanted, 1e-12, 1e-12)
    np.testing.assert_array_equal(np.signbit(found[wanted == 0]), np.signbit(wanted[wanted == 0]))


@pytest.mark.parametrize(("shape", "axis"), [((43,), 0), ((40, 2), 0), ((2, 173, 3), 1)])
def test_lines_give_recurrences_of_rows(
    shape: tuple[int, ...], axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    x, factors = rng.standard_normal(shape), rng.uniform(-1, 1, shape)
    graph = recurrence(shape, axis)
    wanted, _ = evaluate_graph(graph, [x, factors])
    found, _ = evaluate_graph(divided(graph, monkeypatch), [x, factors])
    np.testing.assert_allclose(found[0], wanted[0], 1e-12, 1e-12)
    symbolic = tuple(N if i == axis else size for i, size in enumerate(shape))
    by_lines = divided(recurrence(symbolic, axis), monkeypatch)
    for size in (1, 3, 4, shape[axis]):
        part = tuple(slice(size) if i == axis else slice(None) for i in range(len(shape)))
        found, _ = evaluate_graph(by_lines, [x[part], factors[part]])
        np.testing.assert_allclose(found[0], wanted[0][part], 1e-12, 1e-12)


@pytest.mark.parametrize("name", ["cummax", "cummin"])
@pytest.mark.parametrize(("shape", "axis"), [((43,), 0), ((40, 2), 0), ((2, 173, 3), 1)])
def test_lines_give_extremes_of_rows_and_their_places(
    name: str, shape: tuple[int, ...], axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latest of equal elements, and NaN from the first on."""
    x = np.round(3 * np.random.default_rng(0).standard_normal(shape))
    along = np.moveaxis(x, axis, 0)
    along[30].flat[0], along[33].flat[0] = np.nan, np.nan

    def graph_of(size: Dim) -> Graph:
        b = GraphBuilder()
        sizes = tuple(size if i == axis else given for i, given in enumerate(shape))
        y = b.input(TensorType(sizes, float64))
        return b.build([*getattr(b, name)(y, axis=axis)])

    for size in (shape[axis], N):
        graph = graph_of(size)
        by_lines = divided(graph, monkeypatch)
        for count in (1, 3, 4, 32) if size is N else (size,):
            part = x[tuple(slice(count) if i == axis else slice(None) for i in range(x.ndim))]
            (wanted, _), (found, _) = (evaluate_graph(g, [part]) for g in (graph, by_lines))
            for have, want in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(have, want)


def test_symbolic_sizes_and_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    by_lines = divided(scan("cumsum", (N,), 0, int64), monkeypatch)
    for size in (1, 4, 63, 200):
        x = np.arange(size) - 50
        (found,), _ = evaluate_graph(by_lines, [x])
        np.testing.assert_array_equal(found, x.cumsum())


def test_half_floats_are_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).standard_normal(77).astype(bfloat16.numpy)
    graph = scan("cumsum", (77,), 0, bfloat16)
    (found,), _ = evaluate_graph(divided(graph, monkeypatch), [x])
    wanted = x.astype(np.float64).cumsum().astype(np.float32).astype(bfloat16.numpy)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", ["cumsum", "cumprod", "cummax", "recurrence"])
def test_long_rows_of_programs_for_gpus_are_lines_and_others_are_not(name: str) -> None:
    def launches(*shape: Dim, hint: int = 1 << 20) -> int:
        options = CodegenOptions(size_hints={"N": hint})
        b = GraphBuilder()
        operands = [b.input(TensorType(shape, float32)) for _ in range(1 + (name == "recurrence"))]
        graph = b.build(b.apply_all(lookup(name), operands, {"axis": len(shape) - 1}))
        return len(compile_graph(graph, options).plan.actions)

    assert launches(1 << 20) == 3
    assert launches(N) == launches(2, N) == 4  # and what is left of a line
    assert launches(4096, 1024) == launches(N, hint=1 << 12) == launches(100, N) == 1


def logcumsumexp(*shape: int) -> Graph:
    options = replace(default_options(), backend="evaluate")
    compiled = CompiledFunction(lambda x: x.logcumsumexp(-1), options)
    program: Any = compiled.compile_variant((flamec.zeros(*shape, dtype=flamec.float64),), {})
    graph: Graph = program.prepared.optimized
    return graph


def test_lines_of_logcumsumexp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing, then numbers; in other rows an infinity behind what exp overflows for."""
    x = 5 * np.random.default_rng(0).standard_normal((4, 43))
    x[0, :9] = -np.inf
    x[1, 1], x[1, 2], x[2, 1], x[2, 21], x[3, 30] = 800, np.inf, 800, np.inf, np.nan
    by_lines = divided(logcumsumexp(4, 43), monkeypatch)
    (found,), _ = evaluate_graph(by_lines, [x])
    with np.errstate(invalid="ignore"):
        wanted = np.logaddexp.accumulate(x, 1)
    np.testing.assert_allclose(found, wanted, 1e-12, 1e-12)


def test_launches_of_logcumsumexp() -> None:
    """One long row, and many."""
    counts = [
        len(compile_graph(logcumsumexp(*shape), CodegenOptions()).plan.actions)
        for shape in ((1 << 20,), (100, 1 << 15))
    ]
    assert counts == [7, 2]
