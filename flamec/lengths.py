"""Python's ``len`` of tensors whose first size varies while a function is traced.

``len`` must give an int, so it would take the size at hand, with a program for each. In the user's
code it gives the size itself, as ``x.shape[0]`` does.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flamec.errors import is_framework_file
from flamec.ir.shape import SymbolicDim
from flamec.tensor import Tensor


@contextmanager
def lengths_are_sizes() -> Iterator[None]:
    """In the block ``len`` of a tensor may be a symbolic size."""
    original = builtins.len

    def len(obj: Any, /) -> Any:
        if isinstance(obj, Tensor) and obj._type.shape:
            size = obj._type.shape[0]
            file = sys._getframe(1).f_code.co_filename
            if type(size) is SymbolicDim and not is_framework_file(file):
                return size
        return original(obj)

    builtins.len = len
    try:
        yield
    finally:
        builtins.len = original
