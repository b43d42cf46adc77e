"""Attention as GPU kernels in every form, against the definition in float64.

``CASES`` maps a name to sizes, bounds and layouts. Run as a program with TRITON_INTERPRET=1 and
names of cases: a line of JSON for each with what was wrong.
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
from flamec.codegen.compile_graph import CompiledGraph
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.attention_schedule import AttentionSchedule
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Value
from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import Dim, SymbolicDim, evaluate_dim, evaluate_shape
from flamec.ir.types import DType, TensorType, bfloat16, bool_, float16, float32

B = SymbolicDim.symbol("B")
T = SymbolicDim.symbol("T")
RunAll = Callable[
    [ExecutionPlan, Sequence[np.ndarray], Mapping[str, int]],
    tuple[Sequence[np.ndarray], Mapping[int, np.ndarray]],
]
RESULTS = ("output", "logarithm", "of query", "of key", "of value")


@dataclass(frozen=True)
class Case:
    """``rows`` queries, ``columns`` keys of ``depth`` numbers, values of ``width``.

    ``layout``: ``"heads"`` (batch, heads, length, numbers), ``"lengths"`` (batch, length, heads,
    numbers), ``"packed"`` (lengths, the three of them in one array), ``"shared"`` (two heads of
    queries share one of keys and values). ``sizes``: values of B and T. ``joined``: the gradients
    are wanted side by side, as the operands of a packed layout lie.
    """

    rows: Dim
    columns: Dim
    depth: int
    width: int
    lower: Dim | None = None
    upper: Dim | None = None
    mask: str = ""
    layout: str = "heads"
    dtype: DType = bfloat16
    batch: Dim = 2
    heads: int = 2
    zero_rows: bool = True
    target: str = "sm_90"
    schedule: AttentionSchedule | None = None
    sizes: tuple[tuple[int, int], ...] = ((2, 7),)
    narrow: bool = False
    joined: bool = False


SMALL = AttentionSchedule(16, 32, 4, 2)
OTHER = AttentionSchedule(32, 16, 4, 1)
ENGINE = AttentionSchedule(16, 32, 4, 2, tma=True)
GROUPS = AttentionSchedule(16, 32, 4, 2, group=3)
CASES = {
    "plain": Case(128, 256, 64, 64, schedule=ENGINE),
    "causal": Case(96, 96, 64, 64, upper=0, schedule=ENGINE, layout="packed"),
    "causal by pointers": Case(70, 70, 32, 32, upper=0, schedule=SMALL, layout="lengths"),
    "causal from the end": Case(33, 70, 32, 32, upper=37, schedule=OTHER),
    "fewer keys": Case(70, 33, 32, 32, upper=-20, schedule=GROUPS),
    "window": Case(100, 120, 16, 16, lower=-9, upper=14, schedule=SMALL),
    "before": Case(100, 120, 16, 16, lower=5, schedule=OTHER, layout="lengths"),
    "odd": Case(67, 35, 20, 44, schedule=SMALL, dtype=float16),
    "odd by the engine": Case(67, 35, 24, 40, schedule=ENGINE, dtype=float16, upper=3),
    "mask": Case(35, 67, 32, 16, mask="bool", schedule=SMALL),
    "mask of a causal one": Case(35, 67, 32, 16, mask="bool", upper=9, schedule=ENGINE),
    "padding": Case(35, 67, 32, 16, mask="padding", schedule=ENGINE, layout="lengths"),
    "added": Case(35, 67, 32, 16, mask="float", schedule=SMALL, dtype=float16),
    "rows of NaN": Case(40, 20, 16, 16, upper=-10, schedule=SMALL, zero_rows=False),
    "shared": Case(40, 52, 16, 16, upper=0, layout="shared", heads=4, schedule=ENGINE),
    "symbolic": Case(T, T, 32, 32, upper=0, batch=B, layout="packed", sizes=((1, 5), (3, 130))),
    "symbolic, narrow": Case(
        T, 2 * T + 1, 32, 32, batch=B, upper=T, sizes=((1, 5), (2, 70)), narrow=True
    ),
    "joined": Case(96, 96, 64, 64, upper=0, schedule=ENGINE, layout="packed", joined=True, heads=3),
    "joined by pointers": Case(
        70, 70, 24, 24, schedule=SMALL, layout="packed", joined=True, dtype=float16
    ),
    "joined, symbolic": Case(
        T, T, 32, 32, upper=0, batch=B, layout="packed", sizes=((1, 5), (3, 70)), joined=True
    ),
    "one query": Case(1, 50, 64, 64, schedule=SMALL),
    "no target with an engine": Case(70, 70, 64, 64, upper=0, target="sm_80"),
}


def graph_of(case: Case, backward: bool = True) -> Graph:
    """Attention and its gradients, from the operands and the gradient of the output."""
    b = GraphBuilder()

    def operand(length: Dim, numbers: int, heads: int = case.heads) -> Value:
        if case.layout in ("heads", "shared"):
            x = b.input(TensorType((case.batch, heads, length, numbers), case.dtype))
            if heads == case.heads:
                return x
            spread: Any = b.reshape(x, shape=(case.batch, heads, 1, length, numbers))
            times = case.heads // heads
            spread = b.expand(spread, shape=(case.batch, heads, times, length, numbers))
            return b.reshape(spread, shape=(case.batch, case.heads, length, numbers))
        return b.permute(
            b.input(TensorType((case.batch, length, case.heads, numbers), case.dtype)),
            axes=(0, 2, 1, 3),
        )

    def packed() -> list[Value]:
        size = case.heads * case.depth
        x = b.input(TensorType((case.batch, case.rows, 3 * size), case.dtype))
        parts = []
        for number in range(3):
            starts, sizes = (0, 0, number * size), (case.batch, case.rows, size)
            part = b.slice(x, starts=starts, sizes=sizes, steps=(1, 1, 1))
            part = b.reshape(part, shape=(case.batch, case.rows, case.heads, case.depth))
            parts.append(b.permute(part, axes=(0, 2, 1, 3)))
        return parts

    shared = case.heads // 2 if case.layout == "shared" else case.heads
    if case.layout == "packed":
        q, k, v = packed()
    else:
        q = operand(case.rows, case.depth)
        k = operand(case.columns, case.depth, shared)
        v = operand(case.columns, case.width, shared)
    g = operand(case.rows, case.width)
    shape = (case.batch, case.heads, case.rows, case.columns)
    mask: list[Any] = []
    if case.mask == "bool":
        mask = [b.expand(b.input(TensorType((1, 1, *shape[2:]), bool_)), shape=shape)]
    elif case.mask == "padding":
        mask = [b.expand(b.input(TensorType((case.batch, 1, 1, shape[3]), bool_)), shape=shape)]
    elif case.mask:
        mask = [b.expand(b.input(TensorType((case.batch, 1, *shape[2:]), float32)), shape=shape)]
    order = (0, 1, 2, 3) if case.layout in ("heads", "shared") else (0, 2, 1, 3)
    attributes = {
        "scale": case.depth**-0.5,
        "lower": case.lower,
        "upper": case.upper,
        "zero_rows": case.zero_rows,
    }
    output, logarithm = b.attention(q, k, v, *mask, orders=(order,), **attributes)
    if not backward:
        return b.build([output, logarithm])
    wide, turned = case.dtype.compute, b.permute(output, axes=order)
    rows = b.mul(b.cast(g, wide), b.cast(turned, wide))
    delta = b.sum(rows, axes=(3,))
    orders = (order,) * 3
    found = b.attention_backward(q, k, v, *mask, g, logarithm, delta, orders=orders, **attributes)
    return b.build([output, logarithm, *(_side_by_side(b, case, found) if case.joined else found)])


def _side_by_side(b: GraphBuilder, case: Case, parts: Sequence[Any]) -> list[Any]:
    """As the derivative of splitting an array puts the parts together."""
    size, total = case.heads * case.depth, None
    for number, part in enumerate(parts):
        flat = b.reshape(part, shape=(case.batch, case.rows, size))
        low, high = (0, 0, number * size), (0, 0, (2 - number) * size)
        one = b.pad(flat, b.constant(0.0, b.type_of(flat)), low=low, high=high)
        total = one if total is None else b.add(total, one)
    return [total]


def compiled(case: Case, backward: bool = True) -> CompiledGraph:
    """With the case's schedule for every launch, if it has one."""
    graph = graph_of(case, backward)
    options = CodegenOptions(target=case.target, narrow=case.narrow)
    if case.schedule is not None:
        schedules = {
            c.key: case.schedule
            for c in compile_graph(graph, options).choices
            if isinstance(c.schedule, AttentionSchedule)
        }
        options = CodegenOptions(target=case.target, narrow=case.narrow, schedules=schedules)
    return compile_graph(graph, options)


