"""NumPy's scalars that vary while a function is traced: numbers whose arithmetic is NumPy's.

In: scalars among the arguments of a compiled function, expressions of them (``host_numbers.py``).
Out: tracers that meet tensors, sizes and other numbers as a Python number would; what is computed
of them, each call computes with NumPy's scalars, in their dtypes. Invariant: nothing else can be
asked of a tracer (``k.dtype``, ``k.item()``, ``np.arctan(k)``); that makes the scalar a constant.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from flamec.errors import is_framework_file, unknown_value
from flamec.ir.types import DType, dtype_of_numpy
from flamec.tensor import RuntimeNumber, Tensor


def is_scalar(value: Any) -> bool:
    """Whether a value is a scalar of NumPy that may vary: a whole number, or a float of up to 64
    bits."""
    return isinstance(value, np.integer) or (
        isinstance(value, np.floating) and value.dtype.itemsize <= 8
    )


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number of Python or NumPy."""
    return isinstance(value, (int, np.integer))


class NumPyNumber(RuntimeNumber):
    """A tracer of a NumPy scalar, or of what is computed of some."""

    __slots__ = ()
    __hash__ = RuntimeNumber.__hash__

    def __getattribute__(self, name: str) -> Any:
        if name[0] != "_" and not is_framework_file(sys._getframe(1).f_code.co_filename):
            raise unknown_value(f"{name} of a NumPy scalar")
        return super().__getattribute__(name)

    @property
    def _scalar_dtype(self) -> DType:
        """That of a tensor that is made of the scalar."""
        return dtype_of_numpy(self.__dict__["_expression"].value.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise unknown_value("a NumPy scalar as an array")

    @staticmethod
    def of(tensor: Tensor) -> Tensor:
        """The same tensor of a trace, marked as a NumPy scalar."""
        tensor.__class__ = NumPyNumber
        return tensor
