"""What sorts, searches and positions of extremes become on a GPU: launches, and what they check."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.codegen.triton.tiling import SCANNED_STRIP, STRIP, Tile, propose
from flamec.cuda_backend import CudaRunner
from flamec.errors import OperationError
from flamec.ir.builder import GraphBuilder
from flamec.ir.kernel import RowProgram
from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import Dim, SymbolicDim, evaluate_shape
from flamec.ir.types import DType, TensorType, bfloat16, float32, float64, int32, int64, uint8

N = SymbolicDim.symbol("N")
BOUNDED = CodegenOptions(size_hints={"N": 700}, size_bounds={"N": 1000})


def sorted_line(
    size: Dim, dtype: DType, options: CodegenOptions | None = None, beside: int = 1
) -> ExecutionPlan:
    """The plan of a sort of lines of which so many lie beside each other."""
    b = GraphBuilder()
    x = b.input(TensorType((size, beside), dtype))
    return compile_graph(b.build([*b.sort(x, axis=0, descending=False)]), options).plan


@pytest.mark.parametrize(
    ("dtype", "digits", "before"),
    [(float32, 4, 0), (bfloat16, 2, 0), (uint8, 1, 0), (int64, 8, 2), (int32, 4, 2)],
)
def test_long_lines_take_three_launches_a_digit(dtype: DType, digits: int, before: int) -> None:
    """``before``: that find how many digits integers differ in."""
    plan = sorted_line(1 << 20, dtype)
    assert len(plan.actions) == before + 3 * digits
    assert len(plan.kernels) <= 10  # the digit is an argument
    options = CodegenOptions(size_hints={"N": 1 << 20})
    assert len(sorted_line(N, dtype, options).actions) == before + 3 * digits


def test_of_many_64_bit_keys_four_digits_are_tried_first() -> None:
    for dtype in (int64, float64):
        assert len(sorted_line(1 << 23, dtype).actions) == 2 + 3 * 4 + 2 + 3 * 8


def test_few_of_long_lines_are_found_by_digits() -> None:
    def launches(size: Dim, count: int, dtype: DType = float32, hint: int = 1 << 20) -> int:
        b = GraphBuilder()
        x = b.input(TensorType((64, size), dtype))
        graph = b.build([*b.topk(x, axis=1, count=count, largest=True)])
        return len(compile_graph(graph, CodegenOptions(size_hints={"N": hint})).plan.actions)

    assert launches(50257, 50) == 1 + 2 * 5 + 2  # three digits of the key, two of the place
    assert launches(N, 1000, bfloat16) == 1 + 2 * 5 + 2
    assert launches(N, 5000) == launches(N, 50, hint=1 << 13) == 3 * 4
    assert launches(10000, 50) == 2  # each block keeps its first ones


def test_a_line_that_a_block_holds_takes_one_launch_a_word() -> None:
    for size in (2, 256, 257, 4096):
        assert len(sorted_line(size, float32).actions) == 1
        assert len(sorted_line(size, int64).actions) == 2
    assert len(sorted_line(N, float32, BOUNDED).actions) == 1
    hinted = CodegenOptions(size_hints={"N": 700})  # a longer one may come
    assert len(sorted_line(N, float32, hinted).actions) == 3 * 4


def test_lines_without_elements_have_no_blocks() -> None:
    """A block divides by the number of blocks of its line."""
    for dtype in (float32, int64):
        for plan in (sorted_line(0, dtype, beside=3), sorted_line(N, dtype, BOUNDED, beside=3)):
            grids = [evaluate_shape(action.grid, {"N": 0}) for action in plan.actions]
            assert grids and all(0 in grid for grid in grids)


def test_results_of_more_than_2_to_31_elements_are_stored_at_64_bit_places() -> None:
    """Also where a place comes from a count, which has 32 bits."""
    (move,) = {k.text for k in sorted_line(70_000, uint8, beside=40_000).kernels[2:]}
    at = move.index("position = flamec_get(")
    assert "+ column" in move[at : move.index("\n", at)]
    assert ".to(tl.int64)" in move[at : move.index("\n", at)]


def position(shape: tuple[int, ...], axis: int, op: str = "argmax") -> ExecutionPlan:
    b = GraphBuilder()
    x = b.input(TensorType(shape, float32))
    return compile_graph(b.build([getattr(b, op)(x, axes=(axis,))])).plan


def test_positions_along_columns_are_found_in_pieces_by_one_launch() -> None:
    plan = position((4096, 1024), 0)
    (launch,) = plan.actions
    assert launch.grid[0] >= 1024
    assert (
        "tl.int64"
        not in plan.source.split("def flamec_reduction_argmax_rows")[1]
        .split("tl.reduce")[1]
        .split("keep_dims")[0]
    )


def test_positions_in_pieces_have_32_bits_where_those_behind_the_end_fit() -> None:
    for size, dtype in ((1 << 20, int32), ((1 << 31) - 1, int64)):
        temporaries = [b for b in position((size,), 0).buffers if b.kind == "temporary"]
        assert [b.dtype for b in temporaries] == [float32, dtype]


def tile_of(shape: tuple[int, ...], axis: int, op: str) -> tuple[int, int]:
    b = GraphBuilder()
    x = b.input(TensorType(shape, float32))
    argument = {"axis": axis} if op == "cumsum" else {"axes": (axis,)}
    seen: list[tuple[int, int]] = []

    def choose(program: RowProgram, options: CodegenOptions) -> Tile:
        tile = propose(program, options)
        seen.append((tile.rows, tile.columns))
        return tile

    compile_graph(b.build([getattr(b, op)(x, **argument)]), CodegenOptions(), choose)
    return seen[0]


def test_rows_are_lanes_where_they_lie_side_by_side() -> None:
    assert tile_of((4096, 1024), 1, "cumsum")[0] == 1
    assert tile_of((4096, 1024), 0, "cumsum")[0] == SCANNED_STRIP
    assert tile_of((4096, 1024), 0, "argmax")[0] == STRIP
    assert tile_of((64, 21, 256, 256), 1, "argmax") == (512, 1)


def test_places_that_exist_are_not_checked() -> None:
    def plan(inside: bool) -> ExecutionPlan:
        b = GraphBuilder()
        x, place = b.input(TensorType((100, 50), float32)), b.input(TensorType((100,), int64))
        row = b.iota(shape=(100,), axis=0, dtype=int64)
        found = b.index(x, row, place, **({"inside": True} if inside else {}))
        return compile_graph(b.build([b.exp(found)])).plan

    source = plan(inside=False).source
    assert "flamec_report(errors, 2" in source
    assert "flamec_report(errors, 1" not in source  # the row is a counter
    assert "flamec_report" not in plan(inside=True).source


def test_a_block_gives_up_as_one() -> None:
    """Threads that see what other blocks write at different times would leave others alone at a
    barrier, with places in shared memory that nobody has written."""
    (kernel,) = [k for k in sorted_line(1 << 24, int64).kernels if k.function.endswith("alike")]
    loads = [line for line in kernel.text.splitlines() if "volatile" in line]
    assert len(loads) == 1 and "given_up = tl.load(" in loads[0]
    assert "if tl.max((given_up != 0)" in kernel.text


def test_symbolic_lines_that_are_too_long_are_refused_when_sizes_are_known() -> None:
    plan = ExecutionPlan.from_json(sorted_line(N * 2, uint8).to_json())
    bound: list[tuple[int, ...]] = []
    program = SimpleNamespace(
        plan=plan,
        bind=lambda *sizes: bound.append(sizes) or SimpleNamespace(plan=plan, addresses=[]),
    )
    runner = CudaRunner(cast("Any", SimpleNamespace()), cast("Any", program), ("N",))
    runner.bind(((1 << 30) - 1,))
    assert bound == [(((1 << 30) - 1,), ((1 << 30) - 1,))]
    with pytest.raises(OperationError, match="sort: a line of 2147483648 elements is too long"):
        runner.bind((1 << 30,))
    assert len(bound) == 1
