"""Arrays of one value on a GPU.

In: a type and a value. Out: new arrays. Invariant: what the value is as a word for the driver to
repeat is found out once.
"""

from __future__ import annotations

import math

import numpy as np

from flamec.device_array import DeviceArray
from flamec.gpu import Gpu, filling_word
from flamec.ir.shape import evaluate_shape
from flamec.ir.types import TensorType


class ConstantArray:
    """Makes arrays of one value, a zero-dimensional array of their dtype."""

    __slots__ = ("_gpu", "_nbytes", "_shape", "_value", "_word", "type")

    def __init__(self, gpu: Gpu, type: TensorType, value: np.ndarray) -> None:
        self.type = type
        self._gpu, self._value = gpu, value
        self._shape = evaluate_shape(type.shape, {})
        self._nbytes = math.prod(self._shape) * type.dtype.itemsize
        self._word = filling_word(value) if self._nbytes else None

    def new(self) -> DeviceArray:
        type, runtime = self.type, self._gpu.runtime
        memory = runtime.allocate(max(1, self._nbytes))
        address = memory.address
        result = DeviceArray(type.device, self._shape, type.dtype, address, memory)
        if self._word is not None:
            number, width = self._word
            runtime.fill(address, number, self._nbytes, width)
        else:
            self._gpu.fill(result, self._value)
        return result
