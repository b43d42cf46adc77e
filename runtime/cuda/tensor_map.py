"""Tensor maps: how the copy engine (TMA) of Hopper and later GPUs sees an array.

In: an array's address, sizes and strides, and how a kernel cuts it into boxes. Out: the
128 bytes that such a kernel takes as a ``__grid_constant__`` parameter. Invariant: the bytes
stay at one host address for one ``TensorMap``, which can be moved to another array address.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flamec.runtime.cuda.driver import check, driver, fail

TFLOAT32 = 11  # of CUtensorMapDataType: float32 in memory, rounded to tf32 where it is copied to
_ADDRESS_MULTIPLE = 16
_MOST_DIMENSIONS = 5
_LONGEST = 1 << 31  # kernels count in 32-bit numbers
_L2_PROMOTION_128B = 2
_NAN_FILL = 1


@dataclass(frozen=True, slots=True)
class TensorMapLayout:
    """How a kernel uses a tensor map; the kernel's compiler decides it.

    ``data_type`` and ``swizzle`` are numbers of CUtensorMapDataType and CUtensorMapSwizzle,
    ``box`` is the block that one copy moves (outermost dimension first), ``nan_fill``: what
    lies outside the array reads as NaN instead of 0. ``packed_pairs``: two 4-bit elements in
    each byte.
    """

    data_type: int
    element_bytes: int
    box: tuple[int, ...]
    swizzle: int
    nan_fill: bool = False
    packed_pairs: bool = False


class TensorMap:
    """An encoded tensor map.

    ``shape`` and ``strides`` count elements, outermost dimension first; the last stride is 1.
    ValueError if the copy engine cannot read the array: an address or a stride in bytes that
    is not a multiple of 16, or more than five dimensions.
    """

    __slots__ = ("_map", "address", "host_address")

    def __init__(
        self,
        layout: TensorMapLayout,
        address: int,
        shape: Sequence[int],
        strides: Sequence[int],
    ) -> None:
        _check_array(layout, address, shape, strides)
        cu = driver()
        inner_first = list(reversed(shape))
        if layout.packed_pairs:
            inner_first[0] *= 2
        result = cu.cuTensorMapEncodeTiled(
            cu.CUtensorMapDataType(layout.data_type),
            len(shape),
            address,
            [cu.cuuint64_t(size) for size in inner_first],
            [cu.cuuint64_t(s * layout.element_bytes) for s in reversed(strides[:-1])],
            [cu.cuuint32_t(size) for size in reversed(layout.box)],
            [cu.cuuint32_t(1)] * len(shape),
            cu.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            cu.CUtensorMapSwizzle(layout.swizzle),
            cu.CUtensorMapL2promotion(_L2_PROMOTION_128B),
            cu.CUtensorMapFloatOOBfill(_NAN_FILL if layout.nan_fill else 0),
        )
        self._map: Any = check(result, "cuTensorMapEncodeTiled")
        self.address = address
        self.host_address = int(self._map.getPtr())

    def move(self, address: int) -> None:
        """Let it describe an array of the same form at another address."""
        if address == self.address:
            return
        if address % _ADDRESS_MULTIPLE:
            raise ValueError(_misaligned(address))
        (status,) = driver().cuTensorMapReplaceAddress(self._map, address)
        if status != 0:
            fail(status, "cuTensorMapReplaceAddress")
        self.address = address


def _check_array(
    layout: TensorMapLayout, address: int, shape: Sequence[int], strides: Sequence[int]
) -> None:
    if not len(shape) == len(strides) == len(layout.box):
        raise ValueError(
            f"a tensor map for boxes {layout.box} cannot describe shape {tuple(shape)} with "
            f"strides {tuple(strides)}"
        )
    if not 1 <= len(shape) <= _MOST_DIMENSIONS:
        raise ValueError(f"a tensor map has 1 to {_MOST_DIMENSIONS} dimensions, not {len(shape)}")
    if max(shape) >= _LONGEST:
        raise ValueError(f"a tensor map has fewer than 2**31 elements in a dimension: {shape}")
    if min(shape) < 1:
        raise ValueError(f"a tensor map cannot describe an empty array of shape {tuple(shape)}")
    if strides[-1] != 1:
        raise ValueError(f"a tensor map needs a last stride of 1, not {strides[-1]}")
    if address % _ADDRESS_MULTIPLE:
        raise ValueError(_misaligned(address))
    for dimension, stride in enumerate(strides[:-1]):
        if stride * layout.element_bytes % _ADDRESS_MULTIPLE:
            raise ValueError(
                f"a tensor map needs strides that are multiples of {_ADDRESS_MULTIPLE} bytes; "
                f"dimension {dimension} has {stride * layout.element_bytes}"
            )


def _misaligned(address: int) -> str:
    return f"a tensor map needs an address that is a multiple of {_ADDRESS_MULTIPLE}: {address:#x}"
