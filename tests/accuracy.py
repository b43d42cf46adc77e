"""How far results are from float64: what tests of accuracy share.

In: a row of the op table and a dtype. Out: a graph of many samples with their operands, exact
results, and the largest error of given results in units in the last place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import ml_dtypes
import numpy as np
from op_row import Draw, Row, Sample, widened

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.op import OpKind, lookup
from flamec.ir.types import CPU, Device, DType, TensorType

KINDS = (OpKind.ELEMENTWISE, OpKind.REDUCTION, OpKind.SCAN, OpKind.CONTRACTION, OpKind.SCATTER)
SEEDS = 4
FACTOR = 1.5  # how much farther from float64 than eager mode a program may be, ...
FAITHFUL = 1.0  # ... unless it gives one of the two numbers next to the exact one


def cases(rows: Iterable[Row], dtypes: Sequence[DType]) -> list[tuple[Row, DType]]:
    """Rows of operations that round, with the dtypes in which they give floats."""
    found = []
    for row in rows:
        if lookup(row.name).kind not in KINDS or row.name == "convert" or not row.ulps:
            continue
        found += [(row, dtype) for dtype in dtypes if dtype in row.dtypes]
    return found


def sampled(row: Row, dtype: DType, device: Device = CPU) -> tuple[Graph, list[np.ndarray], list]:
    """All samples as one graph, its operands, and the exact results in float64."""
    builder, arrays, outputs, exact = GraphBuilder(), [], [], []
    for sample in _samples(row, dtype):
        inputs = [builder.input(TensorType(t.shape, t.dtype, device)) for t in sample.types]
        made = builder.apply(lookup(row.name), inputs, sample.attributes)
        arrays += sample.arrays
        outputs += made if isinstance(made, tuple) else (made,)
        with np.errstate(all="ignore"):
            results = row.oracle(sample, *map(widened, sample.arrays))
        exact += results if isinstance(results, tuple) else (results,)
    return builder.build(outputs, name=row.name), arrays, exact


def _samples(row: Row, dtype: DType) -> Iterable[Sample]:
    """The table's samples, and elementwise functions of more numbers."""
    for seed in range(SEEDS):
        yield from row.make(Draw(dtype, np.random.default_rng(seed)))
    if lookup(row.name).kind is OpKind.ELEMENTWISE:
        yield from long_samples(row, dtype)


def long_samples(row: Row, dtype: DType, draws: int = 60) -> Iterable[Sample]:
    """What the table draws for its vectors, many times, as longer ones."""
    drawn = [row.make(Draw(dtype, np.random.default_rng(9 + seed))) for seed in range(draws)]
    for position, sample in enumerate(drawn[0]):
        if sample.finite and all(a.ndim == 1 and a.size > 1 for a in sample.arrays):
            operands = zip(*(d[position].arrays for d in drawn), strict=True)
            yield replace(sample, arrays=tuple(np.concatenate(parts) for parts in operands))


def error(
    row: Row, results: Sequence[np.ndarray], exact: Sequence[np.ndarray], dtype: DType
) -> float:
    """The largest error in units in the last place of the exact result, or of the terms where they
    cancel (``scale``); infinite where one is not finite and the other is in the dtype's range."""
    info = ml_dtypes.finfo(dtype.numpy)
    worst = 0.0
    for found, wanted in zip(results, exact, strict=True):
        if found.dtype != dtype.numpy or not found.size:
            continue
        wide = found.astype(np.float64)
        wanted = np.broadcast_to(np.asarray(wanted, np.float64), wide.shape)
        with np.errstate(all="ignore"):
            size = np.maximum(np.abs(wanted), max(row.scale, float(info.smallest_normal)))
            exponent = np.floor(np.log2(size))
            unit = 2.0 ** (exponent - info.nmant)
            off = np.abs(wide - wanted) / unit
            largest = float(info.max) * (1 - 2.0**-info.nmant)
            alike = (wide == wanted) | (np.isnan(wide) & np.isnan(wanted))
            alike |= (np.abs(wanted) > largest) & (np.abs(wide) >= largest)
        off = np.where(alike, 0.0, np.where(np.isfinite(off), off, np.inf))
        worst = max(worst, float(off.max()))
    return worst
