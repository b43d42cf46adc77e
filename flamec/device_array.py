"""Arrays in the memory of a GPU, as NumPy describes arrays, without access to their elements.

In: memory, an address, a shape and strides. Out: ``DeviceArray``, which stands where a
concrete tensor on the CPU has a NumPy array, and views of it. Invariant: nothing here reads or
writes the memory; ``memory`` keeps it alive. Strides are in bytes, as NumPy's are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from flamec.ir.op import Op
from flamec.ir.types import Device, DType
from flamec.layout import row_major, view_place

Shape = tuple[int, ...]
ALIGNMENT = 16  # bytes, of addresses at which kernels find what they are not told more about


class DeviceArray:
    """An array on a GPU. ``address``: of the first element; ``memory``: what keeps it alive.

    ``strides``: those of a row-major array if None; ``c_contiguous``: what they say.
    """

    __slots__ = (
        "__weakref__",
        "_strides",
        "address",
        "c_contiguous",
        "device",
        "dtype",
        "memory",
        "shape",
    )

    def __init__(
        self,
        device: Device,
        shape: Shape,
        dtype: DType,
        address: int,
        memory: Any,
        strides: Shape | None = None,
        c_contiguous: bool | None = None,
    ) -> None:
        self.device = device
        self.shape = shape
        self.dtype = dtype
        self.address = address
        self.memory = memory
        self._strides = strides
        if c_contiguous is None:
            c_contiguous = strides is None or _is_dense(shape, strides, dtype.itemsize)
        self.c_contiguous = c_contiguous

    @property
    def strides(self) -> Shape:
        if self._strides is None:
            itemsize = self.dtype.itemsize
            self._strides = tuple([s * itemsize for s in row_major(self.shape)])
        return self._strides

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def flags(self) -> DeviceArray:
        """Has ``c_contiguous`` and ``writeable``, as NumPy's flags have."""
        return self

    @property
    def writeable(self) -> bool:
        return True

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def view(self, op: Op, attributes: Mapping[str, Any], shape: Shape) -> DeviceArray | None:
        """The view that a view operation makes; None where it takes a copy."""
        itemsize = self.dtype.itemsize
        place = view_place(
            op.name, attributes, self.shape, tuple([s // itemsize for s in self.strides]), 0
        )
        if place is None:
            return None
        strides, offset = place
        return DeviceArray(
            self.device,
            shape,
            self.dtype,
            self.address + int(offset) * itemsize,
            self.memory,
            tuple([int(s) * itemsize for s in strides]),
        )

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(f"an array on {self.device} has no NumPy array; copy it to the CPU first")

    def __bool__(self) -> NoReturn:
        raise TypeError(f"an array on {self.device} has no truth value")

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype.name}{list(self.shape)}, {self.device})"


def _is_dense(shape: Shape, strides: Shape, itemsize: int) -> bool:
    step = itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size == 0:
            return True
        if size != 1:
            if stride != step:
                return 0 in shape
            step *= size
    return True
