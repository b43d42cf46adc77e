"""The pass ``autocast``: one plain conversion for each value and dtype, before views.

With FLAMEC_UPDATE_GOLDEN=1 the golden file is written anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import Tensor
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph, Value
from flamec.ir.passes.autocast import autocast
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.printer import print_graph
from flamec.ir.shape import SymbolicDim
from flamec.ir.types import TensorType, bfloat16, float16, float32
from flamec.ir.verify import verify
from flamec.nn import functional as F

GOLDEN = Path(__file__).parent.parent / "golden" / "autocast.txt"
X = TensorType((4, 6), float32)


def low(b: GraphBuilder, x: Value, dtype: Any = bfloat16, policy: str = "lower_precision") -> Value:
    value: Value = b.convert(x, dtype=dtype, autocast=policy)
    return value


def passed(body: Callable[..., list[Value]], type: TensorType = X) -> tuple[Graph, Graph]:
    """The graph of ``body`` before and after the pass, without dead nodes."""
    b = GraphBuilder()
    before = verify(b.build(body(b, b.input(type))))
    after = eliminate_dead_code(verify(autocast(before)))
    assert not any("autocast" in n.attributes for n in after.nodes)
    assert [v.type for v in after.results] == [v.type for v in before.results]
    return before, after


def operations(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes]


def test_equal_casts_are_one_and_others_stay() -> None:
    def body(b: GraphBuilder, x: Value) -> list[Value]:
        return [low(b, x), low(b, x, policy="widest"), low(b, x, float16)]

    before, after = passed(body)
    assert operations(after) == ["convert", "convert"]
    array = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    for mine, other in zip(
        *(evaluate_graph(g, [array], {})[0] for g in (before, after)), strict=True
    ):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize(
    ("view", "first"),
    [
        (lambda b, x: b.permute(x, axes=(1, 0)), True),
        (lambda b, x: b.reshape(b.permute(x, axes=(1, 0)), shape=(3, 8)), True),
        (lambda b, x: b.expand(b.reshape(x, shape=(1, 4, 6)), shape=(9, 4, 6)), True),
        (lambda b, x: b.slice(x, starts=(1, 0), sizes=(2, 6), steps=(1, 1)), False),
        (
            lambda b, x: b.permute(
                b.slice(x, starts=(1, 0), sizes=(2, 6), steps=(1, 1)), axes=(1, 0)
            ),
            None,
        ),
    ],
    ids=["permute", "reshape", "expand", "slice", "permute of slice"],
)
def test_a_view_that_drops_nothing_follows_the_cast(view: Any, first: bool | None) -> None:
    before, after = passed(lambda b, x: [low(b, view(b, x))])
    names = operations(after)
    assert names.index("convert") == {True: 0, False: len(names) - 1, None: 1}[first]
    array = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    ((mine,), _), ((other,), _) = (evaluate_graph(g, [array], {}) for g in (before, after))
    np.testing.assert_array_equal(mine, other)


def test_symbolic_sizes() -> None:
    n = SymbolicDim.symbol("n")
    _, after = passed(
        lambda b, x: [low(b, b.permute(x, axes=(1, 0))), low(b, x)], TensorType((n, 6), float32)
    )
    assert operations(after) == ["convert", "permute"]


def test_a_graph_without_mixed_precision_is_left_as_it_is() -> None:
    b = GraphBuilder()
    x = b.input(X)
    graph = b.build([b.convert(b.mul(x, x), dtype=bfloat16)])
    assert autocast(graph) is graph


def test_what_a_step_becomes() -> None:
    w = flamec.ones(3, 3).requires_grad_()
    w.__dict__["_name"] = "weight"

    @flamec.compile(backend="evaluate")
    def step(x: Tensor) -> None:
        with flamec.autocast("cpu"):
            loss = F.mse_loss(F.linear(F.linear(x, w), w), x @ w.t())
        loss.backward()

    step(flamec.ones(2, 3))
    prepared = step.programs[0].prepared
    before, after = (
        print_graph(graph, locations=False)
        for graph in (prepared.graph, prepared.after("autocast"))
    )
    text = f"traced\n{before}\nafter the pass\n{after}\n"
    if os.environ.get("FLAMEC_UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()
