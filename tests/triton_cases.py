"""Cases for GPU code: what a row of the op table becomes as a plan, and whether results agree.

Run as a program with TRITON_INTERPRET=1 and names of rows: a line of JSON for each row with the
number of samples and what was wrong.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from op_row import Row, Sample
from op_table import ROWS

import flamec.ir.ops  # noqa: F401
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.op import lookup
from flamec.ir.plan import ExecutionPlan
from flamec.ir.types import DType, TensorType, bfloat16

Run = Callable[[ExecutionPlan, Sequence[np.ndarray]], Sequence[np.ndarray]]


def graph_of(name: str, types: Sequence[TensorType], attributes: dict[str, object]) -> Graph:
    b = GraphBuilder()
    node = b.add_node(lookup(name), [b.input(t) for t in types], attributes)
    return b.build(node.outputs)


def samples(row: Row, dtypes: Sequence[DType]) -> Iterator[tuple[DType, Sample, Graph]]:
    """Samples of a row with dense operands, and their graphs."""
    rng = np.random.default_rng(zlib.crc32(row.name.encode()))
    for dtype in dtypes:
        for sample in row.samples(dtype, rng):
            if all(a.flags.c_contiguous for a in sample.arrays):
                yield dtype, sample, graph_of(row.name, sample.types, sample.attributes)


def difference(
    row: Row, found: np.ndarray, wanted: np.ndarray, type: TensorType, truncates: bool
) -> str:
    """What is wrong with a result, or "". Special functions may be off by a few more units.

    ``truncates``: bfloat16 results are cut off instead of rounded (Triton's interpreter).
    """
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return f"{found.dtype}{found.shape}, not {wanted.dtype}{wanted.shape}"
    rtol, atol = row.tolerance(type.dtype)
    if truncates and type.dtype is bfloat16:
        rtol = max(rtol, 2.0**-8)
        found = np.where(np.isinf(wanted) & (abs(found.astype(np.float64)) > 3e38), wanted, found)
    if type.dtype.kind == "float":
        found, wanted = found.astype(np.float64), wanted.astype(np.float64)
        close = np.isclose(found, wanted, 4 * rtol, 4 * atol, equal_nan=True)
    else:
        close = found == wanted
    if np.all(close):
        return ""
    at = np.argwhere(~np.asarray(close))[0]
    return f"{found[tuple(at)]} at {at.tolist()}, not {wanted[tuple(at)]}"


def check_row(
    row: Row, run: Run, dtypes: Sequence[DType] | None = None, truncates: bool = False
) -> tuple[int, list[str]]:
    """The number of samples that were run, and what was wrong."""
    count, wrong = 0, []
    for dtype, sample, graph in samples(row, dtypes or row.dtypes):
        count += 1
        try:
            plan = compile_graph(graph).plan
            results = run(plan, sample.arrays)
        except Exception as error:  # a program that tells of all rows goes on
            wrong.append(f"{dtype.name} {sample}: {type(error).__name__}: {str(error)[-300:]}")
            continue
        types = [v.type for v in graph.outputs]
        for found, wanted, kind in zip(results, row.expected(sample, types), types, strict=True):
            text = difference(row, found, wanted, kind, truncates)
            if text:
                wrong.append(f"{dtype.name} {sample}: {text}")
    return count, wrong


def main() -> None:
    from triton_interpreter import run_plan

    def run(plan: ExecutionPlan, arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        return run_plan(plan, arrays, {})[0]

    for name in sys.argv[1:]:
        count, wrong = check_row(ROWS[name], run, truncates=True)
        print(json.dumps({"row": name, "samples": count, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    main()
