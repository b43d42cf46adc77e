"""Convolutions and matrix products are multiplied as each is told, forward and backward."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import flamec
from flamec.codegen.compile_graph import compile_graph as compile_for_c
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.codegen.triton.part_key import part_key
from flamec.compiled_function import CompiledFunction
from flamec.config import default_options
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.passes import contract_contiguous
from flamec.ir.passes.absorb_permutations import absorb_permutations
from flamec.ir.passes.differentiate import differentiate_graph
from flamec.ir.passes.normalize_contractions import normalize_contractions
from flamec.ir.types import TensorType, float64
from flamec.nn import functional as F

DEFAULT = CodegenOptions(float32_products="tf32x3", float32_convolutions="tf32")
IMAGE = (4, 64, 14, 15)


def plain(x: Any, w: Any) -> Any:
    return x.flatten(2).mT @ w


LAYERS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "three by three": (lambda x, w: F.conv2d(x, w, padding=1), (48, 64, 3, 3)),
    "one by one": (lambda x, w: F.conv2d(x, w), (48, 64, 1, 1)),
    "strides": (lambda x, w: F.conv2d(x, w, stride=2, padding=1), (48, 64, 3, 3)),
    "groups": (lambda x, w: F.conv2d(x, w, groups=2), (48, 32, 3, 3)),
    "many groups": (lambda x, w: F.conv2d(x, w, groups=16), (48, 4, 3, 3)),
    "transposed": (lambda x, w: F.conv_transpose2d(x, w, stride=2), (64, 48, 3, 3)),
    "few channels": (lambda x, w: F.conv2d(x[:, :3], w, stride=2, padding=3), (32, 3, 7, 7)),
}


def graph_of(layer: Callable[..., Any], *shapes: tuple[int, ...]) -> Graph:
    """A layer's value and gradients."""

    def step(seed: Any, *operands: Any) -> Any:
        y = layer(*operands)
        return y, *flamec.autograd.grad(y, operands, seed)

    operands = [flamec.ones(*shape, requires_grad=True) for shape in shapes]
    seed = flamec.ones(*layer(*operands).shape)
    compiled = CompiledFunction(step, replace(default_options(), backend="evaluate"))
    program: Any = compiled.compile_variant((seed, *operands), {})
    graph: Graph = program.prepared.optimized
    return graph


def precisions(graph: Graph, options: CodegenOptions = DEFAULT) -> Counter[str]:
    """How often each is in the text of the graph's kernels."""
    text = "\n".join(k.text for k in compile_graph(graph, options).plan.kernels)
    return Counter(re.findall(r'input_precision="(\w+)"', text))


@pytest.mark.parametrize("large", [False, True], ids=["small", "as if large"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_product_of_a_convolution_follows_its_switch(
    name: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where operands are put in order for TF32."""
    if large:
        monkeypatch.setattr(contract_contiguous, "LARGE", 1)
        monkeypatch.setattr(contract_contiguous, "REUSE", 0)
    layer, shape = LAYERS[name]
    graph = graph_of(layer, IMAGE, shape)
    found = precisions(graph)
    assert set(found) == {"tf32"} and found["tf32"] >= 3
    exact = precisions(graph, replace(DEFAULT, float32_convolutions="tf32x3"))
    assert set(exact) == {"tf32x3"}
    other = replace(DEFAULT, float32_products="tf32", float32_convolutions="tf32x3")
    assert set(precisions(graph, other)) == {"tf32x3"}


def test_matrix_products_follow_theirs() -> None:
    graph = graph_of(plain, IMAGE, (64, 48))
    assert set(precisions(graph)) == {"tf32x3"}
    assert set(precisions(graph, replace(DEFAULT, float32_products="tf32"))) == {"tf32"}


def test_a_network_has_both() -> None:
    def network(x: Any, w: Any, v: Any) -> Any:
        return F.conv2d(x, w, padding=1).relu().mean((2, 3)) @ v

    layer = precisions(graph_of(lambda x, w: F.conv2d(x, w, padding=1), IMAGE, (48, 64, 3, 3)))
    found = precisions(graph_of(network, IMAGE, (48, 64, 3, 3), (48, 10)))
    assert found["tf32"] == layer["tf32"] and found["tf32x3"] == 3


def test_equal_products_of_two_precisions_are_two_kernels() -> None:
    """With schedules of their own."""

    def both(x: Any, w: Any, v: Any) -> Any:
        y = F.conv2d(x, w).permute(0, 2, 3, 1)
        return y + x.permute(0, 2, 3, 1) @ v

    graph = graph_of(both, IMAGE, (64, 64, 1, 1), (64, 64))
    assert set(precisions(graph)) == {"tf32", "tf32x3"}
    made = compile_graph(graph_of(lambda x, w: F.conv2d(x, w), IMAGE, (64, 64, 1, 1)), DEFAULT)
    parts = [p for k in made.kernels for p in k.parts if p.program.contraction is not None]
    exact = replace(DEFAULT, float32_convolutions="tf32x3")
    for part in parts:
        assert part.program.contraction is not None
        assert part.program.contraction.part_of == "convolution"
        plainly = replace(part.program, contraction=replace(part.program.contraction, part_of=""))
        other = replace(part, program=plainly)
        assert part_key(part, DEFAULT) != part_key(other, DEFAULT)
        assert part_key(part, exact) == part_key(other, exact) == part_key(other, DEFAULT)


def test_programs_for_a_cpu_know_nothing_of_it() -> None:
    graph = graph_of(LAYERS["three by three"][0], IMAGE, (48, 64, 3, 3))
    first, second = (
        compile_for_c(graph, replace(DEFAULT, float32_convolutions=p)) for p in ("tf32", "tf32x3")
    )
    assert first.plan.source == second.plan.source


def product(part_of: str, permuted: bool = False) -> Graph:
    b = GraphBuilder()
    x, y = (b.input(TensorType(shape, float64)) for shape in ((3, 2, 5), (2, 3, 7)))
    made = b.dot_general(x, y, contract=((0, 1), (1, 0)), batch=((), ()), part_of=part_of)
    return b.build([b.permute(made, axes=(1, 0)) if permuted else made])


@pytest.mark.parametrize("permuted", [False, True])
def test_rewritten_products_are_parts_of_the_same(permuted: bool) -> None:
    graph = product("convolution", permuted)
    arrays = [np.random.default_rng(0).standard_normal(v.type.shape) for v in graph.inputs]
    (wanted,) = evaluate_graph(graph, arrays)[0]
    for change in (normalize_contractions, absorb_permutations):
        made = change(graph)
        parts = [n.attributes.get("part_of") for n in made.nodes if n.op.name == "dot_general"]
        assert set(parts) == {"convolution"}
        np.testing.assert_allclose(evaluate_graph(made, arrays)[0][0], wanted)
    assert normalize_contractions(graph) is not graph
    assert (absorb_permutations(graph) is not graph) == permuted


def test_gradients_are_parts_of_the_same() -> None:
    made = differentiate_graph(product("convolution"), (0, 1))
    assert [n.attributes.get("part_of") for n in made.nodes if n.op.name == "dot_general"] == [
        "convolution"
    ] * 3


def test_what_is_no_part_or_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="dot_general: part_of is 'convolution', not 'attention'"):
        product("attention")
    with pytest.raises(ValueError, match="float32_convolutions must be one of ieee"):
        CodegenOptions(float32_convolutions="half")