def arrays_of(graph: Graph, sizes: Mapping[str, int], seed: str) -> list[np.ndarray]:
    """Operands; a few rows of a bool mask are empty."""
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    found = []
    for value in graph.inputs:
        shape = evaluate_shape(value.type.shape, sizes)
        if value.type.dtype is bool_:
            mask = rng.random(shape) < 0.6
            mask[..., 1::7, :] = False
            found.append(mask)
        else:
            found.append(rng.standard_normal(shape).astype(value.type.dtype.numpy))
    return found


def expected(
    case: Case, arrays: Sequence[np.ndarray], sizes: Mapping[str, int]
) -> list[np.ndarray]:
    """By definition, in the case's layout; gradients of shared keys are those of each head."""
    wide = [a if a.dtype == np.bool_ else a.astype(np.float64) for a in arrays]
    turned = case.layout in ("lengths", "packed")
    if case.layout == "packed":
        parts = np.split(wide[0], 3, axis=-1)
        split = (*parts[0].shape[:2], case.heads, case.depth)
        wide = [*(p.reshape(split) for p in parts), *wide[1:]]
    matrices, mask = wide[:4], wide[4:]
    q, k, v, g = (a.swapaxes(1, 2) if turned else a for a in matrices)
    if case.layout == "shared":
        k, v = (np.repeat(x, 2, axis=1) for x in (k, v))
    scores = case.depth**-0.5 * q @ k.swapaxes(-1, -2)
    away = np.arange(k.shape[2]) - np.arange(q.shape[2])[:, None]
    if case.lower is not None:
        scores = np.where(away >= evaluate_dim(case.lower, sizes), scores, -np.inf)
    if case.upper is not None:
        scores = np.where(away <= evaluate_dim(case.upper, sizes), scores, -np.inf)
    for m in mask:
        scores = np.where(m, scores, -np.inf) if m.dtype == np.bool_ else scores + m
    largest = scores.max(-1, keepdims=True)
    largest = np.where(np.isinf(largest), 0, largest)
    powers = np.exp(scores - largest)
    total = powers.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        logarithm = (largest + np.log(total))[..., 0]
    weights = powers / np.where(total == 0, 1, total)
    seen = g @ v.swapaxes(-1, -2)
    inner = weights * (seen - (weights * seen).sum(-1, keepdims=True)) * case.depth**-0.5
    output = weights @ v
    if not case.zero_rows:
        output = np.where(total == 0, np.nan, output)
        logarithm = np.where(total[..., 0] == 0, np.nan, logarithm)
    of_keys = inner.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ g
    found = [output, logarithm, inner @ k, *of_keys]
    found = [x.swapaxes(1, 2) if turned and x.ndim == 4 else x for x in found]
    if case.joined:
        flat = [x.reshape(*x.shape[:2], case.heads * case.depth) for x in found[2:]]
        found = [*found[:2], np.concatenate(flat, -1)]
    return found


