"""Operands of large products in tf32: the contracted axis comes last, whatever it was."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.codegen.triton.product_schedule import ProductSchedule
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.passes import contract_contiguous as module
from flamec.ir.passes.contract_contiguous import contract_contiguous
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.plan import KernelSource
from flamec.ir.types import Device, DType, TensorType, bfloat16, float32
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


def copy_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it always paid."""
    monkeypatch.setattr(module, "LARGE", 1)
    monkeypatch.setattr(module, "REUSE", 0)
    monkeypatch.setattr(module, "REUSE_ALONE", 0)


@pytest.mark.parametrize(("left", "right", "axes"), SHAPES)
def test_contracted_axes_are_last(
    left: tuple[int, ...],
    right: tuple[int, ...],
    axes: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy_everything(monkeypatch)
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
    copy_everything(monkeypatch)
    b = GraphBuilder()
    x = b.input(TensorType((3, 2, 5), float32))  # depth, batch, rows
    y = b.input(TensorType((2, 3, 7), float32))  # batch, depth, columns
    graph = b.build([b.dot_general(x, y, contract=((0,), (1,)), batch=((1,), (0,)))])
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(v.type.shape).astype(np.float32) for v in graph.inputs]
    (found,) = evaluate_graph(contract_contiguous(graph), arrays)[0]
    np.testing.assert_allclose(found, np.einsum("dbr,bdc->brc", *arrays), rtol=1e-5, atol=1e-6)


