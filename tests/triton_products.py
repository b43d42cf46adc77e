"""Matrix products as GPU kernels in every form, against a float64 oracle.

``CASES`` maps a name to a graph, a schedule that is forced upon it, and sizes. Run as a program
with TRITON_INTERPRET=1 and names of cases: a line of JSON for each with what was wrong.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from triton_graphs import gelu, matmul, softmax

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.codegen.compile_graph import CompiledGraph
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.codegen.triton.product_schedule import ProductSchedule
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import Dim, SymbolicDim, evaluate_shape
from flamec.ir.types import (
    DType,
    TensorType,
    bfloat16,
    float16,
    float32,
    float64,
    int8,
    int32,
    uint8,
)

B = SymbolicDim.symbol("B")
RunAll = Callable[
    [ExecutionPlan, Sequence[np.ndarray], Mapping[str, int]],
    tuple[Sequence[np.ndarray], Mapping[int, np.ndarray]],
]
POINTERS = ProductSchedule(16, 32, 16, 4, 2, group=2)
TMA = ProductSchedule(16, 32, 32, 4, 2, tma=True, group=2)
PERSISTENT = ProductSchedule(16, 32, 16, 4, 2, tma=True, persistent=True, group=2)
HALVES = ProductSchedule(16, 32, 16, 4, 2, tma=True, persistent=True, store_parts=2)
SPLIT = ProductSchedule(16, 32, 16, 4, 2, split_k=4)
SPLIT_TMA = ProductSchedule(16, 32, 16, 4, 2, tma=True, split_k=3)
SCALAR = ProductSchedule(8, 16, 0, 4, 1)
BANDS = ProductSchedule(64, 16, 16, 4, 2, bands=4)


@dataclass(frozen=True)
class Case:
    """``sizes``: values of B, one run each. The plan must have so many ``launches`` for so many
    ``steps``; ``product`` is the product's first launch."""

    make: Callable[[GraphBuilder], Graph]
    schedule: ProductSchedule
    launches: int = 1
    sizes: tuple[int, ...] = (0,)
    hints: Mapping[str, int] = field(default_factory=dict)
    steps: int = 1
    product: int = 0


def _input(b: GraphBuilder, shape: Sequence[Dim], dtype: DType, flipped: bool = False) -> Any:
    """A matrix, or batches of them; ``flipped``: its last dimension is not the one without gaps."""
    shape = tuple(shape)
    if not flipped:
        return b.input(TensorType(shape, dtype))
    stored = b.input(TensorType((*shape[:-2], shape[-1], shape[-2]), dtype))
    rank = len(shape)
    return b.permute(stored, axes=(*range(rank - 2), rank - 1, rank - 2))


def product(
    m: Dim,
    n: Dim,
    k: Dim,
    dtype: DType,
    batch: tuple[Dim, ...] = (),
    left: bool = False,
    right: bool = False,
    epilogue: str = "",
) -> Callable[[GraphBuilder], Graph]:
    """``left``, ``right``: the operand is transposed in memory."""

    def make(b: GraphBuilder) -> Graph:
        x = _input(b, (*batch, m, k), dtype, left)
        y = _input(b, (*batch, k, n), dtype, right)
        return b.build(_EPILOGUES[epilogue](b, matmul(b, x, y), (*batch, m, n), dtype))

    return make


def _bias_gelu(b: GraphBuilder, p: Any, shape: tuple[Dim, ...], dtype: DType) -> list[Any]:
    return [gelu(b, b.add(p, b.input(TensorType(shape[-1:], dtype))))]


def _residual(b: GraphBuilder, p: Any, shape: tuple[Dim, ...], dtype: DType) -> list[Any]:
    """Three results: the product, with a residual in another type, and its activation."""
    wide = float32 if dtype is not float64 else float64
    total = b.add(b.cast(p, wide), b.input(TensorType(shape, wide)))
    return [p, total, b.cast(gelu(b, total), dtype)]


def _folded_rows(b: GraphBuilder, p: Any, shape: tuple[Dim, ...], dtype: DType) -> list[Any]:
    """The product, the sums of its columns and, of what an activation makes of it, the largest
    elements, with something that follows them."""
    rows = tuple(range(len(shape) - 1))
    active = gelu(b, b.add(p, b.input(TensorType(shape[-1:], dtype))))
    wide = float32 if dtype is not float64 else float64
    total = b.sum(b.cast(active, wide), axes=rows)
    scaled = b.mul(total, b.input(TensorType(shape[-1:], wide)))
    return [active, scaled, b.amax(active, axes=rows)]


