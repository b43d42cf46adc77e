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

from flamec.codegen.triton import radix_sort, sort_writer
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
    for count, largest in ((3, True), (4, False)):
        yield "topk", Sample((row,), {"axis": 1, "count": count, "largest": largest})


def _is_same(have: np.ndarray, want: np.ndarray) -> bool:
    """Whether numbers are equal, zeros also in their signs."""
    signs = np.signbit(have) == np.signbit(want)
    return np.array_equal(have, want, equal_nan=True) and bool(signs[want == 0].all())


def main() -> None:
    sort_writer.MOST, sort_writer.LONGEST = BLOCK, 3 * BLOCK
    sort_writer.FEW, sort_writer.SELECTED, sort_writer.SEARCHED = 4, BLOCK, 2 * BLOCK
    radix_sort.BLOCK, radix_sort.ADDED = 2 * BLOCK, 256
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
