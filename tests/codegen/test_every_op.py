"""Every primitive of every dtype through the C back end, against the op table's oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from op_row import Draw, Row, Sample
from op_table import COMPILED
from plan_batch import Batch

from flamec.codegen.compile_graph import CodegenOptions
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Value
from flamec.ir.op import OpKind, lookup
from flamec.ir.types import TensorType, float32, int64

PARTS = 10


@pytest.mark.parametrize("part", range(PARTS))
def test_ops_agree_with_their_oracles(part: int, tmp_path: Path) -> None:
    """All samples of an op are one graph; the graphs of a part are one library.

    Transfers between devices are taken away before code is generated.
    """
    rows = [r for r in COMPILED[part::PARTS] if lookup(r.name).kind is not OpKind.TRANSFER]
    batch = Batch(tmp_path)
    cases = []
    for row in rows:
        builder, arrays, results = GraphBuilder(), [], []
        for dtype in row.dtypes:
            for sample in row.make(Draw(dtype, np.random.default_rng(1))):
                inputs = [builder.input(t) for t in sample.types]
                arrays += [np.ascontiguousarray(a).reshape(a.shape) for a in sample.arrays]
                made = builder.apply(lookup(row.name), inputs, sample.attributes)
                results.append((sample, made if isinstance(made, tuple) else (made,)))
        outputs = [v for _, made in results for v in made]
        batch.add(builder.build(outputs), CodegenOptions(fuse=False))
        cases.append((row, arrays, results))
    batch.load()
    for number, (row, arrays, results) in enumerate(cases):
        outputs, _ = batch.run(number, arrays)
        _compare(row, results, outputs)


def _compare(
    row: Row, results: list[tuple[Sample, tuple[Value, ...]]], outputs: list[np.ndarray]
) -> None:
    remaining = iter(outputs)
    for sample, values in results:
        expected = row.expected(sample, [v.type for v in values])
        for value, want in zip(values, expected, strict=True):
            got = next(remaining)
            rtol, atol = row.tolerance(value.type.dtype)
            if value.type.dtype.kind == "float":
                got, want = got.astype(np.float64), want.astype(np.float64)
            assert np.allclose(got, want, rtol=2 * rtol, atol=atol, equal_nan=True), (
                f"{row.name}{sample}\ngot {got}\nnot {want}"
            )


def test_bad_indices_are_reported(tmp_path: Path) -> None:
    builder = GraphBuilder()
    x = builder.input(TensorType((5, 40), float32))
    i = builder.input(TensorType((3,), int64))
    batch = Batch(tmp_path)
    batch.add(builder.build([builder.index(x, i)]))
    batch.load()
    table = np.arange(200, dtype=np.float32).reshape(5, 40)
    outputs, _ = batch.run(0, [table, np.array([0, -1, 4])])
    assert np.array_equal(outputs[0], table[[0, -1, 4]])
    with pytest.raises(IndexError, match="index 5 is out of bounds for dimension 0 of size 5"):
        batch.run(0, [table, np.array([0, 5, 1])])