def _only_folded(b: GraphBuilder, p: Any, shape: tuple[Dim, ...], dtype: DType) -> list[Any]:
    return [b.cast(b.sum(b.mul(p, p), axes=tuple(range(len(shape) - 1))), dtype)]


_EPILOGUES: dict[str, Callable[[GraphBuilder, Any, tuple[Dim, ...], DType], list[Any]]] = {
    "": lambda b, p, shape, dtype: [p],
    "bias gelu": _bias_gelu,
    "residual": _residual,
    "softmax": lambda b, p, shape, dtype: [softmax(b, p)],
    "negative": lambda b, p, shape, dtype: [p, b.neg(p)],
    "folded rows": _folded_rows,
    "only folded": _only_folded,
}


def heads(b: GraphBuilder) -> Graph:
    """q @ k^T where both are strided parts of one projection, heads inside the rows."""
    qkv = b.input(TensorType((2, 19, 3, 4, 16), bfloat16))
    shape = (2, 4, 19, 16)

    def part(i: int) -> Any:
        starts, steps = (0, 0, i, 0, 0), (1, 1, 1, 1, 1)
        one = b.slice(qkv, starts=starts, steps=steps, sizes=(2, 19, 1, 4, 16))
        return b.permute(b.reshape(one, shape=(2, 19, 4, 16)), axes=(0, 2, 1, 3))

    assert b.type_of(part(0)).shape == shape
    keys = b.permute(part(1), axes=(0, 1, 3, 2))
    return b.build([matmul(b, part(0), keys)])


def shared_weight(b: GraphBuilder) -> Graph:
    """Batches of one operand with the same matrix of the other."""
    x, w = b.input(TensorType((3, 17, 40), float16)), b.input(TensorType((40, 24), float16))
    return b.build([matmul(b, x, b.expand(w, shape=(3, 40, 24)))])


def unaligned(b: GraphBuilder) -> Graph:
    """A matrix that starts one column behind an aligned address."""
    x, w = b.input(TensorType((17, 41), float32)), b.input(TensorType((40, 24), float32))
    part = b.slice(x, starts=(0, 1), steps=(1, 1), sizes=(17, 40))
    return b.build([matmul(b, part, w)])


def dequantized(b: GraphBuilder) -> Graph:
    """Few rows times weights of one byte that are scaled column by column."""
    x = b.input(TensorType((9, 48), bfloat16))
    w, scale = b.input(TensorType((48, 70), int8)), b.input(TensorType((70,), bfloat16))
    return b.build([gelu(b, matmul(b, x, b.mul(b.cast(w, bfloat16), scale)))])


def scaled_rows(b: GraphBuilder, depth: int = 41) -> Graph:
    """A left operand of many rows, each with a scale of its own, times few columns; 0 becomes 1,
    so that elements outside of the matrix would count if they were not left out."""
    x, scale = b.input(TensorType((70, depth), float32)), b.input(TensorType((70, 1), float32))
    shifted = b.add(b.mul(x, scale), b.full_like(1.0, b.type_of(x)))
    return b.build([matmul(b, shifted, b.input(TensorType((depth, 20), float32)))])


def cast_transposed(b: GraphBuilder, depth: Dim = 300) -> Graph:
    """Both operands are computed, the right one seen transposed."""
    x, w = b.input(TensorType((17, depth), float32)), b.input(TensorType((40, depth), float32))
    half = b.permute(b.cast(w, float16), axes=(1, 0))
    return b.build([matmul(b, b.cast(b.neg(x), float16), half)])


def computed_batches(b: GraphBuilder) -> Graph:
    """Operands with batches, of which one was reshaped from rows after it was computed."""
    x, y = b.input(TensorType((2, 3, 17, 24), float16)), b.input(TensorType((6, 24, 40), float16))
    left = b.reshape(b.mul(x, x), shape=(6, 17, 24))
    return b.build([matmul(b, left, b.neg(y))])


def squared_and_kept(b: GraphBuilder) -> Graph:
    """An operand that is a result, too, is stored first."""
    x = b.input(TensorType((40, 40), float32))
    square = b.mul(x, x)
    return b.build([matmul(b, square, b.input(TensorType((40, 24), float32))), square])


def _layouts() -> dict[str, Case]:
    found = {}
    for dtype in (bfloat16, float32):
        for left in (False, True):
            for right in (False, True):
                make = product(40, 56, 72, dtype, left=left, right=right)
                name = f"{dtype.name} {'t' if left else 'n'}{'t' if right else 'n'}"
                found[f"tma {name}"] = Case(make, TMA)
                found[f"pointers {name}"] = Case(make, POINTERS)
    return found


