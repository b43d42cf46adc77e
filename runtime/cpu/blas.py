"""Where programs get their matrix products: OpenBLAS, or plain loops without it.

In: the compiler and cache (for the plain loops). Out: addresses of ``cblas_sgemm`` and
``cblas_dgemm`` with 32-bit integers. Loaded once a process, when the first program needs it.
OpenBLAS runs on one thread: the pool calls it from several.
"""

from __future__ import annotations

import ctypes
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Blas:
    """Matrix products as function addresses; ``library`` keeps them loaded."""

    name: str
    sgemm: int
    dgemm: int
    library: ctypes.CDLL


def openblas_path() -> Path | None:
    """The shared library inside the scipy-openblas32 wheel, or None.

    The package itself is not imported: that costs 70 ms and all it tells is this path.
    """
    found = importlib.util.find_spec("scipy_openblas32")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "lib"
    return next(iter(sorted(folder.glob("libscipy_openblas.*"))), None)


def load_openblas(path: Path) -> Blas:
    """OpenBLAS from its wheel, set to one thread; OSError if it cannot be loaded."""
    library = ctypes.CDLL(str(path))
    library.scipy_openblas_set_num_threads(1)
    return Blas(
        "OpenBLAS",
        _address(library.scipy_cblas_sgemm),
        _address(library.scipy_cblas_dgemm),
        library,
    )


def load_blas(load_file: Callable[[Path], ctypes.CDLL]) -> Blas:
    """OpenBLAS where its wheel is installed, else plain loops after a warning.

    ``load_file`` compiles a C file and loads the shared object.
    """
    path = openblas_path()
    if path is not None:
        return load_openblas(path)
    warnings.warn(
        "OpenBLAS is not installed, so matrix products run on plain loops, many times slower; "
        "`pip install scipy-openblas32` brings it",
        RuntimeWarning,
        stacklevel=2,
    )
    library = load_file(Path(__file__).with_name("gemm.c"))
    return Blas(
        "plain loops", _address(library.flamec_sgemm), _address(library.flamec_dgemm), library
    )


def _address(function: Any) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address
