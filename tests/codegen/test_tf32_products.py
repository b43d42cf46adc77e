"""Operands of large products in tf32: the contracted axis comes last, whatever it was."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import flamec.ir.ops  # noqa: F401
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.passes import contract_contiguous as module
from flamec.ir.passes.contract_contiguous import contract_contiguous
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.plan import KernelSource
from flamec.ir.types import DType, TensorType, bfloat16, float32
from flamec.runtime.cuda.tensor_map import TFLOAT32
from flamec.runtime.kernel_cache import KernelCache

SHAPES = [((5, 3), (3, 7), (1, 0)), ((3, 5), (3, 7), (0, 0)), ((5, 3), (7, 3), (1, 1))]


def product(
    left: tuple[int, ...], right: tuple[int, ...], axes: tuple[int, int], dtype: DType = float32
) -> Graph:
    b = GraphBuilder()
    x, y = (b.input(TensorType(shape, dtype)) for shape in (left, right))
    contract = ((axes[0],), (axes[1],))
    return b.build([b.dot_general(x, y, contract=contract, batch=((), ()))])


@pytest.mark.parametrize(("left", "right", "axes"), SHAPES)
def test_contracted_axes_are_last(
    left: tuple[int, ...],
    right: tuple[int, ...],
    axes: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LARGE", 1)
    graph = product(left, right, axes)
    made = contract_contiguous(graph)
    dot = made.nodes[-1]
    assert dot.attributes["contract"] == ((1,), (1,))
    assert sum(n.op.name == "convert" for n in eliminate_dead_code(made).nodes) == [
        axes[0] != 1,
        axes[1] != 1,
    ].count(True)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(v.type.shape).astype(np.float32) for v in graph.inputs]
    (before,), (after,) = (evaluate_graph(g, arrays)[0] for g in (graph, made))
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)


def test_batches_follow_their_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 1)
    b = GraphBuilder()
    x = b.input(TensorType((3, 2, 5), float32))  # depth, batch, rows
    y = b.input(TensorType((2, 3, 7), float32))  # batch, depth, columns
    graph = b.build([b.dot_general(x, y, contract=((0,), (1,)), batch=((1,), (0,)))])
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(v.type.shape).astype(np.float32) for v in graph.inputs]
    (found,) = evaluate_graph(contract_contiguous(graph), arrays)[0]
    np.testing.assert_allclose(found, np.einsum("dbr,bdc->brc", *arrays), rtol=1e-5, atol=1e-6)


def test_small_products_and_other_types_read_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = product((512, 300), (300, 512), (1, 0))
    assert contract_contiguous(graph) is graph
    monkeypatch.setattr(module, "LARGE", 1)
    graph = product((5, 3), (3, 7), (1, 0), bfloat16)
    assert contract_contiguous(graph) is graph


def test_only_tf32_on_warp_groups_copies() -> None:
    graph = product((1024, 1024), (1024, 1024), (1, 0))

    def kinds(precision: str, target: str) -> list[str]:
        options = CodegenOptions(target=target, float32_products=precision)
        return [step.kind for step in compile_graph(graph, options).plan.steps]

    assert kinds("tf32", "sm_90") == ["pointwise", "matmul"]
    assert (
        kinds("tf32x3", "sm_90") == kinds("ieee", "sm_90") == kinds("tf32", "sm_80") == ["matmul"]
    )


def test_operands_in_tf32_are_rounded_by_the_copy_engine(tmp_path: Path) -> None:
    graph = product((1024, 1024), (1024, 1024), (1, 1))

    def kernel(precision: str) -> KernelSource:
        return compile_graph(graph, CodegenOptions(float32_products=precision)).plan.kernels[0]

    assert kernel("tf32x3").rounded == ()
    source = kernel("tf32")
    assert source.rounded == ("d0", "d1")
    assert KernelSource.from_json(source.to_json()) == source
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    from flamec.runtime.cuda.triton_compiler import build_kernel

    maps = build_kernel(source, "sm_90", KernelCache(tmp_path)).tensor_maps
    assert [m.data_type == TFLOAT32 for m in maps] == [True, True, False]