CASES: dict[str, Case] = {
    **_layouts(),
    "odd": Case(product(33, 47, 29, float16, epilogue="bias gelu"), POINTERS),
    "int8": Case(product(35, 48, 64, int8, epilogue="negative"), TMA),
    "int8 pointers": Case(product(35, 47, 61, int8), replace(POINTERS, depth=32)),
    "uint8": Case(product(35, 48, 64, uint8, right=True), TMA),
    "int8 split": Case(product(35, 48, 128, int8), replace(SPLIT_TMA, depth=32), 2),
    "int32": Case(product(9, 17, 13, int32), SCALAR),
    "float64": Case(product(33, 47, 29, float64, epilogue="residual"), POINTERS),
    "float64 split": Case(product(17, 31, 131, float64), SPLIT, 2),
    "batched": Case(product(33, 40, 48, bfloat16, (2, 3), epilogue="bias gelu"), TMA),
    "batched flipped": Case(product(32, 40, 48, bfloat16, (5,), True, True), TMA),
    "batched odd": Case(product(19, 21, 23, float32, (2, 3)), POINTERS),
    "heads": Case(heads, TMA),
    "shared weight": Case(shared_weight, TMA),
    "unaligned": Case(unaligned, POINTERS),
    "epilogue": Case(product(48, 72, 40, bfloat16, epilogue="residual"), TMA),
    "persistent": Case(product(70, 104, 40, bfloat16, epilogue="bias gelu"), PERSISTENT),
    "persistent batched": Case(product(40, 40, 40, float16, (3,)), PERSISTENT),
    "halves": Case(product(50, 104, 40, bfloat16, epilogue="residual"), HALVES),
    "halves batched": Case(product(24, 40, 40, bfloat16, (2,), epilogue="bias gelu"), HALVES),
    "split": Case(product(17, 40, 300, float32, epilogue="bias gelu"), SPLIT, 2),
    "split by tma": Case(product(33, 40, 296, bfloat16, epilogue="residual"), SPLIT_TMA, 2),
    "split batched": Case(product(17, 24, 120, bfloat16, (2,)), SPLIT_TMA, 2),
    "split softmax": Case(product(17, 24, 120, float32, epilogue="softmax"), SPLIT, 3, steps=2),
    "softmax": Case(product(33, 40, 48, float32, epilogue="softmax"), TMA, 2, steps=2),
    "symbolic rows": Case(
        product(B, 40, 48, bfloat16, epilogue="bias gelu"), TMA, 1, (1, 33), {"B": 4096}
    ),
    "symbolic depth": Case(product(24, 40, B, float32, left=True), TMA, 1, (0, 1, 37)),
    "symbolic depth split": Case(product(24, 40, B, float32, left=True), SPLIT_TMA, 2, (3, 70)),
    "symbolic columns": Case(product(24, B, 40, float16), POINTERS, 1, (1, 33)),
    "symbolic batch": Case(product(17, 24, 32, float16, (B,)), PERSISTENT, 1, (1, 3)),
    "one row": Case(product(1, 40, 64, float32), TMA),
    "dequantized": Case(dequantized, replace(TMA, tma=False)),
    "scaled rows": Case(scaled_rows, POINTERS),
    "scaled rows by tma": Case(lambda b: scaled_rows(b, 64), PERSISTENT),
    "cast transposed": Case(cast_transposed, POINTERS),
    "cast transposed split": Case(cast_transposed, SPLIT, 2),
    "cast transposed symbolic": Case(lambda b: cast_transposed(b, B), POINTERS, 1, (1, 70)),
    "computed batches": Case(computed_batches, replace(TMA, tma=False)),
    "kept operand": Case(squared_and_kept, POINTERS, 2, steps=2, product=1),
    "folded rows": Case(product(50, 40, 48, bfloat16, epilogue="folded rows"), TMA, 2),
    "folded rows odd": Case(product(33, 47, 29, float32, epilogue="folded rows"), POINTERS, 2),
    "folded rows persistent": Case(
        product(70, 104, 40, float32, epilogue="only folded"), PERSISTENT, 2
    ),
    "folded rows in halves": Case(
        product(50, 104, 40, bfloat16, epilogue="folded rows"), HALVES, 2
    ),
    "folded rows batched": Case(
        product(19, 24, 40, float32, (2, 3), epilogue="folded rows"), POINTERS, 2
    ),
    "folded rows split": Case(product(33, 40, 300, float32, epilogue="folded rows"), SPLIT, 2),
    "folded rows of one block": Case(
        product(16, 40, 48, float32, epilogue="folded rows"), POINTERS, 1
    ),
    "folded rows symbolic": Case(
        product(B, 40, 48, float32, epilogue="folded rows"), POINTERS, 2, (1, 33), {"B": 4096}
    ),
    "folded rows, none": Case(
        product(B, 40, 48, float32, epilogue="only folded"), POINTERS, 2, (0, 17), {"B": 4096}
    ),
    "folded rows without matrix instructions": Case(
        product(21, 17, 13, int32, epilogue="only folded"), SCALAR, 2
    ),
    "no depth": Case(product(5, 8, 0, float32), POINTERS),
    "bands": Case(product(75, 47, 29, float32, left=True, epilogue="residual"), BANDS),
    "bands by tma": Case(
        product(72, 40, 48, float32, left=True), replace(BANDS, tma=True, persistent=True)
    ),
    "bands batched": Case(
        product(35, 24, 40, bfloat16, (2, 3), epilogue="folded rows"),
        replace(BANDS, rows=32, bands=2),
        2,
    ),
    "bands split": Case(product(75, 40, 300, float32, left=True), replace(BANDS, split_k=3), 2),
    "bands of scaled rows": Case(scaled_rows, BANDS),
}


