"""What follows a fold is done by the block that comes last, in the launch of the fold."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from interpreted import run_interpreted
from triton_folds import CASES

from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.plan import ExecutionPlan, Launch
from flamec.ir.shape import SymbolicDim, evaluate_dim
from flamec.ir.types import TensorType, bfloat16, float32, int64
from flamec.runtime.kernel_cache import KernelCache

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="the package triton is not installed"
)
N = SymbolicDim.symbol("N")


def plan_of(make: Callable[[GraphBuilder], Graph]) -> ExecutionPlan:
    return compile_graph(make(GraphBuilder())).plan


def counters(plan: ExecutionPlan) -> list[Any]:
    return [b.elements for b in plan.buffers if b.kind == "counters"]


def column_sums(rows: Any, columns: Any) -> Callable[[GraphBuilder], Graph]:
    def make(b: GraphBuilder) -> Graph:
        return b.build([b.sum(b.input(TensorType((rows, columns), bfloat16)), axes=(0,))])

    return make


def test_columns_are_joined_by_the_last_block_that_has_them() -> None:
    plan = plan_of(column_sums(16384, 4096))
    assert len(plan.actions) == 1 and counters(plan) == [64]
    assert "acq_rel" in plan.source
    assert ExecutionPlan.from_json(plan.to_json()) == plan
    symbolic = plan_of(column_sums(2048, N))
    assert len(symbolic.actions) == 1
    (words,) = counters(symbolic)
    assert evaluate_dim(words, {"N": 1}) == 1 and evaluate_dim(words, {"N": 6400}) == 100


def test_sums_over_everything_are_one_launch() -> None:
    def make(b: GraphBuilder) -> Graph:
        x = b.input(TensorType((1 << 20,), float32))
        total = b.sum(x, axes=(0,))
        return b.build([total, b.sqrt(total)])

    plan = plan_of(make)
    (launch,) = plan.actions
    assert isinstance(launch, Launch) and launch.grid[0] > 1 and counters(plan) == [1]


@pytest.mark.parametrize(("shape", "op"), [((1 << 20,), "argmax"), ((4, 300_007), "argmin"),
                                           ((4, 1 << 18), "sum"), ((N,), "argmax")])  # fmt: skip
def test_long_rows_are_joined_by_their_last_block(shape: Any, op: str) -> None:
    def make(b: GraphBuilder) -> Graph:
        x = b.input(TensorType(shape, float32))
        return b.build([getattr(b, op)(x, axes=(len(shape) - 1,))])

    options = CodegenOptions(size_hints={"N": 1 << 24})
    plan = compile_graph(make(GraphBuilder()), options).plan
    (launch,) = plan.actions
    assert isinstance(launch, Launch) and launch.grid[0] >= 256
    assert counters(plan) == [shape[0] if len(shape) > 1 else 1]


def test_one_block_counts_nothing() -> None:
    def make(b: GraphBuilder) -> Graph:
        return b.build([b.sum(b.input(TensorType((100,), float32)), axes=(0,))])

    plan = plan_of(make)
    assert len(plan.actions) == 1 and counters(plan) == [] and "atomic" not in plan.source


def test_the_word_for_errors_may_lie_anywhere() -> None:
    """It is 8 bytes in a table, where kernels take other addresses for multiples of 16."""

    def make(b: GraphBuilder) -> Graph:
        table, rows = b.input(TensorType((100, 64), float32)), b.input(TensorType((3000,), int64))
        return b.build([b.sum(b.index(table, rows, dims=(0,)), axes=(0, 1))])

    plan = plan_of(make)
    (kernel,) = plan.kernels
    names = {name for name, _ in kernel.parameters}
    assert {"errors", "counters"} <= names
    assert "errors" not in kernel.aligned and "p0" in kernel.aligned


def test_many_partial_results_of_a_column_are_joined_by_many_blocks() -> None:
    """One block would read them one after the other."""
    plan = plan_of(column_sums(1 << 20, 64))
    assert len(plan.actions) == 2 and counters(plan) == []


def test_results_that_other_columns_are_computed_from_wait_for_all() -> None:
    """A new value is stored where the old one is read: by the same columns, or by others."""
    plans = {name: plan_of(CASES[name].make) for name in ("same columns", "other columns")}
    assert len(plans["same columns"].actions) == 1
    assert len(plans["other columns"].actions) == 2


@needs_triton
def test_in_the_interpreter() -> None:
    """Every case at the full level, which takes three minutes."""
    full = os.environ.get("FLAMEC_TEST_LEVEL") == "full"
    quick = ["rows of any length", "position in everything", "positions between", "loss"]
    names = list(CASES) if full else [*quick, "positions along any columns"]
    results = run_interpreted("triton_folds.py", names)
    assert [r["row"] for r in results] == names
    assert not {r["row"]: r["wrong"] for r in results if r["wrong"]}


@needs_triton
def test_long_rows_of_unknown_length_lose_nothing_to_rounding() -> None:
    """600 additions of 0.1 one after the other would lose some 50 units."""
    (result,) = run_interpreted("triton_folds.py", ["long row"])
    assert result["units"] <= 2


@pytest.mark.parametrize("narrow", [False, True])
def test_sizes_of_more_than_32_bits(narrow: bool) -> None:
    """The joining part is small; the launch has the sizes of the part before, too."""
    b = GraphBuilder()
    graph = b.build([b.argmax(b.input(TensorType((N,), int64)), axes=(0,))])
    options = CodegenOptions(size_hints={"N": 1 << 32}, narrow=narrow)
    (kernel,) = compile_graph(graph, options).plan.kernels
    sizes = [kind for name, kind in kernel.parameters if name.startswith("n_")]
    assert sizes == ["i32" if narrow else "i64"]


@needs_triton
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_120"])
def test_machine_code(target: str, tmp_path: Path) -> None:
    """The counter is taken with release and acquire, between barriers of the block."""
    from flamec.runtime.cuda.triton_compiler import build_kernel

    (kernel,) = plan_of(column_sums(16384, 4096)).kernels
    binary = build_kernel(kernel, target, KernelCache(tmp_path))
    assert binary.stack_bytes == 0
    lines = [line.strip() for line in binary.texts["ptx"].splitlines()]
    (atomic,) = (i for i, line in enumerate(lines) if "atom.global" in line)
    assert "acq_rel" in lines[atomic] and ".gpu." in lines[atomic]
    stores = [i for i, line in enumerate(lines[:atomic]) if "st.global" in line]
    assert stores, "partial results are stored before"
    between = lines[stores[-1] : atomic]
    assert any(line.startswith("bar.sync") for line in between)
    loads = [i for i, line in enumerate(lines) if i > atomic and "ld.global" in line]
    assert loads and any(line.startswith("bar.sync") for line in lines[atomic : loads[0]])
