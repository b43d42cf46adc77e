"""The matrix products of ``product.c``, whose operands need not be matrices in memory.

In: a function that compiles a C file. Out: the addresses for ``FlamecRuntime``. Compiled once for a
machine, when the first program needs it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).with_name("product.c")


class Products:
    """The loaded functions, for float32 and float64."""

    def __init__(self, compile_file: Callable[[Path], Path]) -> None:
        self.library = ctypes.CDLL(str(compile_file(SOURCE)))
        self.f32 = self._address("flamec_product_f32")
        self.f64 = self._address("flamec_product_f64")

    def _address(self, name: str) -> int:
        address = ctypes.cast(self.library[name], ctypes.c_void_p).value
        assert address is not None
        return address
