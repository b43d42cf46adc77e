"""What sorts, searches and positions of extremes become on a GPU: launches, and what they check."""

from __future__ import annotations

import pytest

import flamec.ir.ops  # noqa: F401
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.codegen.triton.tiling import SCANNED_STRIP, STRIP, propose
from flamec.ir.builder import GraphBuilder
from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import Dim, SymbolicDim
from flamec.ir.types import DType, TensorType, bfloat16, float32, int64, uint8

N = SymbolicDim.symbol("N")


def sorted_line(size: Dim, dtype: DType, **options: object) -> ExecutionPlan:
    b = GraphBuilder()
    values, places = b.sort(b.input(TensorType((size,), dtype)), axis=0, descending=False)
    return compile_graph(b.build([values, places]), CodegenOptions(**options)).plan  # type: ignore[arg-type]


@pytest.mark.parametrize(("dtype", "digits"), [(float32, 4), (bfloat16, 2), (uint8, 1), (int64, 8)])
def test_long_lines_take_three_launches_a_digit(dtype: DType, digits: int) -> None:
    plan = sorted_line(1 << 20, dtype)
    assert len(plan.actions) == 3 * digits
    assert len(plan.kernels) <= 9  # the digit is an argument
    assert len(sorted_line(N, dtype, size_hints={"N": 1 << 20}).actions) == 3 * digits


def test_short_lines_are_merged() -> None:
    assert len(sorted_line(512, float32).actions) == 1
    assert len(sorted_line(8192, float32).actions) == 5


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


def tile_of(shape: tuple[int, ...], axis: int, op: str) -> tuple[int, int]:
    b = GraphBuilder()
    x = b.input(TensorType(shape, float32))
    argument = {"axis": axis} if op == "cumsum" else {"axes": (axis,)}
    seen: list[tuple[int, int]] = []

    def choose(program: object, options: CodegenOptions) -> object:
        tile = propose(program, options)  # type: ignore[arg-type]
        seen.append((tile.rows, tile.columns))
        return tile

    compile_graph(b.build([getattr(b, op)(x, **argument)]), CodegenOptions(), choose)  # type: ignore[arg-type]
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
