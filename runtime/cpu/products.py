"""Matrix products whose operands need not be matrices in memory (``flamec_product.h``).

In: a function that compiles and loads a C file. Out: addresses for ``FlamecRuntime``. Compiled
once for a machine and a type of numbers, when the first program needs it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

SOURCES = {lane: Path(__file__).with_name(f"product_{lane}.c") for lane in ("f32", "f64")}


class Products:
    """The loaded functions, by what numbers are called in C: ``"f32"``, ``"f64"``."""

    def __init__(self, load_file: Callable[[Path], ctypes.CDLL]) -> None:
        self._load_file = load_file
        self._libraries: dict[str, ctypes.CDLL] = {}

    def address(self, lane: str) -> int:
        """Of the function for a type of numbers, which is compiled if it was not."""
        if lane not in self._libraries:
            self._libraries[lane] = self._load_file(SOURCES[lane])
        function = self._libraries[lane][f"flamec_product_{lane}"]
        address = ctypes.cast(function, ctypes.c_void_p).value
        assert address is not None
        return address
