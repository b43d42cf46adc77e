"""Classes of sizes on a GPU share kernels: those of equal text, and what they are lowered to.

Nothing is run: texts of kernels and runs of lowering are counted on a simulated device.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import simulated_gpu
from planning_gpu import CompilingGpu

import flamec
from flamec import cuda_backend
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton import compile_graph
from flamec.compiled_function import CompiledFunction
from flamec.config import default_options
from flamec.gpu import Gpu
from flamec.ir.graph import Graph
from flamec.prepared import Prepared
from flamec.sized_runner import SizedRunner

WIDTH, HEADS = 64, 4


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Prepared]:
    """A transformer's block over batches and lengths, on a GPU that runs nothing."""
    simulated_gpu.install(monkeypatch)
    device = CompilingGpu(tmp_path)
    monkeypatch.setattr(cuda_backend, "device", lambda index, options: device)
    monkeypatch.setattr(cuda_backend, "_tunings", {})
    monkeypatch.setattr(simulated_gpu.SimulatedGpu, "prepare", Gpu.prepare)
    made: list[Prepared] = []

    class Recording(CompiledFunction):
        def _make_own(self, graph: Graph, symbols: tuple[str, ...]) -> Prepared:
            made.append(super()._make_own(graph, symbols))
            return made[-1]

    first, second = (flamec.empty(WIDTH, n * WIDTH, device="cuda") for n in (3, 1))

    def block(x: flamec.Tensor) -> flamec.Tensor:
        batch, length, width = x.shape
        heads = (flamec.nn.functional.layer_norm(x, (WIDTH,)) @ first).reshape(
            batch, length, 3, HEADS, width // HEADS
        )
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        y = flamec.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + y.transpose(1, 2).reshape(batch, length, width) @ second

    function = Recording(block, default_options(cache_folder=tmp_path))
    for shape in ((3, 5), (4, 7)):
        function.compile_variant((flamec.empty(*shape, WIDTH, device="cuda"),), {})
    yield made[-1]


def many_sizes() -> list[tuple[int, int]]:
    """50 batch sizes and lengths in random order, 0 and 1 included."""
    rng = random.Random(0)
    return list(zip(rng.sample(range(50), 50), rng.sample(range(50), 50), strict=True))


def source(invocation: Any) -> str:
    return str(invocation.bound.plan.source)


def test_fifty_sizes_have_few_texts_of_kernels(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowered: list[Graph] = []
    plain = compile_graph.lower_graph

    def counted(graph: Graph, options: CodegenOptions) -> compile_graph.LoweredProgram:
        lowered.append(graph)
        return plain(graph, options)

    monkeypatch.setattr(compile_graph, "lower_graph", counted)
    for sizes in many_sizes():
        prepared.bind(sizes)
    plans = [program.plan for program in prepared.sized.values()]
    texts = {repr(kernel) for plan in plans if plan for kernel in plan.kernels}
    assert len(plans) >= 20 and len(texts) <= 30  # of 144 kernels
    assert len(lowered) <= 9  # 3 for each of both sizes


def test_equal_sizes_have_equal_texts_whatever_was_met_before(prepared: Prepared) -> None:
    runner = prepared.runner
    assert isinstance(runner, SizedRunner)
    sizes = many_sizes()[:12]
    texts = []
    for order in (sizes, sizes[::-1]):
        again = SizedRunner(
            prepared, runner._symbols, runner.memory, runner._make, runner._make_general
        )
        texts.append({s: source(again.bind(s)) for s in order})
    assert texts[0] == texts[1]
