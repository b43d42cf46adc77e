"""Every pass, and the whole pipeline, leaves the values of random graphs bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from random_graphs import SYMBOL, GraphMaker
from same_bits import same_bits

from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.passes.eliminate_common_subexpressions import eliminate_common_subexpressions
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.passes.fold_constants import fold_constants
from flamec.ir.passes.manager import run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.passes.simplify import simplify
from flamec.ir.printer import print_graph
from flamec.ir.verify import verify

PASSES = (eliminate_dead_code, eliminate_common_subexpressions, fold_constants, simplify)
SEEDS = range(150)


def assert_same_values(before: Graph, after: Graph, arrays: list[np.ndarray], seed: int) -> None:
    outputs, updates = evaluate_graph(before, arrays, {"B": 3})
    new_outputs, new_updates = evaluate_graph(after, arrays, {"B": 3})
    assert list(updates) == list(new_updates)
    pairs = zip((*outputs, *updates.values()), (*new_outputs, *new_updates.values()), strict=True)
    for a, b in pairs:
        assert same_bits(a, b), f"seed {seed}\n{print_graph(before)}\n{print_graph(after)}\n{a} {b}"


@pytest.mark.parametrize("size", [3, SYMBOL], ids=["static", "symbolic"])
@pytest.mark.parametrize("transform", PASSES, ids=lambda p: p.__name__)
def test_a_single_pass_keeps_values(transform, size) -> None:
    for seed in SEEDS:
        maker = GraphMaker(seed, size)
        graph = maker.graph(25)
        result = verify(transform(graph))
        assert result.inputs == graph.inputs
        assert_same_values(graph, result, maker.arrays(3), seed)


@pytest.mark.parametrize("size", [3, SYMBOL], ids=["static", "symbolic"])
def test_the_pipeline_keeps_values_and_settles(size) -> None:
    for seed in SEEDS:
        maker = GraphMaker(1000 + seed, size)
        graph = maker.graph(40)
        result, records = run_passes(graph, pipeline(), check=True)
        assert_same_values(graph, result, maker.arrays(3), seed)
        assert len(result.nodes) <= len(graph.nodes)
        again, _ = run_passes(result, pipeline(), check=True)
        assert again is result, f"seed {seed}: the pipeline did not reach its fixpoint"
        assert records[0].before is graph and records[-1].after is result
