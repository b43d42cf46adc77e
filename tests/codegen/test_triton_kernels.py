"""GPU kernels without a GPU: their source, their results in Triton's interpreter, machine code.

With FLAMEC_UPDATE_GOLDEN=1 the golden sources are written anew.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from interpreted import run_interpreted
from op_row import EVERY
from op_table import COMPILED
from triton_graphs import FAULTS, GRAPHS
from triton_scatters import cases, cases_with_tables, product_cases

from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.ir.builder import GraphBuilder
from flamec.ir.plan import ExecutionPlan, KernelSource, Launch
from flamec.ir.shape import Dim, SymbolicDim
from flamec.ir.types import DType, TensorType, bfloat16, float32, float64
from flamec.runtime.kernel_cache import KernelCache

TESTS = Path(__file__).parents[1]
GOLDEN = ("softmax", "columns", "linear_bf16", "gelu_chain_symbolic")
TARGETS = ("sm_80", "sm_90", "sm_120")
FULL = os.environ.get("FLAMEC_TEST_LEVEL") == "full"
needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="the package triton is not installed"
)


def plan_of(name: str) -> ExecutionPlan:
    return compile_graph(GRAPHS[name](GraphBuilder())).plan


def golden_file(name: str) -> Path:
    return TESTS / "golden" / f"triton_{name}.txt"


@pytest.mark.parametrize("name", GOLDEN)
def test_source(name: str) -> None:
    if os.environ.get("FLAMEC_UPDATE_GOLDEN") == "1":
        golden_file(name).write_text(plan_of(name).source)
    assert plan_of(name).source == golden_file(name).read_text()


@pytest.mark.parametrize("name", GRAPHS)
def test_plan_is_data(name: str) -> None:
    plan = plan_of(name)
    assert plan.language == "triton" and plan.kernels
    assert ExecutionPlan.from_json(plan.to_json()) == plan
    for action in plan.actions:
        if isinstance(action, Launch):
            assert len(action.arguments) == len(plan.kernels[action.kernel].parameters)


def test_softmax_is_one_kernel() -> None:
    plan = plan_of("softmax")
    assert (len(plan.kernels), len(plan.actions), len(plan.steps)) == (1, 1, 1)


def test_equal_parts_share_a_kernel() -> None:
    plan = plan_of("update")
    rows = [k for k in plan.kernels if not k.function.endswith(("once", "end"))]
    launches = [a for a in plan.actions if isinstance(a, Launch)]
    assert len(rows) < len(launches)


def test_symbolic_sizes_are_arguments() -> None:
    plan = plan_of("gelu_chain_symbolic")
    (launch,) = plan.actions
    assert isinstance(launch, Launch)
    assert any(isinstance(a.value, SymbolicDim) for a in launch.arguments)
    assert isinstance(launch.grid[0], SymbolicDim)


def test_hints_choose_tiles_by_powers_of_two() -> None:
    def source(**hints: int) -> str:
        graph = GRAPHS["softmax_symbolic"](GraphBuilder())
        return compile_graph(graph, CodegenOptions(size_hints=hints)).plan.source

    assert source(B=1000) == source(B=513) == source(B=1024)
    assert source(B=1000) != source(B=20)
    assert source(B=20) != source()


@pytest.mark.parametrize("narrow", [False, True])
def test_promised_sizes_are_indexed_by_32_bits(narrow: bool) -> None:
    graph = GRAPHS["softmax_symbolic"](GraphBuilder())
    (kernel,) = compile_graph(graph, CodegenOptions(narrow=narrow)).plan.kernels
    assert dict(kernel.parameters)["n_B"] == ("i32" if narrow else "i64")
    assert ("tl.int64" in kernel.text) is not narrow


def test_random_words_are_made_four_at_a_time() -> None:
    assert "flamec_philox_fours(zero" in plan_of("dropout_norm").source
    assert "flamec_philox_fours(zero" not in plan_of("dropout_norm_odd").source


@needs_triton
@pytest.mark.parametrize("name", ["layer_norm_backward_rows", "column_sums"])
def test_loops_load_ahead(name: str, tmp_path: Path) -> None:
    """What the next rows need is on its way to shared memory while these rows are computed."""
    from flamec.runtime.cuda.triton_compiler import build_kernel

    ptx = build_kernel(plan_of(name).kernels[0], "sm_90", KernelCache(tmp_path)).texts["ptx"]
    assert "cp.async.cg.shared.global" in ptx


@needs_triton
@pytest.mark.parametrize("dtype", [float32, bfloat16], ids=str)
@pytest.mark.parametrize("narrow", [False, True])
def test_multiples_of_sixteen_are_loaded_by_vectors(
    dtype: DType, narrow: bool, tmp_path: Path
) -> None:
    from flamec.runtime.cuda.triton_compiler import build_kernel

    def accesses(size: Dim) -> set[str]:
        b = GraphBuilder()
        x, y = (b.input(TensorType((size,), dtype)) for _ in range(2))
        plan = compile_graph(b.build([b.mul(b.add(x, y), x)]), CodegenOptions(narrow=narrow)).plan
        (kernel,) = plan.kernels
        ptx = build_kernel(kernel, "sm_90", KernelCache(tmp_path)).texts["ptx"]
        return set(re.findall(r"\b(?:ld|st)\.global[.\w:]*", ptx))

    size = SymbolicDim.symbol("s")
    assert accesses(size * 16) == {"ld.global.v4.b32", "st.global.v4.b32"}
    assert not any(".v" in access for access in accesses(size))


@needs_triton
@pytest.mark.parametrize("name", ["pow", "atan2", "exp", "tanh", "erf"])
def test_results_below_the_normal_range_are_kept(name: str, tmp_path: Path) -> None:
    """No instruction but exponentials, whose operands are scaled, replaces such numbers by zero."""
    from flamec.runtime.cuda.triton_compiler import build_kernel

    b = GraphBuilder()
    x = b.input(TensorType((64,), float32))
    made = getattr(b, name)(*([x, x] if name in ("pow", "atan2") else [x]))
    (kernel,) = compile_graph(b.build([made])).plan.kernels
    ptx = build_kernel(kernel, "sm_90", KernelCache(tmp_path)).texts["ptx"]
    flushing = set(re.findall(r"^\s*(\w[\w.]*\.ftz[\w.]*)", ptx, re.M))
    assert flushing <= {"ex2.approx.ftz.f32", "rcp.approx.ftz.f32"}


@needs_triton
@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
def test_a_constant_of_negative_zero_keeps_its_sign(dtype: DType, tmp_path: Path) -> None:
    """Triton 3.6 takes the null value for each number that equals it."""
    from flamec.runtime.cuda.triton_compiler import build_kernel

    b = GraphBuilder()
    x = b.input(TensorType((64,), dtype))
    zero = b.full_like(-0.0, x.type)
    (kernel,) = compile_graph(b.build([b.atan2(zero, x)])).plan.kernels
    built = build_kernel(kernel, "sm_90", KernelCache(tmp_path))
    assert "arith.constant dense<-0.000000e+00>" in built.texts["ttir"]


@needs_triton
def test_the_interpreter_in_less_time_gives_the_same() -> None:
    _interpreted([], 5, "interpreter_shortcuts.py")


@needs_triton
def test_ops_in_the_interpreter() -> None:
    arguments = [row.name for row in COMPILED]
    _interpreted(arguments if FULL else ["--quick", *arguments], len(arguments))


@needs_triton
def test_fused_graphs_in_the_interpreter() -> None:
    """All of them at the full level, and on a GPU; every third otherwise."""
    names = list(GRAPHS) if FULL else list(GRAPHS)[::3]
    _interpreted(names, len(names))


@needs_triton
def test_long_sorts_in_the_interpreter() -> None:
    names = [d.name for d in EVERY] if FULL else ["float32", "bfloat16", "int8", "int64", "float64"]
    _interpreted(names, len(names), "triton_sorts.py")


@needs_triton
def test_scatters_of_many_rows_in_the_interpreter() -> None:
    _interpreted([], len([*cases(), *cases_with_tables(), *product_cases()]), "triton_scatters.py")


@needs_triton
def test_indices_out_of_range_are_reported() -> None:
    _interpreted(list(FAULTS), len(FAULTS))


def test_rows_of_a_scatter_are_shared_by_blocks() -> None:
    """Each place has one owner, or memory adds; no block takes all rows."""

    def scatter(name: str, **options: bool) -> tuple[str, object]:
        graph = GRAPHS[name](GraphBuilder())
        plan = compile_graph(graph, CodegenOptions(**options)).plan
        (launch,) = plan.actions[-1:]
        assert isinstance(launch, Launch)
        return plan.kernels[launch.kernel].text, launch.grid[0]

    text, blocks = scatter("scatter_add")
    assert "place % 512 == block" in text and "tl.atomic" not in text and blocks == 512
    text, blocks = scatter("scatter_add", deterministic=False)
    assert "tl.atomic_add(" in text and blocks == 3
    assert "tl.atomic_max(" in scatter("scatter_max_integers")[0]
    assert "tl.atomic" not in scatter("scatter_max", deterministic=False)[0]


def test_few_long_rows_are_shared_by_blocks() -> None:
    plan = plan_of("few_rows")
    (launch,) = plan.actions
    assert isinstance(launch, Launch) and launch.grid[0] == 18  # six pieces of each of three rows


def test_errors_name_the_operation() -> None:
    plan = plan_of("lookup")
    assert len(plan.errors) == 2 and all(error.endswith("(index)") for error in plan.errors)
    assert [b.kind for b in plan.buffers].count("errors") == 1
    assert not any(b.kind == "errors" for b in plan_of("softmax").buffers)


@needs_triton
def test_training_steps_in_the_interpreter() -> None:
    _interpreted([], 10, "triton_training.py")


@needs_triton
def test_branches_and_loops_in_the_steps_of_a_graph() -> None:
    names = ["decided", "decided_odd", "decided_by_index", *["decided_symbolic"] * FULL]
    _interpreted(names, len(names), "triton_captured.py")


def _interpreted(arguments: list[str], count: int, program: str = "triton_cases.py") -> None:
    results = run_interpreted(program, arguments)
    assert len(results) == count
    wrong = {r["row"]: r["wrong"][:2] for r in results if r["wrong"]}
    assert not wrong


@needs_triton
def test_one_element_under_a_condition_becomes_machine_code(tmp_path: Path) -> None:
    """The condition is a block where the address is a single place."""
    from flamec.runtime.cuda.triton_compiler import build_kernel

    b = GraphBuilder()
    x = b.input(TensorType((3,), float32))
    one = b.slice(x, starts=(1,), sizes=(1,), steps=(1,))
    padded = b.pad(one, b.constant(0.25, x.type), low=(2,), high=(1,))
    for kernel in compile_graph(b.build([padded])).plan.kernels:
        assert build_kernel(kernel, "sm_90", KernelCache(tmp_path)).registers > 0


@needs_triton
@pytest.mark.parametrize("target", TARGETS)
def test_machine_code(target: str, tmp_path: Path) -> None:
    """Each template becomes machine code that keeps its values in registers."""
    from flamec.runtime.cuda.triton_compiler import build_kernel

    cache = KernelCache(tmp_path)
    names = (
        GRAPHS
        if FULL
        else (
            "softmax",
            "columns",
            "linear_bf16",
            "everything",
            "update",
            "scatter_add",
            "dropout_norm",
            "layer_norm_backward_rows",
            "long_softmax",
            "sort_symbolic_doubles",
        )
    )
    sources: dict[str, KernelSource] = {}
    for name in names:
        sources |= {kernel.to_json(): kernel for kernel in plan_of(name).kernels}
    for source in sources.values():
        binary = build_kernel(source, target, cache)
        assert binary.registers <= 255 and binary.stack_bytes <= 16, source.function
        assert binary.shared_bytes <= 99 << 10, source.function
