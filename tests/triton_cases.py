"""Cases for GPU code: what a row of the op table becomes as a plan, and whether results agree.

Run as a program with TRITON_INTERPRET=1, ``--quick`` for one dtype of each row, and names of rows
or of graphs (``triton_graphs.py``): a line of JSON for each with the number of samples and what
was wrong.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from op_row import Row, Sample
from op_table import ROWS

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.op import lookup
from flamec.ir.passes.lower_convolutions import lower_convolutions
from flamec.ir.passes.manager import run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.passes.place import eliminate_transfers
from flamec.ir.plan import ExecutionPlan
from flamec.ir.types import DType, TensorType, float32

RunAll = Callable[
    [ExecutionPlan, Sequence[np.ndarray], Mapping[str, int]],
    tuple[Sequence[np.ndarray], Mapping[int, np.ndarray]],
]
MakePlan = Callable[[Graph, CodegenOptions | None], ExecutionPlan]
Run = Callable[[ExecutionPlan, Sequence[np.ndarray]], Sequence[np.ndarray]]


# Sizes are at most those hinted, below, and above; with indices of 64 and of 32 bits.
OPTIONS = {
    0: None,
    3: CodegenOptions(size_hints={"B": 100}, narrow=True),
    37: CodegenOptions(size_hints={"B": 4}),
}


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


def difference(row: Row, found: np.ndarray, wanted: np.ndarray, type: TensorType) -> str:
    """What is wrong with a result, or "". Special functions may be off by a few more units."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return f"{found.dtype}{found.shape}, not {wanted.dtype}{wanted.shape}"
    rtol, atol = row.tolerance(type.dtype)
    if type.dtype.kind == "float":
        found, wanted = found.astype(np.float64), wanted.astype(np.float64)
        close = np.isclose(found, wanted, 4 * rtol, 4 * atol, equal_nan=True)
    else:
        close = found == wanted
    if np.all(close):
        return ""
    at = np.argwhere(~np.asarray(close))[0]
    return f"{found[tuple(at)]} at {at.tolist()}, not {wanted[tuple(at)]}"


def check_row(row: Row, run: Run, dtypes: Sequence[DType] | None = None) -> tuple[int, list[str]]:
    """The number of samples that were run, and what was wrong."""
    count, wrong = 0, []
    for dtype, sample, graph in samples(row, dtypes or row.dtypes):
        count += 1
        try:
            plan = compile_graph(lower_convolutions(eliminate_transfers(graph))).plan
            results = run(plan, sample.arrays)
        except Exception as error:  # a program that tells of all rows goes on
            wrong.append(f"{dtype.name} {sample}: {type(error).__name__}: {str(error)[-300:]}")
            continue
        types = [v.type for v in graph.outputs]
        for found, wanted, kind in zip(results, row.expected(sample, types), types, strict=True):
            text = difference(row, found, wanted, kind)
            if text:
                wrong.append(f"{dtype.name} {sample}: {text}")
    return count, wrong


def plan_of(graph: Graph, options: CodegenOptions | None) -> ExecutionPlan:
    return compile_graph(graph, options).plan


def check_graph(name: str, run: RunAll, make_plan: MakePlan = plan_of) -> list[str]:
    """What was wrong with a graph of ``triton_graphs``, compared with the evaluator."""
    from triton_graphs import ANY_ORDER, GRAPHS, inputs_for

    graph = run_passes(GRAPHS[name](GraphBuilder()), pipeline(), False)[0]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    wrong = []
    sizes = (3, 37, 0) if any("B" in str(v.type) for v in graph.inputs) else (0,)
    for size in sizes:
        arrays = inputs_for(graph, size, rng)
        options = OPTIONS[size] if len(sizes) > 1 else None
        if name in ANY_ORDER:
            options = CodegenOptions(deterministic=False)
        plan = make_plan(graph, options)
        outputs, updates = run(plan, arrays, {"B": size} if plan.symbols else {})
        wanted, wanted_updates = evaluate_graph(graph, arrays, {"B": size})
        pairs = [*zip(outputs, wanted, strict=True)]
        pairs += [(updates[p], v) for p, v in wanted_updates.items()]
        for position, (found, value) in enumerate(pairs):
            half = value.dtype.itemsize < 4
            tolerance = 2e-2 if half else 3e-5
            if not np.allclose(
                found.astype(np.float64), value.astype(np.float64), tolerance, tolerance
            ):
                wrong.append(f"size {size}, result {position}: {found} not {value}"[:600])
    return wrong


def check_fault(name: str, run: RunAll) -> list[str]:
    """What was wrong with the error of an index that is out of range."""
    from triton_graphs import FAULTS, inputs_for

    make, position, index, message = FAULTS[name]
    graph = run_passes(make(GraphBuilder()), pipeline(), False)[0]
    arrays = inputs_for(graph, 0, np.random.default_rng(1))
    if name == "negative":
        arrays[position] = abs(arrays[position])
    plan = compile_graph(graph).plan
    run(plan, arrays, {})
    arrays[position].reshape(-1)[17] = index
    try:
        run(plan, arrays, {})
    except (IndexError, ValueError) as error:
        return [] if message in str(error) else [str(error)]
    return ["no error"]


def main() -> None:
    from triton_graphs import FAULTS
    from triton_interpreter import run_plan

    def run(plan: ExecutionPlan, arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        return run_plan(plan, arrays, {})[0]

    quick = "--quick" in sys.argv
    for name in sys.argv[1:]:
        if name == "--quick":
            continue
        if name not in ROWS:
            check = check_fault if name in FAULTS else check_graph
            wrong = check(name, run_plan)
            print(json.dumps({"row": name, "samples": 1, "wrong": wrong}), flush=True)
            continue
        row = ROWS[name]
        one = (float32,) if float32 in row.dtypes else row.dtypes[:1]
        count, wrong = check_row(row, run, one if quick else None)
        print(json.dumps({"row": name, "samples": count, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    main()
