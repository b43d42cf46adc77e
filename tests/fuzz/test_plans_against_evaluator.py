"""Random programs, compiled and evaluated: the results must agree.

The seed of a failing program stands in the message. ``FLAMEC_TEST_LEVEL=full`` runs
many more.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from plan_batch import Batch
from random_programs import ProgramMaker

from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph

PROGRAMS = 40  # in one translation unit
BATCHES = range(500 if os.environ.get("FLAMEC_TEST_LEVEL") == "full" else 8)


@pytest.mark.parametrize("batch", BATCHES)
def test_compiled_and_evaluated_agree(batch: int, tmp_path: Path) -> None:
    programs = Batch(tmp_path)
    seeds = range(batch * PROGRAMS, (batch + 1) * PROGRAMS)
    makers = [ProgramMaker(seed) for seed in seeds]
    graphs = [maker.graph(4 + seed % 25) for seed, maker in zip(seeds, makers, strict=True)]
    for graph in graphs:
        programs.add(graph)
    programs.load()
    for number, (seed, maker, graph) in enumerate(zip(seeds, makers, graphs, strict=True)):
        for size in (3, 1, 0, 40) if seed % 2 else (3,):
            arrays = maker.arrays(size)
            check(programs, number, graph, arrays, f"seed {seed}, B = {size}")


def check(programs: Batch, number: int, graph: Graph, arrays: list[np.ndarray], name: str) -> None:
    with np.errstate(all="ignore"):
        outputs, updates = evaluate_graph(graph, arrays)
    got, new = programs.run(number, arrays)
    single = any(v.type.dtype.name == "float32" for v in graph.values())
    tolerance = 2e-4 if single else 1e-9
    wanted = [*outputs, *(updates[i] for i in sorted(updates))]
    for actual, expected in zip([*got, *(new[i] for i in sorted(new))], wanted, strict=True):
        scale = max(1.0, float(np.nanmax(np.abs(expected)))) if np.size(expected) else 1.0
        assert np.allclose(
            actual, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True
        ), f"{name}: {np.abs(actual - expected).max()}"
