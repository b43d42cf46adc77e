"""Matrix products: the library in its wheel, and plain loops without it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_plans import program_plan

from flamec.ir.types import float32
from flamec.runtime.cpu import blas
from flamec.runtime.cpu.compiler import Compiler, compile_library
from flamec.runtime.cpu.device import CpuDevice

MakeDevice = Callable[[int], CpuDevice]

PRODUCT = """
typedef void (*Gemm)(int, int, int, int, int, int, float, const float *, int, const float *, int,
                     float, float *, int);
int64_t flamec_program(FlamecCall *call) {
    ((Gemm)call->runtime->sgemm)(101, 111, 111, 5, 7, 3, 1.0f, call->buffers[0], 3,
                                 call->buffers[1], 7, 0.0f, call->buffers[2], 7);
    return 0;
}
"""


@pytest.fixture(scope="session", params=["OpenBLAS", "plain loops"])
def library(
    request: pytest.FixtureRequest, compiler: Compiler, tmp_path_factory: pytest.TempPathFactory
) -> blas.Blas:
    if request.param == "OpenBLAS":
        path = blas.openblas_path()
        if path is None:
            pytest.skip("scipy-openblas32 is not installed")
        return blas.load_openblas(path)

    def load_file(source: Path) -> ctypes.CDLL:
        target = tmp_path_factory.mktemp("gemm") / "gemm.so"
        target.write_bytes(compile_library(compiler, source.read_text()))
        return ctypes.CDLL(str(target))

    with pytest.MonkeyPatch.context() as patch, pytest.warns(RuntimeWarning, match="OpenBLAS"):
        patch.setattr(blas, "openblas_path", lambda: None)
        return blas.load_blas(load_file)


@pytest.mark.parametrize("order", [101, 102])
@pytest.mark.parametrize("transposed", [(111, 111), (111, 112), (112, 111), (112, 112)])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 7, 3), (4, 64, 256), (9, 130, 300), (3, 2, 0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products(
    library: blas.Blas,
    order: int,
    transposed: tuple[int, int],
    sizes: tuple[int, int, int],
    dtype: type,
) -> None:
    m, n, k = sizes
    rng = np.random.default_rng(0)
    a = rng.standard_normal((k, m) if transposed[0] == 112 else (m, k)).astype(dtype)
    b = rng.standard_normal((n, k) if transposed[1] == 112 else (k, n)).astype(dtype)
    c = rng.standard_normal((m, n)).astype(dtype)
    exact = 2 * (a.T if transposed[0] == 112 else a) @ (b.T if transposed[1] == 112 else b) + 3 * c
    layout = "C" if order == 101 else "F"
    a, b, c = (np.array(x, order=layout) for x in (a, b, c))  # type: ignore[call-overload]
    edge = 1 if order == 101 else 0
    scalar = ctypes.c_float if dtype is np.float32 else ctypes.c_double
    prototype = ctypes.CFUNCTYPE(
        None,
        *[ctypes.c_int] * 6,
        *(scalar, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int),
        *(scalar, ctypes.c_void_p, ctypes.c_int),
    )
    gemm = prototype(library.sgemm if dtype is np.float32 else library.dgemm)
    lda, ldb, ldc = (max(1, x.shape[edge]) for x in (a, b, c))
    addresses = [x.ctypes.data for x in (a, b, c)]
    gemm(order, *transposed, m, n, k, 2, addresses[0], lda, addresses[1], ldb, 3, addresses[2], ldc)
    np.testing.assert_allclose(c, exact, rtol=1e-4, atol=1e-4)


def test_a_factor_of_zero_ignores_what_was_there(library: blas.Blas) -> None:
    a, c = np.ones((2, 2), np.float32), np.full((2, 2), np.nan, np.float32)
    scalar, integer, pointer = ctypes.c_float, ctypes.c_int, ctypes.c_void_p
    gemm = ctypes.CFUNCTYPE(
        None, *[integer] * 6, scalar, pointer, integer, pointer, integer, scalar, pointer, integer
    )(library.sgemm)
    gemm(101, 111, 111, 2, 2, 2, 1, a.ctypes.data, 2, a.ctypes.data, 2, 0, c.ctypes.data, 2)
    assert (c == 2).all()


def test_the_library_is_loaded_when_a_program_needs_it(make_device: MakeDevice) -> None:
    device = make_device(1)
    sizes = [(float32, 15), (float32, 21)]
    program = device.load(program_plan(PRODUCT, sizes, [(float32, 35)]))
    assert program.runtime.functions.sgemm is None
    program = device.load(program_plan(PRODUCT, sizes, [(float32, 35)], needs_blas=True))
    assert program.runtime.functions.sgemm is not None
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((5, 3), (3, 7)))
    out = np.empty((5, 7), np.float32)
    bound = program.bind()
    for position, array in enumerate((a, b, out)):
        bound.addresses[position] = array.ctypes.data
    bound()
    np.testing.assert_allclose(out, a @ b, rtol=1e-5, atol=1e-6)
