"""Products of operands that are no matrices in memory, as the runtime computes them.

The oracle is NumPy over the elements that the loops name, in float64 or, for float64, in integers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fenced import Fenced
from same_bits import same_bits
from vector_harness import BUILDS

from flamec.codegen.c.product import PANELS_MEMORY, PRODUCT_MEMORY
from flamec.ir.matrix_layout import MOST_STEPS
from flamec.runtime.cpu.compiler import Compiler, compile_library
from flamec.runtime.cpu.products import Products

Steps = Sequence[tuple[int, int]]


class _Loops(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int64),
        ("size", ctypes.c_int64 * MOST_STEPS),
        ("stride", ctypes.c_int64 * MOST_STEPS),
    )


class _Operand(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("free", _Loops), ("depth", _Loops))


class _Border(ctypes.Structure):
    _fields_ = tuple(
        (n, ctypes.c_int64) for n in ("row", "along", "row_step", "step", "low", "high")
    )


class _Product(ctypes.Structure):
    _fields_ = (
        ("left", _Operand),
        ("right", _Operand),
        *((n, ctypes.c_int64) for n in ("first_row", "rows", "first_column", "columns", "depth")),
        ("result", ctypes.c_void_p),
        ("step", ctypes.c_int64),
        ("run", ctypes.c_int64),
        ("down", _Loops),
        ("across", _Loops),
        ("borders", ctypes.c_int64),
        ("border", _Border * 3),
    )


def _loops(steps: Steps) -> _Loops:
    sizes, strides = [size for size, _ in steps], [stride for _, stride in steps]
    array = ctypes.c_int64 * MOST_STEPS
    return _Loops(len(steps), array(*sizes), array(*strides))


def _places(steps: Steps) -> np.ndarray:
    places = np.zeros(1, np.int64)
    for size, stride in steps:
        places = (places[:, None] + np.arange(size) * stride).reshape(-1)
    return places


@dataclass
class Matrix:
    """An operand: rows (or columns) and depth as loops. Its memory begins at its lowest element
    and ends at its highest one."""

    free: Steps
    depth: Steps

    def __post_init__(self) -> None:
        self.places = _places(self.free)[:, None] + _places(self.depth)
        self.base = -int(self.places.min(initial=0))

    def fill(self, dtype: np.dtype, random: np.random.Generator) -> np.ndarray:
        count = int(self.places.max(initial=0)) + self.base + 1
        return random.integers(-8, 9, count).astype(dtype)

    def elements(self, memory: np.ndarray) -> np.ndarray:
        return memory[self.places + self.base]

    def operand(self, memory: np.ndarray) -> _Operand:
        at = memory.ctypes.data + self.base * memory.itemsize
        return _Operand(at, _loops(self.free), _loops(self.depth))


# windows of 3x3 in images [2, 9, 11, 5], channels last, and of 2x3 with steps and dilations
WINDOWS = Matrix([(2, 495), (7, 55), (9, 5)], [(3, 55), (3, 5), (5, 1)])
STRIDED = Matrix([(2, 495), (3, 110), (4, 10)], [(2, 165), (3, 10), (5, 1)])
CASES = {
    "windows by a kernel as it is stored": (
        Matrix(WINDOWS.free, [(5, 1), (3, 55), (3, 5)]),
        Matrix([(70, 45)], [(5, 9), (3, 3), (3, 1)]),
    ),
    "the same in the order of the windows": (WINDOWS, Matrix([(70, 45)], [(9, 1), (5, 9)])),
    "a mirrored kernel, for the gradient of the image": (
        Matrix(WINDOWS.free, [(5, 1), (3, 55), (3, 5)]),
        Matrix([(33, 9)], [(5, 33 * 9), (3, -3), (3, -1)]),
    ),
    "rows by windows, for the gradient of the kernel": (
        Matrix([(13, 1)], [(126, 13)]),
        Matrix([(3, 55), (15, 1)], WINDOWS.free),
    ),
    "the same with channels outermost": (
        Matrix([(100, 1)], [(126, 100)]),
        Matrix([(5, 1), (3, 55), (3, 5)], WINDOWS.free),
    ),
    "steps and dilations": (STRIDED, Matrix([(17, 30)], [(6, 1), (5, 6)])),
    "several panels of depth and of columns": (
        Matrix([(7, 700), (2, 350)], [(350, 1), (4, 350)]),
        Matrix([(30, 1400), (10, 42000)], [(1400, 1)]),
    ),
    "several chunks of rows": (
        Matrix([(1000, 3)], [(7, 2), (5, 3000)]),
        Matrix([(3, 2), (3, 100)], [(35, 7)]),
    ),
    "windows of many channels, whose rows are far apart": (
        Matrix([(3, 2400), (3, 600)], [(600, 1), (2, 2400), (2, 600)]),
        Matrix([(20, 2400)], [(600, 4), (2, 2), (2, 1)]),
    ),
    "few outputs of a group, and rows of an image with channels first": (
        Matrix([(8, 36)], [(4, 9), (3, 3), (3, 1)]),
        Matrix([(9, 23), (21, 1)], [(4, 253), (3, 23), (3, 1)]),
    ),
    "outputs of a mirrored kernel, from rows": (
        Matrix([(13, 9)], [(5, 13 * 9), (3, -3), (3, -1)]),
        Matrix([(7, 18), (16, 1)], [(5, 162), (3, 18), (3, 1)]),
    ),
    "several panels of depth, from rows": (
        Matrix([(7, 450)], [(450, 1)]),
        Matrix([(5, 19), (17, 1)], [(50, 133), (3, 19), (3, 1)]),
    ),
    "every second column, in rows of several lengths": (
        Matrix([(11, 27)], [(3, 9), (3, 3), (3, 1)]),
        Matrix([(4, 94), (21, 2)], [(3, 470), (3, 47), (3, 1)]),
    ),
    "every second column, in short rows": (
        Matrix([(70, 27)], [(3, 9), (3, 3), (3, 1)]),
        Matrix([(9, 26), (6, 2)], [(3, 300), (3, 13), (3, 1)]),
    ),
    "more rows than tables hold at once": (
        Matrix([(2, 3)], [(3, 1)]),
        Matrix([(70, 20), (18, 1)], [(3, 1)]),
    ),
    "one column": (WINDOWS, Matrix([(1, 1)], [(45, 2)])),
    "one row": (Matrix([], [(3, 55), (15, 1)]), Matrix([(40, 45)], [(45, 1)])),
    "a repeated row and a repeated column": (
        Matrix([(4, 0), (3, 45)], [(45, 1)]),
        Matrix([(5, 45), (4, 0)], [(45, 1)]),
    ),
    "the same element all along the depth": (
        Matrix([(9, 1)], [(40, 0)]),
        Matrix([(9, 1)], [(8, 0), (5, 9)]),
    ),
    "no depth": (Matrix([(9, 1)], [(0, 9)]), Matrix([(9, 1)], [(0, 9)])),
    "no rows": (Matrix([(3, 9), (0, 9)], [(9, 1)]), Matrix([(9, 1)], [(9, 9)])),
}


@pytest.fixture(scope="module", params=list(BUILDS))
def products(
    request: pytest.FixtureRequest, compiler: Compiler, tmp_path_factory: pytest.TempPathFactory
) -> Products:
    """The functions, built for one kind of register."""

    def load_file(source: Path) -> ctypes.CDLL:
        target = tmp_path_factory.mktemp("product") / "product.so"
        target.write_bytes(compile_library(compiler, source.read_text(), BUILDS[request.param]))
        return ctypes.CDLL(str(target))

    return Products(load_file)


def multiply(
    products: Products,
    matrices: tuple[Matrix, Matrix],
    operands: Sequence[np.ndarray],
    rows: range | None = None,
    columns: range | None = None,
    run: int = 0,
    borders: Sequence[_Border] = (),
) -> np.ndarray:
    """Some rows and columns, computed into an array that has two more columns than asked for."""
    left, right = matrices
    rows = rows or range(len(left.places))
    columns = columns or range(len(right.places))
    result = np.full((len(rows), len(columns) + 2), 77, operands[0].dtype)
    run_product(
        products,
        matrices,
        operands,
        rows,
        columns,
        result,
        step=result.shape[1],
        run=run,
        borders=len(borders),
        border=(_Border * 3)(*borders),
    )
    assert np.all(result[:, len(columns) :] == 77)
    return result[:, : len(columns)]


def run_product(
    products: Products,
    matrices: tuple[Matrix, Matrix],
    operands: Sequence[np.ndarray],
    rows: range,
    columns: range,
    result: np.ndarray,
    **others: Any,
) -> None:
    """Compute some rows and columns into ``result``; ``others``: the other fields of the call."""
    left, right = matrices
    asked = _Product(
        left.operand(operands[0]),
        right.operand(operands[1]),
        rows.start,
        len(rows),
        columns.start,
        len(columns),
        left.places.shape[1],
        result.ctypes.data,
        **others,
    )
    address = products.address("f32" if result.dtype == np.float32 else "f64")
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(address)
    memory = np.full(PANELS_MEMORY if asked.step else PRODUCT_MEMORY, 255, np.uint8)
    function(ctypes.addressof(asked), memory.ctypes.data)


@pytest.mark.parametrize("at_end", [False, True], ids=["fence before", "fence behind"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list(CASES))
def test_elements_are_those_that_the_loops_name(
    products: Products, name: str, dtype: str, at_end: bool
) -> None:
    """Small integers, so that every order of the sum gives the same bits. Whoever reads outside of
    an operand's elements is ended by the system."""
    left, right = CASES[name]
    random, fenced = np.random.default_rng(0), Fenced()
    operands = [fenced.copy(m.fill(np.dtype(dtype), random), at_end) for m in (left, right)]
    first, second = (m.elements(x) for m, x in zip((left, right), operands, strict=True))
    found = multiply(products, (left, right), operands)
    np.testing.assert_array_equal(found, first @ second.T)


