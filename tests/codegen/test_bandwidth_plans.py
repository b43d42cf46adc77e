"""The work of ``benchmarks/gpu/bandwidth.py``: how many bytes flamec's programs move, by count."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flamec.codegen.triton.compile_graph import compile_graph

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def repository_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT))
    yield
    for name in [m for m in sys.modules if m.split(".")[0] == "benchmarks"]:
        del sys.modules[name]


def test_programs_move_what_the_work_must_move() -> None:
    from benchmarks.gpu.bandwidth_graphs import programs
    from benchmarks.gpu.bandwidth_rows import WORK

    too_much = {}
    for name, row in WORK.items():
        moved = compile_graph(programs(row).timed).plan.bytes_moved()
        assert isinstance(moved, int)
        must = row.bytes
        if row.part == "both":  # three passes are counted; the gradient needs no third one
            must = 2 * row.bytes // 3
        if not must <= moved <= 1.01 * must:
            too_much[name] = moved / must
    assert not too_much


def test_other_tiles_give_other_kernels_of_the_same_program() -> None:
    from benchmarks.gpu.bandwidth_graphs import programs
    from benchmarks.gpu.bandwidth_rows import WORK
    from benchmarks.gpu.bandwidth_tiles import VARIANTS, chooser

    for name in ("layer_norm backward", "softmax forward", "sum axis 0"):
        row = next(row for row in WORK.values() if row.name.startswith(name))
        graph = programs(row).timed
        plans = [compile_graph(graph, choose=chooser(v)).plan for v in VARIANTS]
        assert len({plan.bytes_moved() for plan in plans}) == 1
        assert len({plan.source for plan in plans}) >= 6