def test_several_axes_are_copied_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the gradient of a convolution's input reads the kernel: across, and mirrored."""
    copy_everything(monkeypatch)
    b = GraphBuilder()
    x = b.input(TensorType((4, 3, 5), float32))  # rows, taps, depth
    y = b.input(TensorType((5, 3, 7), float32))  # depth, taps, columns
    mirrored = b.slice(y, starts=(0, 2, 0), sizes=(5, 3, 7), steps=(1, -1, 1))
    graph = b.build([b.dot_general(x, mirrored, contract=((1, 2), (1, 0)), batch=((), ()))])
    made = contract_contiguous(graph)
    assert made.nodes[-1].attributes["contract"] == ((1, 2), (1, 2))
    assert [n.op.name for n in made.nodes].count("convert") == 1
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal(v.type.shape).astype(np.float32) for v in graph.inputs]
    (found,) = evaluate_graph(made, arrays)[0]
    wanted = np.einsum("rtd,dtc->rc", arrays[0].astype(float), arrays[1][:, ::-1].astype(float))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_views_are_copied_only_where_memory_lies_across(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where they lie right already, and not where one operand cannot be copied."""
    copy_everything(monkeypatch)
    b = GraphBuilder()
    x, y = (b.input(TensorType(shape, float32)) for shape in ((5, 9), (7, 9)))
    across = b.permute(y, axes=(1, 0))  # its first axis lies side by side
    graph = b.build([b.dot_general(x, across, contract=((1,), (0,)), batch=((), ()))])
    assert contract_contiguous(graph) is graph
    b = GraphBuilder()
    x, y = (b.input(TensorType(shape, float32)) for shape in ((11, 6), (9, 5)))
    windows = b.windows(x, axes=(0,), counts=(9,), sizes=(3,), steps=(1,), dilations=(1,))
    graph = b.build([b.dot_general(windows, y, contract=((0,), (0,)), batch=((), ()))])
    assert contract_contiguous(graph) is graph  # a copy would be three times as large


def test_copies_are_made_where_they_pay() -> None:
    """Gradients of weights: of many, a pass over the operands takes less time than it saves."""
    few, many = (product((8192, n), (8192, n), (0, 0)) for n in (256, 1024))
    assert contract_contiguous(few) is few
    assert contract_contiguous(many).nodes[-1].attributes["contract"] == ((1,), (1,))


def test_small_products_and_other_types_read_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = product((512, 300), (300, 512), (1, 0))
    assert contract_contiguous(graph) is graph
    copy_everything(monkeypatch)
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


def gradient_of_kernel(channels: int, outputs: int = 128) -> Graph:
    """Of a 3x3 convolution of 28 x 28 places, from arrays with channels last."""
    b = GraphBuilder()
    device = Device("cuda")
    x, g = (
        b.input(TensorType((32, 28, 28, last), float32, device)) for last in (channels, outputs)
    )
    borders, zero = (0, 1, 1, 0), b.full_like(0, TensorType((), float32, device))
    padded = b.pad(x, zero, low=borders, high=borders)
    sizes = {"counts": (28, 28), "sizes": (3, 3), "steps": (1, 1), "dilations": (1, 1)}
    windows = b.windows(padded, axes=(1, 2), **sizes)
    depth = (0, 1, 2)
    return b.build([b.dot_general(g, windows, contract=(depth, depth), batch=((), ()))])


def chosen(
    graph: Graph, precision: str, target: str = "sm_90"
) -> tuple[ProductSchedule, KernelSource]:
    """The schedule of a program's product, and its kernel."""
    made = compile_graph(graph, CodegenOptions(target=target, float32_products=precision))
    (schedule,) = (c.schedule for c in made.choices if isinstance(c.schedule, ProductSchedule))
    (source,) = (k for k in made.plan.kernels if "tl.dot(" in k.text)
    return schedule, source


def ptx_of(source: KernelSource, folder: Path) -> str:
    """Machine text of a kernel whose arrays come 16 bytes at a time; skips without Triton."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    from flamec.runtime.cuda.triton_compiler import build_kernel

    text = build_kernel(source, "sm_90", KernelCache(folder)).texts["ptx"]
    copies = [line for line in text.splitlines() if "cp.async.c" in line and "shared" in line]
    assert copies and all(".cg." in line for line in copies)
    return text


def test_gradients_of_kernels_are_loaded_as_they_lie(tmp_path: Path) -> None:
    """Both operands lie across: bands of rows, for instructions that read any order."""
    graph = gradient_of_kernel(channels=32)
    schedule, source = chosen(graph, "tf32")
    assert schedule.bands > 1 and schedule.rows // schedule.bands < 64 and not schedule.tma
    for other in (("tf32x3", "sm_90"), ("tf32", "sm_80")):
        assert chosen(graph, *other)[0].bands == 1
    text = ptx_of(source, tmp_path)
    assert "mma.sync" in text and "wgmma" not in text


def test_windows_pass_through_registers_where_a_copy_of_the_other_operand_pays(
    tmp_path: Path,
) -> None:
    graph = gradient_of_kernel(channels=128)
    schedule, source = chosen(graph, "tf32")
    assert schedule.in_registers and schedule.tma
    for other in (("tf32x3", "sm_90"), ("tf32", "sm_80")):
        assert not chosen(graph, *other)[0].in_registers
    text = ptx_of(source, tmp_path)
    assert "wgmma.mma_async" in text and "cvt.rna.tf32" in text and "mma.sync" not in text


def test_only_one_operand_is_copied_where_the_other_cannot_be() -> None:
    """The gradient, which is copied, becomes the left operand whichever side it was on."""
    b = GraphBuilder()
    g = b.input(TensorType((4096, 512), float32))
    x = b.input(TensorType((4096 + 8, 512), float32))
    windows = b.windows(x, axes=(0,), counts=(4096,), sizes=(9,), steps=(1,), dilations=(1,))
    depth = ((0,), (0,))
    for operands in ((g, windows), (windows, g)):
        graph = b.build([b.dot_general(*operands, contract=depth, batch=((), ()))])
        made = eliminate_dead_code(contract_contiguous(graph))
        (dot,) = (n for n in made.nodes if n.op.name == "dot_general")
        assert dot.attributes["contract"] == ((1,), (0,))
        assert dot.inputs[1].type == windows.type
        assert made.outputs[0].type == graph.outputs[0].type


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
