"""Arrays of programs that run on the CPU: NumPy arrays in host memory.

The one ``DeviceMemory`` (``prepared.py``) of the C backend and of the evaluator.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from flamec.element_copies import copy_elements, row_major
from flamec.ir.types import DType, TensorType
from flamec.runtime.allocator import Allocator

_LARGE = 1 << 18  # bytes from which fresh pages cost more than finding used ones
_memory = Allocator()


class HostMemory:
    """Allocates and fills NumPy arrays; large blocks are those that earlier arrays left."""

    def empty(self, type: TensorType) -> np.ndarray:
        """Uninitialised memory for a value of this (concrete) type."""
        shape: Any = type.shape
        dtype = type.dtype.numpy
        if not shape or math.prod(shape) * dtype.itemsize < _LARGE:
            return np.empty(shape, dtype)
        return _memory.array(shape, dtype)

    def dense(self, array: np.ndarray) -> np.ndarray:
        """A row-major copy of a strided array."""
        return row_major(array)

    def copy(self, target: np.ndarray, source: np.ndarray) -> None:
        """Write the elements of ``source`` into ``target``, which may be strided."""
        copy_elements(target, source)

    def number(self, dtype: DType) -> np.ndarray:
        """A cell for one Python number that a program reads."""
        return np.zeros((), dtype.numpy)

    def write_number(self, cell: np.ndarray, value: bool | int | float) -> None:
        """Store a Python number in a cell."""
        cell[()] = value
