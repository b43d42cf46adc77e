"""Matrix products on a GPU without a GPU: forms in Triton's interpreter, choices, machine code."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from interpreted import run_interpreted
from triton_graphs import matmul, softmax
from triton_products import (
    CASES,
    POINTERS,
    TMA,
    B,
    compiled,
    dequantized,
    heads,
    product,
    scaled_rows,
    squared_and_kept,
)

from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.choice import Choice, ScheduleWarning, candidates
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.codegen.triton.product_schedule import ProductSchedule, target_facts
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.plan import ExecutionPlan, Launch
from flamec.ir.shape import Dim, SymbolicDim
from flamec.ir.types import TensorType, bfloat16, float16, float32, float64, int8, int32
from flamec.runtime.kernel_cache import KernelCache

TESTS = Path(__file__).parents[1]
FULL = os.environ.get("FLAMEC_TEST_LEVEL") == "full"
TARGETS = ("sm_80", "sm_90", "sm_120")
GOLDEN = ("tma bfloat16 nt", "halves batched", "symbolic depth split", "odd", "dequantized")
LARGE = {
    "plain": product(4096, 4096, 4096, bfloat16),
    "gelu": product(16384, 3072, 768, bfloat16, epilogue="bias gelu"),
    "short sums": product(16384, 3072, 768, bfloat16),
    "float32": product(2048, 2048, 2048, float32),
    "few rows": product(8, 4096, 4096, bfloat16, right=True),
    "gelu of long rows": product(8192, 8192, 8192, float16, epilogue="bias gelu"),
    "gradient": product(768, 3072, 32768, bfloat16, left=True),
    "batched": product(1024, 1024, 64, bfloat16, (128,), right=True),
    "symbolic": product(B, 3072, 768, bfloat16, epilogue="bias gelu"),
    "odd": product(1000, 1001, 999, bfloat16, epilogue="residual"),
    "float64": product(1024, 1024, 1024, float64),
    "int8": product(4096, 4096, 4096, int8),
    "int32": product(100, 100, 100, int32),
}
needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="the package triton is not installed"
)


def cast_rows(b: GraphBuilder, rows: Dim) -> Graph:
    """A weight that is converted before it is multiplied."""
    x, w = b.input(TensorType((rows, 64), bfloat16)), b.input(TensorType((64, 512), float32))
    return b.build([matmul(b, x, b.cast(w, bfloat16))])


def choice_of(name: str, options: CodegenOptions | None = None) -> Choice:
    return compile_graph(LARGE[name](GraphBuilder()), options).choices[0]


def schedule_of(name: str, options: CodegenOptions | None = None) -> ProductSchedule:
    schedule = choice_of(name, options).schedule
    assert isinstance(schedule, ProductSchedule)
    return schedule


@pytest.mark.parametrize("name", CASES)
def test_plan(name: str) -> None:
    """The schedule is obeyed, in as many launches as the case says."""
    case, plan = CASES[name], compiled(CASES[name]).plan
    assert ExecutionPlan.from_json(plan.to_json()) == plan
    launches = [action for action in plan.actions if isinstance(action, Launch)]
    assert len(launches) == len(plan.actions) == case.launches
    assert len(plan.steps) == case.steps  # folds stay apart
    first = launches[case.product]
    source = plan.kernels[first.kernel]
    described = [kind for _, kind in source.parameters if kind.startswith("tensordesc")]
    computed = name.startswith("scaled")  # one operand is loaded by pointers
    assert len(described) >= 2 - computed if case.schedule.tma else not described
    assert len([a for a in first.arguments if a.shape]) == len(described)
    assert first.per_processor == case.schedule.persistent
    assert source.options["num_warps"] == case.schedule.warps


@pytest.mark.parametrize("name", GOLDEN)
def test_source(name: str) -> None:
    file = TESTS / "golden" / f"triton_product_{name.replace(' ', '_')}.txt"
    source = compiled(CASES[name]).plan.source
    if os.environ.get("FLAMEC_UPDATE_GOLDEN") == "1":
        file.write_text(source)
    assert source == file.read_text()


@needs_triton
def test_in_the_interpreter() -> None:
    names = list(CASES)
    results = run_interpreted("triton_products.py", names)
    assert [r["row"] for r in results] == names
    assert not {r["row"]: r["wrong"] for r in results if r["wrong"]}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", LARGE)
def test_candidates_fit_the_target(name: str, target: str) -> None:
    options, facts = CodegenOptions(target=target), target_facts(target)
    choice = choice_of(name, options)
    found = candidates(choice.part, options, 16)
    assert choice.schedule == found[0]
    assert len(set(found)) == len(found) <= 16
    for s in found:
        assert isinstance(s, ProductSchedule)
        assert facts.tma or not s.tma
        assert s.stages * s.depth * (s.rows + s.columns) * 2 <= 2 * facts.shared_bytes


def test_large_products_use_the_copy_engine() -> None:
    best = schedule_of("plain")
    assert (best.rows, best.columns, best.depth, best.warps) == (128, 256, 64, 8)
    assert best.tma and not best.persistent and best.split_k == 1
    assert not schedule_of("odd").tma  # rows of 999 elements are not aligned


def test_short_sums_of_large_results_are_persistent() -> None:
    best = schedule_of("short sums")
    assert best.persistent and best.store_parts == 2 and best.rows * best.columns == 128 * 256


def test_unknown_rows_get_a_large_tile() -> None:
    for options in (CodegenOptions(), CodegenOptions(size_hints={"B": 16384})):
        best = schedule_of("symbolic", options)
        assert best.tma and best.rows * best.columns >= 128 * 128
    few = schedule_of("symbolic", CodegenOptions(size_hints={"B": 4}))
    assert few.tma and few.rows == 16


def test_long_sums_of_small_results_are_split() -> None:
    assert schedule_of("gradient").split_k > 1
    graph = product(64, 64, 65536, bfloat16)(GraphBuilder())
    best = compile_graph(graph).choices[0].schedule
    assert isinstance(best, ProductSchedule) and best.split_k >= 8


def test_sums_that_take_no_longer_than_a_launch_are_not_split() -> None:
    best = compile_graph(product(128, 128, 4096, bfloat16)(GraphBuilder())).choices[0].schedule
    assert isinstance(best, ProductSchedule) and best.split_k == 1


def test_a_depth_that_is_one_step_at_most_is_no_loop() -> None:
    """Where operands come by pointers: descriptors cannot be read if there are no elements."""

    def source(bound: int, multiple: int = 1) -> str:
        b, n = GraphBuilder(), SymbolicDim.symbol("n") * multiple
        x, y = (b.input(TensorType((4, n, n), float32)) for _ in range(2))
        graph = b.build([b.dot_general(x, y, contract=((2,), (1,)), batch=((0,), (0,)))])
        sizes = {"n": bound // multiple}
        options = CodegenOptions(size_bounds=sizes, size_hints=sizes, float32_products="tf32x3")
        return compile_graph(graph, options).plan.source

    assert "for first in range(0, 64, 64)" in source(64)
    assert "for first in range(0, (n_n).to(tl.int32)" in source(128)
    assert "for first in range(0, (4*n_n).to(tl.int32)" in source(64, 4)


def test_rows_are_folded_where_no_other_kernel_does() -> None:
    """The gradient of a bias is an epilogue; beside a kernel of whole rows it is part of that."""

    def steps(with_softmax: bool) -> list[str]:
        b = GraphBuilder()
        x, w = (b.input(TensorType(shape, float32)) for shape in ((4096, 64), (64, 256)))
        y = matmul(b, x, w)
        results = [y, b.sum(y, axes=(0,))]
        return [
            "+".join(s.operations)
            for s in compile_graph(
                b.build([*results, softmax(b, y)] if with_softmax else results)
            ).plan.steps
        ]

    assert steps(False) == ["dot_general+sum"]
    product, rows = steps(True)
    assert product == "dot_general" and rows.count("sum") == 2


def test_integers_without_matrix_instructions() -> None:
    found = candidates(choice_of("int32").part, CodegenOptions(), 16)
    assert found == [ProductSchedule(32, 32, 0, 4, 1)]


def test_schedules_of_others_are_left_alone() -> None:
    graph = LARGE["plain"](GraphBuilder())
    options = CodegenOptions(schedules={"another product": TMA})
    assert compile_graph(graph, options).choices == compile_graph(graph).choices


def test_keys_tell_products_apart() -> None:
    makes = [
        product(64, 64, 64, bfloat16),
        product(64, 64, 64, float16),
        product(64, 64, 64, bfloat16, right=True),
        product(64, 64, 64, bfloat16, epilogue="bias gelu"),
        product(64, 64, 64, bfloat16, (2,)),
    ]
    graphs = [make(GraphBuilder()) for make in makes]
    keys = [compile_graph(graph).choices[0].key for graph in graphs]
    assert len(set(keys)) == len(keys)
    assert compile_graph(graphs[0]).choices[0].key == keys[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 48}, "rows must be a power of two"),
        ({"stages": 0}, "stages must be at least 1"),
        ({"depth": 24}, "depth must be 0 or a power of two"),
        ({"depth": 0}, "depth is 0"),
        ({"store_parts": 4}, "1 or 2 parts"),
    ],
)
def test_schedules_that_make_no_sense(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TMA, **change)


def test_schedules_that_do_not_suit() -> None:
    graph = LARGE["odd"](GraphBuilder())
    choice = compile_graph(graph).choices[0]
    with pytest.warns(ScheduleWarning, match="does not fit .* 1x1024x1024x1024 bf16.* on sm_90"):
        compiled = compile_graph(graph, CodegenOptions(schedules={choice.key: TMA}))
    assert compiled.choices[0].schedule == choice.schedule


def test_targets_have_a_form() -> None:
    with pytest.raises(ValueError, match="form 'sm_90'"):
        CodegenOptions(target="hopper")
    with pytest.raises(ValueError, match="float32_products must be one of"):
        CodegenOptions(float32_products="bf16")


def test_precision_is_in_the_source() -> None:
    graph: Graph = LARGE["float32"](GraphBuilder())
    for precision in ("ieee", "tf32x3", "tf32"):
        options = CodegenOptions(float32_products=precision)
        assert f'input_precision="{precision}"' in compile_graph(graph, options).plan.source
    assert len({CodegenOptions(float32_products=p).key for p in ("ieee", "tf32")}) == 2


@pytest.mark.parametrize(
    ("make", "launches"),
    [
        (scaled_rows, 1),
        (lambda b: scaled_rows(b, 64), 1),
        (dequantized, 1),
        (squared_and_kept, 2),  # the operand is a result
        (lambda b: cast_rows(b, 256), 1),
        (lambda b: cast_rows(b, 257), 2),  # three blocks would compute each element
        (lambda b: cast_rows(b, B), 2),
    ],
)
def test_operands_are_computed_where_that_moves_less(
    make: Callable[[GraphBuilder], Graph], launches: int
) -> None:
    plan = compile_graph(make(GraphBuilder())).plan
    assert len(plan.actions) == launches


def test_strided_operands_are_not_copied() -> None:
    plan = compile_graph(heads(GraphBuilder())).plan
    assert (len(plan.actions), len(plan.buffers)) == (1, 2)


@needs_triton
@pytest.mark.parametrize("target", TARGETS)
def test_machine_code(target: str, tmp_path: Path) -> None:
    """What is proposed keeps its values in registers and fits into shared memory."""
    from flamec.runtime.cuda.triton_compiler import build_kernel

    cache, facts = KernelCache(tmp_path), target_facts(target)
    for name in LARGE if FULL else ("plain", "gelu", "float32", "few rows"):
        options = CodegenOptions(target=target)
        compiled_graph = compile_graph(LARGE[name](GraphBuilder()), options)
        choice = compiled_graph.choices[0]  # what joins the parts of a split depth follows
        binary = build_kernel(compiled_graph.plan.kernels[0], target, cache)
        assert binary.registers <= 255 and binary.stack_bytes <= 16, (name, choice.schedule)
        assert binary.shared_bytes <= facts.shared_bytes, (name, choice.schedule)
        assert bool(binary.tensor_maps) == choice.schedule.tma, name


@needs_triton
@pytest.mark.parametrize("name", ["float64", "int8", "int8 pointers", "persistent", "halves"])
def test_small_forms_become_machine_code(name: str, tmp_path: Path) -> None:
    from flamec.runtime.cuda.triton_compiler import build_kernel

    for kernel in compiled(CASES[name]).plan.kernels:
        binary = build_kernel(kernel, "sm_90", KernelCache(tmp_path))
        assert binary.stack_bytes == 0, name


def test_pointers_where_the_target_has_no_copy_engine() -> None:
    plan = compiled(replace(CASES["tma bfloat16 nn"], schedule=POINTERS), "sm_80").plan
    assert not any("tensordesc" in kind for _, kind in plan.kernels[0].parameters)
