"""Folds whose blocks count themselves, against the evaluator.

``CASES`` maps a name to a graph and values of its symbol N. Run as a program with
TRITON_INTERPRET=1 and names of cases: a line of JSON for each with what was wrong.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.codegen.triton.tiling import UNKNOWN_COLUMNS
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import Dim, SymbolicDim, evaluate_shape
from flamec.ir.types import DType, TensorType, bfloat16, float32, int64

N = SymbolicDim.symbol("N")
RunAll = Callable[
    [ExecutionPlan, Sequence[np.ndarray], Mapping[str, int]],
    tuple[Sequence[np.ndarray], Mapping[int, np.ndarray]],
]


@dataclass(frozen=True)
class Case:
    """``change`` gives the numbers to fold, where standard normal ones show too little."""

    make: Callable[[GraphBuilder], Graph]
    sizes: tuple[int, ...] = (0,)
    change: Callable[[np.ndarray], np.ndarray] = np.asarray


def _folded(
    shape: tuple[Dim, ...], axes: tuple[int, ...], op: str = "sum", dtype: DType = float32
) -> Callable[[GraphBuilder], Graph]:
    def make(b: GraphBuilder) -> Graph:
        return b.build([getattr(b, op)(b.input(TensorType(shape, dtype)), axes=axes)])

    return make


def _moments(b: GraphBuilder) -> Graph:
    """Several results of columns, and what is computed of them."""
    x = b.input(TensorType((700, 70), float32))
    total, squares = b.sum(x, axes=(0,)), b.sum(b.mul(x, x), axes=(0,))
    return b.build([total, b.sqrt(squares), b.amax(x, axes=(0,))])


def _loss(b: GraphBuilder) -> Graph:
    x, y = (b.input(TensorType((100, 300), float32)) for _ in range(2))
    difference = b.sub(x, y)
    total = b.sum(b.mul(difference, difference), axes=(0, 1))
    scaled = b.mul(total, b.constant(1 / 30000, b.type_of(total)))
    return b.build([scaled, b.amax(x, axes=(0, 1)), b.sqrt(scaled)])


def _updated(flipped: bool) -> Callable[[GraphBuilder], Graph]:
    """A vector that all rows read (from its end if ``flipped``) and a sum of columns changes."""

    def make(b: GraphBuilder) -> Graph:
        x, w = b.input(TensorType((700, 256), float32)), b.input(TensorType((256,), float32))
        read = b.slice(w, starts=(255,), steps=(-1,), sizes=(256,)) if flipped else w
        total = b.sum(b.mul(x, b.expand_to(read, (700, 256))), axes=(0,))
        return b.build([], {1: b.add(w, total)})

    return make


def _softmax(b: GraphBuilder) -> Graph:
    """Rows that are read three times, and sums of infinities and of what is no number."""
    x = b.input(TensorType((6, N), float32))
    shape = (6, N)
    largest = b.reshape(b.amax(x, axes=(1,)), shape=(6, 1))
    powers = b.exp(b.sub(x, b.expand(largest, shape=shape)))
    total = b.reshape(b.sum(powers, axes=(1,)), shape=(6, 1))
    return b.build([b.div(powers, b.expand(total, shape=shape)), b.sum(b.exp(x), axes=(1,))])


def _extremes(b: GraphBuilder) -> Graph:
    """Positions, the elements there, and a sum, in long rows that end within a piece."""
    x = b.input(TensorType((3, 20011), float32))
    greatest, least = b.argmax(x, axes=(1,)), b.argmin(x, axes=(1,))
    rows = b.iota(shape=(3,), axis=0, dtype=int64)
    found = b.index(x, rows, least, dims=(0, 1))
    return b.build([greatest, least, found, b.sum(x, axes=(1,))])


def _columns(*shape: Dim) -> Callable[[GraphBuilder], Graph]:
    """Positions along the first dimension, the elements there, and both extremes."""

    def make(b: GraphBuilder) -> Graph:
        x = b.input(TensorType(shape, float32))
        greatest, least = b.argmax(x, axes=(0,)), b.argmin(x, axes=(0,))
        column = b.iota(shape=shape[1:], axis=0, dtype=int64)
        return b.build([greatest, least, b.index(x, greatest, column)])

    return make


def _equal_ones(x: np.ndarray) -> np.ndarray:
    """Few different numbers; a row with what is no number, one of the least numbers only."""
    x = np.round(x)
    if x.ndim == 2:
        x[1, 9000::7], x[2] = np.nan, -np.inf
    return x


def _equal_columns(x: np.ndarray) -> np.ndarray:
    """The same along the first dimension."""
    x = np.round(x)
    if x.shape[0] > 50:
        x[50::7, 1], x[:, 2] = np.nan, -np.inf
    return x


CASES: dict[str, Case] = {
    "rows of any length": Case(_folded((9, N), (1,)), (0, 1, 7, 512, 513, 3000)),
    "softmax of any length": Case(_softmax, (1, 7, 513, 1500)),
    "columns": Case(_folded((700, 200), (0,))),
    "columns of halves": Case(_folded((600, 130), (0,), dtype=bfloat16)),
    "few columns": Case(_folded((700, 7), (0,))),
    "largest of columns": Case(_folded((600, 90), (0,), "amax")),
    "integers": Case(_folded((600, 65), (0,), dtype=int64)),
    "any number of columns": Case(_folded((600, N), (0,)), (1, 200)),
    "any number of rows": Case(_folded((N, 96), (0,)), (0, 1, 700)),
    "position in everything": Case(_folded((N,), (0,), "argmax"), (1, 5000), np.round),
    "positions in long rows": Case(_extremes, change=_equal_ones),
    "positions along columns": Case(_columns(160, 64), change=_equal_columns),
    "positions along odd columns": Case(_columns(163, 35), change=_equal_columns),
    "positions along any columns": Case(_columns(N, 20), (1, 70), _equal_columns),
    "positions between": Case(_folded((2, 100, 9), (1,), "argmin"), change=np.round),
    "position among integers": Case(_folded((8200,), (0,), "argmin", int64)),
    "long rows": Case(_folded((2, 16384), (1,), dtype=bfloat16)),
    "everything": Case(_folded((20000,), (0,))),
    "everything, any size": Case(_folded((N,), (0,)), (0, 1, 20000)),
    "everything of rows": Case(_folded((70, 333), (0, 1))),
    "moments": Case(_moments),
    "loss": Case(_loss),
    "same columns": Case(_updated(flipped=False)),
    "other columns": Case(_updated(flipped=True)),
}


def check_case(name: str, run: RunAll, runs: int = 1) -> list[str]:
    """What was wrong, in so many runs of each size, which must agree in every bit."""
    case, wrong = CASES[name], []
    graph = case.make(GraphBuilder())
    plan = compile_graph(graph).plan
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for size in case.sizes:
        bindings = {"N": size} if plan.symbols else {}
        arrays = []
        for value in graph.inputs:
            shape = evaluate_shape(value.type.shape, bindings)
            drawn = case.change(4 * rng.standard_normal(shape))
            arrays.append(drawn.astype(value.type.dtype.numpy))
            if name.startswith("softmax"):
                arrays[-1][1, -1:], arrays[-1][2, :1], arrays[-1][3, :1] = -np.inf, np.inf, np.nan
        found = [_all(run(plan, arrays, bindings)) for _ in range(runs)]
        wanted = _all(evaluate_graph(graph, [a.copy() for a in arrays], bindings))
        for number, (got, expected) in enumerate(zip(found[0], wanted, strict=True)):
            if any(got.tobytes() != other[number].tobytes() for other in found):
                wrong.append(f"N = {size}, result {number} differs from run to run")
            a, b = got.astype(np.float64), np.asarray(expected).astype(np.float64)
            scale = np.abs(b, where=np.isfinite(b), out=np.zeros(b.shape)).max() if b.size else 1.0
            rtol = 1e-2 if got.itemsize == 2 else 1e-5
            if not np.allclose(a, b, rtol=rtol, atol=1e-5 * scale, equal_nan=True):
                wrong.append(f"N = {size}, result {number}: {np.abs(a - b).max()} of {scale}")
    return wrong


def _all(results: Any) -> list[np.ndarray]:
    outputs, updates = results
    return [*outputs, *(updates[i] for i in sorted(updates))]


def rounding_of_a_long_row(run: RunAll) -> float:
    """The error, in units of the last place, of a sum of equal numbers that one column adds."""
    plan = compile_graph(_folded((2, N), (1,))(GraphBuilder())).plan
    x = np.zeros((2, 300_000), np.float32)
    x[:, ::UNKNOWN_COLUMNS] = 0.1
    total = run(plan, [x], {"N": 300_000})[0][0][0]
    exact = x[0].astype(np.float64).sum()
    return float(abs(total - exact) / np.spacing(np.float32(exact)))


def main() -> None:
    from triton_interpreter import run_plan

    if sys.argv[1:] == ["long row"]:
        print(json.dumps({"row": "long row", "units": rounding_of_a_long_row(run_plan)}))
        return
    for name in sys.argv[1:]:
        print(json.dumps({"row": name, "wrong": check_case(name, run_plan)}), flush=True)


if __name__ == "__main__":
    main()
