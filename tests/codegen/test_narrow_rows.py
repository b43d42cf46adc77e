"""Rows of few elements share a loop with the rows around them."""

from __future__ import annotations

import re

import pytest

from flamec.codegen.triton.compile_graph import compile_graph
from flamec.ir.builder import GraphBuilder
from flamec.ir.shape import Dim, SymbolicDim
from flamec.ir.types import TensorType, float32

B = SymbolicDim.symbol("B")


def blocks_of(*shape: Dim, fold: bool = False) -> tuple[int, int]:
    """Rows and columns of a block of the kernel that scales the columns."""
    b = GraphBuilder()
    x = b.input(TensorType(shape, float32))
    scale = b.input(TensorType(shape[-1:], float32))
    scaled = b.mul(x, b.expand(scale, shape=shape))
    if fold:
        scaled = b.sum(scaled, axes=(len(shape) - 1,))
    (kernel,) = compile_graph(b.build([scaled])).plan.kernels
    found = re.search(
        r"no_row = tl\.zeros\(\((\d+), 1\).*\n.*no_col = tl\.zeros\(\(1, (\d+)\)", kernel.text
    )
    assert found is not None
    rows, columns = found.groups()
    return int(rows), int(columns)


@pytest.mark.parametrize("rows", [4096, B])
@pytest.mark.parametrize("width", [3, 5, 7, 11])
def test_elements_of_all_rows_are_one_loop(rows: Dim, width: int) -> None:
    assert blocks_of(rows, width) == (1, 1024)


def test_rows_that_fill_blocks_are_rows() -> None:
    assert blocks_of(4096, 4)[1] == 4
    assert blocks_of(4096, 15)[1] == 16
    assert blocks_of(4096, 48) == (64, 16)
    assert blocks_of(64, 2048)[1] == 1024


def test_rows_that_are_folded_stay_rows() -> None:
    assert blocks_of(4096, 3, fold=True)[0] > 1


def test_loops_over_rows_are_joined_from_the_inside() -> None:
    assert blocks_of(64, 100, 3) == (1, 1024)