def compiled(case: Case, target: str = "sm_90") -> CompiledGraph:
    """The case's graph with its schedule."""
    graph = case.make(GraphBuilder())
    proposed = compile_graph(graph, CodegenOptions(size_hints=case.hints, target=target))
    choice = next(c for c in proposed.choices if isinstance(c.schedule, ProductSchedule))
    options = CodegenOptions(
        size_hints=case.hints, target=target, schedules={choice.key: case.schedule}
    )
    return compile_graph(graph, options)


def operands(graph: Graph, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    arrays = []
    for value in graph.inputs:
        shape, dtype = evaluate_shape(value.type.shape, {"B": size}), value.type.dtype
        if dtype.kind == "float":
            arrays.append(np.asarray(rng.standard_normal(shape)).astype(dtype.numpy))
        else:
            low, high = (-128, 128) if dtype is int8 else (0, 256)
            arrays.append(np.asarray(rng.integers(low, high, shape)).astype(dtype.numpy))
    return arrays


def check_case(name: str, run: RunAll) -> list[str]:
    """What was wrong with the results of a case."""
    case = CASES[name]
    graph, plan = case.make(GraphBuilder()), compiled(case).plan
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    wrong = []
    for size in case.sizes:
        arrays = operands(graph, size, rng)
        outputs, _ = run(plan, arrays, {"B": size} if plan.symbols else {})
        for position, (found, type) in enumerate(
            zip(outputs, (v.type for v in graph.outputs), strict=True)
        ):
            wanted = _wanted(case, arrays, size)[position]
            text = _difference(found, wanted, type.dtype)
            if text:
                wrong.append(f"size {size}, result {position}: {text}")
    return wrong


def _wanted(case: Case, arrays: Sequence[np.ndarray], size: int) -> Sequence[np.ndarray]:
    """The graph in float64, where its elements are floats."""
    graph = case.make(GraphBuilder())
    if graph.inputs[0].type.dtype.kind != "float":
        return evaluate_graph(graph, arrays, {"B": size})[0]
    wide = [a.astype(np.float64) for a in arrays]
    return evaluate_graph(_in_float64(graph), wide, {"B": size})[0]


def _in_float64(graph: Graph) -> Graph:
    """The same operations on float64."""
    b = GraphBuilder()
    known: dict[Any, Any] = {}
    for value in graph.inputs:
        known[value] = b.input(TensorType(value.type.shape, float64))
    for node in graph.nodes:
        attributes = dict(node.attributes)
        for key, given in attributes.items():
            if isinstance(given, DType):
                attributes[key] = float64
            elif isinstance(given, TensorType):
                attributes[key] = TensorType(given.shape, float64)
        made = b.add_node(node.op, [known[v] for v in node.inputs], attributes)
        known.update(zip(node.outputs, made.outputs, strict=True))
    return b.build([known[v] for v in graph.outputs])


def _difference(found: np.ndarray, wanted: np.ndarray, dtype: DType) -> str:
    """Against the largest element: a sum's error depends on what was added up."""
    if dtype.kind != "float":
        return "" if np.array_equal(found, wanted) else f"{found} not {wanted}"[:400]
    scale = max(1.0, float(np.abs(wanted).max(initial=0)))
    tolerance = {"bfloat16": 2.0**-7, "float16": 2.0**-9, "float32": 2e-6, "float64": 1e-14}
    error = np.abs(found.astype(np.float64) - wanted).max(initial=0) / scale
    return "" if error <= tolerance[dtype.name] else f"off by {error:.2e} of {scale:.3g}"


def main() -> None:
    from triton_interpreter import run_plan

    for name in sys.argv[1:]:
        print(json.dumps({"row": name, "wrong": check_case(name, run_plan)}), flush=True)


if __name__ == "__main__":
    main()