def check(name: str, run: RunAll) -> list[str]:
    """What is wrong with the results of a case."""
    case = CASES[name]
    graph, plan = graph_of(case), compiled(case).plan
    problems = []
    for batch, length in case.sizes:
        sizes = {"B": batch, "T": length}
        sizes = {symbol: sizes[symbol] for symbol in plan.symbols}
        arrays = arrays_of(graph, sizes, f"{name} {batch} {length}")
        outputs, _ = run(plan, arrays, sizes)
        wanted = expected(case, arrays, sizes)
        empty = np.isnan(wanted[1])
        labels = (*RESULTS[:2], "of all") if case.joined else RESULTS
        for label, got, want in zip(labels, outputs, wanted, strict=True):
            problem = _difference(got.astype(np.float64), want, label, case, empty)
            if problem:
                problems.append(f"{label} {sizes}: {problem}")
    return problems


def _difference(
    got: np.ndarray, want: np.ndarray, label: str, case: Case, empty: np.ndarray
) -> str:
    """16-bit results are rounded once, weights before they are multiplied, too."""
    if label.startswith("of ") and empty.any():
        return ""  # the gradients of rows of NaN are anything
    if not np.array_equal(np.isfinite(got), np.isfinite(want)):
        return "not finite at other places"
    if not np.array_equal(got[~np.isfinite(got)], want[~np.isfinite(want)], equal_nan=True):
        return "other numbers that are not finite"
    finite = np.isfinite(want)
    step = 2.0**-8 if case.dtype is bfloat16 else 2.0**-11
    if label == "logarithm":
        step = 2.0**-20
    error = np.abs(got[finite] - want[finite]).max(initial=0.0)
    size = np.abs(want[finite]).max(initial=1.0)
    return "" if error <= 3 * step * size else f"error {error:.2g} of {size:.2g}"


def main() -> None:
    from triton_interpreter import run_plan

    for name in sys.argv[1:]:
        print(json.dumps({"row": name, "wrong": check(name, run_plan)}), flush=True)


if __name__ == "__main__":
    main()