@pytest.mark.parametrize(
    "name",
    [
        "windows by a kernel as it is stored",
        "several chunks of rows",
        "several panels of depth, from rows",
    ],
)
def test_bits_do_not_depend_on_what_is_asked_for_together(products: Products, name: str) -> None:
    matrices = CASES[name]
    random = np.random.default_rng(1)
    operands = [m.fill(np.dtype(np.float32), random) + np.float32(0.1) for m in matrices]
    operands = [x * random.standard_normal(x.shape).astype(np.float32) for x in operands]
    whole = multiply(products, matrices, operands)
    last = min(121, len(whole))
    for rows, columns in ((range(5, 6), range(3, 8)), (range(1, last), range(1)),
                          (range(2, last), range(1, 9)), (range(last), range(34, 70))):  # fmt: skip
        columns = range(min(columns.start, len(whole[0]) - 1), min(columns.stop, len(whole[0])))
        part = multiply(products, matrices, operands, rows, columns)
        assert same_bits(part, whole[rows.start : rows.stop, columns.start : columns.stop])


# the rows of [images, channels, height, width] by those of larger ones; how long they are
RUNS = {
    "whole vectors": (
        Matrix([(5, 96)], [(2, 480), (96, 1)]),
        Matrix([(3, 168), (3, 1)], [(2, 504), (6, 20), (16, 1)]),
        16,
    ),
    "the end of a vector, in many runs": (
        Matrix([(8, 3000)], [(3000, 1)]),
        Matrix([(2, 4000), (3, 40), (3, 1)], [(100, 40), (30, 1)]),
        30,
    ),
    "one row and one column": (
        Matrix([(1, 1)], [(3, 50), (33, 1)]),
        Matrix([(1, 1)], [(3, 40), (33, 1)]),
        33,
    ),
    "nothing to sum": (
        Matrix([(3, 40)], [(0, 9), (20, 1)]),
        Matrix([(9, 3)], [(0, 9), (20, 1)]),
        20,
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list(RUNS))
def test_products_along_runs(products: Products, name: str, dtype: str) -> None:
    """Small integers; in parts the same bits, for numbers of any size."""
    left, right, run = RUNS[name]
    random, fenced = np.random.default_rng(4), Fenced()
    for at_end in (False, True):
        operands = [fenced.copy(m.fill(np.dtype(dtype), random), at_end) for m in (left, right)]
        first, second = (m.elements(x) for m, x in zip((left, right), operands, strict=True))
        whole = multiply(products, (left, right), operands, run=run)
        np.testing.assert_array_equal(whole, first @ second.T)
    operands = [random.standard_normal(x.shape).astype(dtype) for x in operands]
    whole = multiply(products, (left, right), operands, run=run)
    height, width = whole.shape
    some = range(height // 2, height), range(width // 3, width)
    part = multiply(products, (left, right), operands, *some, run)
    assert same_bits(part, whole[height // 2 :, width // 3 :])


def test_numbers_that_are_none_stay_in_their_rows_and_columns(products: Products) -> None:
    """What fills up tiles and vectors never meets a NaN or an infinity of an element."""
    matrices = CASES["windows by a kernel as it is stored"]
    random = np.random.default_rng(2)
    left, right = (m.fill(np.dtype(np.float32), random) for m in matrices)
    right[7], right[-1] = np.inf, np.nan
    left[-1] = np.inf
    found = multiply(products, matrices, (left, right))
    with np.errstate(invalid="ignore"):
        first, second = (m.elements(x) for m, x in zip(matrices, (left, right), strict=True))
        wanted = (first[:, None, :] * second).sum(2)
    np.testing.assert_array_equal(found, wanted)


# places [images, height, width] of images [images, channels, height, width] with channels first,
# by outputs; where images, places and outputs of the result are
STORED = {
    "some images": (CASES["windows by a kernel as it is stored"], [(2, 4410), (63, 1)], [(70, 63)]),
    "an image in several chunks": (
        (Matrix([(3, 2000), (431, 1)], [(300, 3)]), Matrix([(300, 300)], [(300, 1)])),
        [(3, 431 * 300), (431, 1)],
        [(300, 431)],
    ),
    "a kernel": (
        (Matrix([(7, 130), (3, 10), (3, 1)], [(10, 10), (7, 1)]), Matrix([(33, 70)], [(70, 1)])),
        [(63, 1)],
        [(33, 63)],
    ),
    "every second row": (
        (Matrix([(40, 3)], [(3, 1)]), Matrix([(5, 3)], [(3, 1)])),
        [(40, 2)],
        [(5, 81)],
    ),
    "no depth": ((Matrix([(9, 1)], [(0, 9)]), Matrix([(9, 1)], [(0, 9)])), [(9, 1)], [(9, 9)]),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list(STORED))
def test_results_go_where_the_loops_say(products: Products, name: str, dtype: str) -> None:
    """All at once, and some rows and columns, which leave what is beside them alone."""
    (left, right), down, across = STORED[name]
    random = np.random.default_rng(6)
    operands = [m.fill(np.dtype(dtype), random) for m in (left, right)]
    first, second = (m.elements(x) for m, x in zip((left, right), operands, strict=True))
    wanted = first @ second.T
    places = _places(down)[:, None] + _places(across)
    height, width = wanted.shape
    for rows, columns in (
        (range(height), range(width)),
        (range(height // 3, height - 1), range(width // 4, width)),
    ):
        result = np.full(int(places.max()) + 20, 77, dtype)
        steps = {"down": _loops(down), "across": _loops(across)}
        run_product(products, (left, right), operands, rows, columns, result, **steps)
        some = places[rows.start : rows.stop, columns.start : columns.stop]
        expected = np.full_like(result, 77)
        expected[some] = wanted[rows.start : rows.stop, columns.start : columns.stop]
        np.testing.assert_array_equal(result, expected)


def bordered(
    shape: tuple[int, int, int, int], kernel: int, border: int, step: int, last: bool
) -> tuple[Matrix, tuple[_Border, ...]]:
    """Windows of [images, channels, height, width] with zeros around them that are ``border``
    wide, and where these are; ``last``: with channels last."""
    images, channels, height, width = shape
    high, wide = height + 2 * border, width + 2 * border
    down, places = (high - kernel) // step + 1, (wide - kernel) // step + 1
    image, line, place, channel = channels * high * wide, wide, 1, high * wide
    if last:
        line, place, channel = wide * channels, channels, 1
    rows = [(images, image), (down, line * step), (places, place * step)]
    depth = [(channels, channel), (kernel, line), (kernel, place)]
    borders = tuple(
        _Border(1 + axis, 1 + axis, step, 1, border, border + size)
        for axis, size in enumerate((height, width))
    )
    return Matrix(rows, depth), borders


def zeros_around(matrix: Matrix, borders: Sequence[_Border]) -> np.ndarray:
    """Which elements [rows, depth] are in the borders."""
    rows = np.indices([size for size, _ in matrix.free]).reshape(len(matrix.free), -1)
    depth = np.indices([size for size, _ in matrix.depth]).reshape(len(matrix.depth), -1)
    found = np.zeros(matrix.places.shape, bool)
    for b in borders:
        at = rows[b.row][:, None] * b.row_step + depth[b.along] * b.step
        found |= (at < b.low) | (at >= b.high)
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize(
    ("shape", "kernel", "border", "step"),
    [
        ((3, 5, 7, 6), 3, 1, 1),
        ((2, 40, 2, 2), 3, 1, 1),
        ((1, 3, 9, 11), 5, 2, 2),
        ((2, 3, 4, 5), 3, 4, 1),  # some windows are nothing but borders
        ((40, 512, 3, 3), 3, 1, 1),  # copied, and several chunks of rows
        ((2, 2, 90, 3), 3, 1, 1),
    ],
)
def test_zeros_around_an_image_are_not_multiplied(
    products: Products,
    shape: tuple[int, int, int, int],
    kernel: int,
    border: int,
    step: int,
    last: bool,
    dtype: str,
) -> None:
    """The same as with them. Where there are enough, what is in the borders is not read, unless an
    infinity in a column makes them NaN, as it does in NumPy; whatever rows are asked for."""
    left, borders = bordered(shape, kernel, border, step, last)
    depth = left.places.shape[1]
    right = Matrix([(21, depth)], [(depth, 1)])
    random = np.random.default_rng(7)
    operands = [m.fill(np.dtype(dtype), random) for m in (left, right)]
    zeros = zeros_around(left, borders)
    operands[0][left.places[zeros] + left.base] = 0
    first, second = (m.elements(x) for m, x in zip((left, right), operands, strict=True))
    found = multiply(products, (left, right), operands, borders=borders)
    np.testing.assert_array_equal(found, first @ second.T)
    if zeros.mean() < 0.06:
        return
    operands[0][left.places[zeros] + left.base] = np.nan
    assert same_bits(multiply(products, (left, right), operands, borders=borders), found)
    operands[0][left.places[zeros] + left.base] = 0
    operands[1][right.places[3, depth // 2] + right.base] = np.inf
    whole = multiply(products, (left, right), operands, borders=borders)
    with np.errstate(invalid="ignore"):
        wanted = left.elements(operands[0]) @ right.elements(operands[1]).T
    assert np.isnan(wanted[:, 3]).any()
    np.testing.assert_array_equal(whole, wanted)
    rows = range(len(whole) // 3, len(whole))
    part = multiply(products, (left, right), operands, rows, borders=borders)
    assert same_bits(part, whole[rows.start :])
