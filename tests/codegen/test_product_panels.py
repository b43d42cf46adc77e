"""How the rows of a product with an epilogue are cut into panels and divided among threads."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest

import flamec
from flamec.codegen.c.rendering import render
from flamec.runtime.cpu.compiler import compile_library, find_compiler

CUT = """
int64_t cut(int64_t first, int64_t last, int64_t rows, int64_t unit, int64_t panel, int64_t *ends) {
    int64_t count = 0, end = flamec_unit_row(last, rows, unit);
    for (int64_t at = flamec_unit_row(first, rows, unit); at < end; count++)
        at = ends[count] = flamec_panel_end(at, end, rows, unit, panel);
    return count;
}
int64_t units(int64_t rows, int64_t unit) { return flamec_units(rows, unit); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    built = tmp_path_factory.mktemp("panels") / "panels.so"
    built.write_bytes(compile_library(find_compiler(), render("prelude.c.j2", {}) + CUT))
    found = ctypes.CDLL(str(built))
    found.units.restype = found.cut.restype = ctypes.c_int64
    found.units.argtypes = [ctypes.c_int64] * 2
    found.cut.argtypes = [*[ctypes.c_int64] * 5, ctypes.POINTER(ctypes.c_int64)]
    return found


def test_panels_are_whole_units_and_what_is_left_goes_with_the_last(library: ctypes.CDLL) -> None:
    ends = (ctypes.c_int64 * 64)()
    for rows, (unit, panel), threads in itertools.product(
        (1, 23, 24, 25, 32, 47, 48, 95, 240, 241, 263, 500), ((24, 24), (24, 48), (24, 240)), (1, 3)
    ):
        count, batch = library.units(rows, unit), 2
        for matrix in range(batch):
            bounds = [count * matrix + count * i // threads for i in range(threads + 1)]
            at = matrix * rows
            for first, last in itertools.pairwise(bounds):
                number = library.cut(first, last, rows, unit, panel, ends)
                for end in ends[:number]:
                    size, begins = end - at, at - matrix * rows
                    assert 0 < size <= panel and begins % unit == 0
                    whole = size >= unit or panel < 2 * unit
                    assert whole or rows < unit, (rows, unit, panel, threads, size)
                    at = end
            assert at == (matrix + 1) * rows


@pytest.mark.parametrize("rows", [1, 23, 25, 32, 50, 263])
def test_products_with_an_epilogue_of_any_number_of_rows(rows: int) -> None:
    rng = np.random.default_rng(rows)
    weight = rng.standard_normal((200, 300), np.float32)
    function = flamec.compile(lambda x, w: (x @ w).relu(), backend="c", dynamic=True)
    x = rng.standard_normal((rows, 200), np.float32)
    exact = np.maximum(x.astype(np.float64) @ weight.astype(np.float64), 0)
    found = function(flamec.from_numpy(x), flamec.from_numpy(weight)).numpy()
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-4)
