"""Default programs are as far from float64 as eager mode, at most 1.5 times: the op table in C."""

from __future__ import annotations

from pathlib import Path

import pytest
from accuracy import FACTOR, FAITHFUL, cases, error, sampled
from op_table import OP_TABLE
from plan_batch import Batch

from flamec.codegen.options import CodegenOptions
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.passes.manager import run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.types import bfloat16, float16, float32

PARTS = 4
DTYPES = (float32, float16, bfloat16)


def optimized(graph: Graph) -> Graph:
    return run_passes(graph, pipeline(), check=True)[0]


@pytest.mark.parametrize("part", range(PARTS))
def test_operations_are_as_accurate_as_eager_mode(part: int, tmp_path: Path) -> None:
    batch, programs = Batch(tmp_path, flags=("-O2",)), []
    for row, dtype in cases(OP_TABLE, DTYPES)[part::PARTS]:
        graph, arrays, exact = sampled(row, dtype)
        batch.add(optimized(graph), CodegenOptions(fuse=False))
        programs.append((row, dtype, graph, arrays, exact))
    batch.load()
    wrong = []
    for number, (row, dtype, graph, arrays, exact) in enumerate(programs):
        default = error(row, batch.run(number, arrays)[0], exact, dtype)
        eager = error(row, evaluate_graph(graph, arrays)[0], exact, dtype)
        if default > max(FAITHFUL, FACTOR * eager):
            wrong.append(f"{row.name} {dtype}: {default} units, eager {eager}")
    assert not wrong, "\n".join(wrong)
