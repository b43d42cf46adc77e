"""Sorts of long lines in Triton's interpreter, in blocks of few elements.

Run as a program with TRITON_INTERPRET=1: a line of JSON for each dtype with the number of samples
and what was wrong.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import numpy as np
import op_oracles as oracles
from op_row import EVERY, Draw, Sample
from triton_cases import graph_of
from triton_interpreter import run_plan

from flamec.codegen.triton import radix_select, radix_sort, sort_writer
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.ir.types import DType

BLOCK = 16


def samples(dtype: DType) -> Iterator[tuple[str, Sample]]:
    """Lines of five blocks, many elements equal, with NaNs, infinities and zeros of both signs."""
    draw = Draw(dtype, np.random.default_rng(7))
    again = -draw.specials() if dtype.kind == "float" else draw.specials()
    values = np.concatenate([draw.specials(), again, draw(9)])
    row, column = (np.random.default_rng(1).choice(values, shape) for shape in ((1, 70), (33, 2)))
    yield "sort", Sample((row,), {"axis": 1, "descending": False})
    yield "sort", Sample((column,), {"axis": 0, "descending": True})
    yield "sort", Sample((row[:, :9],), {"axis": 1, "descending": False})
    if dtype.name in ("int32", "int64"):
        for digits in (0, 3, 5) if dtype.name == "int64" else (3, 4):
            yield "sort", Sample((_near(dtype, digits),), {"axis": 1, "descending": digits > 2})
    if dtype.name in ("int64", "float64"):  # few or many elements have their upper digits in common
        for groups, descending in ((50, True), (5, False), (1, True)):
            yield "sort", Sample((_alike(dtype, groups),), {"axis": 1, "descending": descending})
    for count, largest in ((3, True), (4, False)):
        yield "topk", Sample((row,), {"axis": 1, "count": count, "largest": largest})
    if dtype.itemsize < 8:
        long = np.random.default_rng(2).choice(values, (2, 350))  # most are equal to others
        for x, count, largest in ((np.sort(long), 5, True), (long, 9, False)):
            yield "topk", Sample((x,), {"axis": 1, "count": count, "largest": largest})


def _near(dtype: DType, digits: int) -> np.ndarray:
    """A line whose elements differ from the least in so many bytes, some in the lowest alone."""
    random, limits = np.random.default_rng(digits), np.iinfo(dtype.numpy)
    distances = [int(d) for d in random.integers(0, 2, 60)]
    if digits:
        distances[7], distances[40] = 256**digits - 1, 255
    least = limits.min if digits == dtype.itemsize else -5
    return np.array([least + d for d in distances], dtype.numpy).reshape(1, 60)


def _alike(dtype: DType, groups: int) -> np.ndarray:
    """A line of so many groups of elements that differ in their lower bits alone, if at all."""
    random = np.random.default_rng(groups)
    group = random.standard_normal(groups)[random.integers(0, groups, (1, 100))]
    lower = random.integers(0, 3, (1, 100))
    if dtype.kind == "float":
        return group * (1 + lower * 2.0**-45)
    return (group * 2.0**30).astype(np.int64) * (1 << 32) + lower


def _is_same(have: np.ndarray, want: np.ndarray) -> bool:
    """Whether numbers are equal, zeros also in their signs."""
    signs = np.signbit(have) == np.signbit(want)
    return np.array_equal(have, want, equal_nan=True) and bool(signs[want == 0].all())


def main() -> None:
    sort_writer.MOST, sort_writer.LONGEST = BLOCK, 3 * BLOCK
    sort_writer.FEW, sort_writer.SELECTED, sort_writer.SEARCHED = 4, BLOCK, 2 * BLOCK
    radix_sort.BLOCK, radix_sort.ADDED = 2 * BLOCK, 256
    radix_select.LEAST_SIZE, radix_select.ROOM, radix_select.BITS = 300, 4, 5
    radix_select.BLOCK, radix_select.STRIP, radix_select.STRIPS = 2 * BLOCK, 4 * BLOCK, 4
    radix_sort.MANY, radix_sort.COMPARED, radix_sort.NEIGHBOURS = 100, 2 * BLOCK, 8
    radix_sort.SAMPLED, radix_sort.CROWDED = 16, 100
    radix_sort.RUN, radix_sort.MOST_BLOCKS = 2, 2
    for dtype in (d for d in EVERY if len(sys.argv) < 2 or d.name in sys.argv[1:]):
        count, wrong = 0, []
        for name, sample in samples(dtype):
            count += 1
            graph = graph_of(name, sample.types, sample.attributes)
            found, _ = run_plan(compile_graph(graph).plan, sample.arrays, {})
            wanted = getattr(oracles, name)(sample, *sample.arrays)
            for have, want in zip(found, wanted, strict=True):
                if not _is_same(have.astype(np.float64), np.asarray(want).astype(np.float64)):
                    wrong.append(f"{name} {sample}: {have} not {want}")
        print(json.dumps({"row": dtype.name, "samples": count, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    main()
