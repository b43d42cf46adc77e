"""Programs for classes of sizes: what they compute, beside the evaluator and programs for one size.

``CASES`` maps a name to a graph over B and N and pairs of values. Run as a program with
TRITON_INTERPRET=1 and names of cases: a line of JSON for each with what was wrong.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.ir.bodies import bound_graph
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.passes.settle_sizes import settle_sizes
from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import Dim, SymbolicDim, evaluate_shape, maximum, minimum
from flamec.ir.types import DType, TensorType, bfloat16, float32
from flamec.size_classes import size_class

B, N = SymbolicDim.symbol("B"), SymbolicDim.symbol("N")
SYMBOLS = ("B", "N")
SIZES = ((3, 0), (1, 1), (5, 37), (16, 16), (2, 64), (4, 100))
EXACT = 2e-6


@dataclass(frozen=True)
class Case:
    """``same``: results have the bits of the program that is made for the size alone."""

    make: Callable[[GraphBuilder], Graph]
    sizes: Sequence[tuple[int, int]] = SIZES
    same: bool = True


def _one(op: str, shape: tuple[Dim, ...], dtype: DType = float32, **attributes: Any) -> Any:
    def make(b: GraphBuilder) -> Graph:
        return b.build([getattr(b, op)(b.input(TensorType(shape, dtype)), **attributes)])

    return make


def softmax(b: GraphBuilder, shape: tuple[Dim, ...] = (B, N)) -> Graph:
    """Rows of unknown length, read once if a block holds them."""
    x, kept = b.input(TensorType(shape, float32)), (*shape[:-1], 1)
    e = b.exp(b.sub(x, b.reshape(b.amax(x, axes=(len(shape) - 1,)), shape=kept)))
    return b.build([b.div(e, b.reshape(b.sum(e, axes=(len(shape) - 1,)), shape=kept))])


def scores(b: GraphBuilder, dtype: DType = float32) -> Graph:
    """Products whose rows, columns and depth vary, one after the other."""
    q, k, v = (b.input(TensorType((B, N, 16), dtype)) for _ in range(3))
    s = b.dot_general(q, k, contract=((2,), (2,)), batch=((0,), (0,)))
    return b.build([s, b.dot_general(s, v, contract=((2,), (1,)), batch=((0,), (0,)))])


def projection(b: GraphBuilder) -> Graph:
    x, w = b.input(TensorType((B, N, 24), float32)), b.input(TensorType((24, 40), float32))
    y = b.dot_general(b.reshape(x, shape=(B * N, 24)), w, contract=((1,), (0,)), batch=((), ()))
    gradient = b.dot_general(x, x, contract=((0, 1), (0, 1)), batch=((), ()))
    return b.build([b.neg(y), gradient])


def differences(b: GraphBuilder) -> Graph:
    """Neighbours along rows, of which empty rows have none, and sums over them."""
    x = b.input(TensorType((B, N), float32))
    window = {"sizes": (B, maximum(N - 1, 0)), "steps": (1, 1)}
    later = b.slice(x, starts=(0, minimum(N, 1)), **window)
    change = b.sub(later, b.slice(x, starts=(0, 0), **window))
    return b.build([change, b.sum(b.exp(change), axes=(1,))])


CASES = {
    "differences": Case(differences),
    "softmax": Case(softmax, sizes=(*SIZES, (70, 96))),
    "softmax of three": Case(lambda b: softmax(b, (N, 3))),
    "sum": Case(_one("sum", (B, N), axes=(1,))),
    "sum of columns": Case(_one("sum", (N, B), axes=(0,)), same=False),
    "sum of all": Case(_one("sum", (B, N), axes=(0, 1)), same=False),
    "long sum": Case(_one("sum", (B, N), axes=(1,)), sizes=((2, 20000),), same=False),
    "prod": Case(_one("prod", (B, N), axes=(1,))),
    "argmax": Case(_one("argmax", (B, N), axes=(1,)), sizes=SIZES[1:]),
    "cumsum": Case(_one("cumsum", (B, N), axis=1)),
    "cumprod": Case(_one("cumprod", (B, N), axis=1)),
    "permuted": Case(_one("permute", (B, N, 8), axes=(1, 2, 0))),
    "scores": Case(scores, same=False),
    "scores in bfloat16": Case(lambda b: scores(b, bfloat16), same=False),
    "projection": Case(projection, same=False),
}


def plan_of_class(graph: Graph, sizes: tuple[int, int]) -> tuple[ExecutionPlan, dict[str, int]]:
    """The program of the sizes' class, and the values of its symbols."""
    known = size_class(sizes, 0)
    options = CodegenOptions(
        size_hints=known.typical(SYMBOLS), size_bounds=known.bounds(SYMBOLS), narrow=known.narrow
    )
    plan = compile_graph(settle_sizes(graph, known.substitutions(SYMBOLS)), options).plan
    return plan, dict(zip(known.symbols(SYMBOLS), known.values(sizes), strict=True))


def check(name: str, run: Any) -> list[str]:
    """What was wrong with a case."""
    case, wrong = CASES[name], []
    graph = case.make(GraphBuilder())
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for sizes in case.sizes:
        bindings = dict(zip(SYMBOLS, sizes, strict=True))
        arrays = []
        for value in graph.inputs:
            numbers = 1 + 0.1 * rng.standard_normal(evaluate_shape(value.type.shape, bindings))
            arrays.append(numbers.astype(value.type.dtype.numpy))
        plan, values = plan_of_class(graph, sizes)
        found = run(plan, arrays, {s: values[s] for s in plan.symbols})[0]
        wanted = evaluate_graph(graph, arrays, bindings)[0]
        alone = run(compile_graph(bound_graph(graph, bindings)).plan, arrays, {})[0]
        for one, right, single in zip(found, wanted, alone, strict=True):
            tolerance = EXACT if right.dtype.itemsize >= 4 else 2e-2
            if not np.allclose(one.astype(np.float64), right.astype(np.float64), tolerance):
                wrong.append(f"{sizes}: {one} not {right}"[:400])
            elif case.same and one.tobytes() != single.tobytes():
                wrong.append(f"{sizes}: other bits than the program for the size")
    return wrong


def main() -> None:
    from triton_interpreter import run_plan

    for name in sys.argv[1:]:
        print(json.dumps({"case": name, "wrong": check(name, run_plan)}), flush=True)


if __name__ == "__main__":
    main()
