"""``finfo`` and ``iinfo``: what a dtype can represent."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from flamec.ir.types import DType
from flamec.state import process


class finfo:
    """Limits of a floating-point dtype (of the default dtype if none is given).

    ``bits``, ``eps``, ``max``, ``min``, ``tiny``, ``smallest_normal``, ``resolution``, ``dtype``.
    """

    def __init__(self, dtype: DType | None = None) -> None:
        chosen = process.default_dtype if dtype is None else dtype
        if not isinstance(chosen, DType) or not chosen.is_floating_point:
            raise TypeError(f"finfo() requires a floating point input type, not {chosen!r}")
        limits = ml_dtypes.finfo(chosen.numpy)
        self.dtype = chosen.name
        self.bits = int(limits.bits)
        self.eps = float(limits.eps)
        self.max = float(limits.max)
        self.min = float(limits.min)
        self.tiny = self.smallest_normal = float(limits.tiny)
        self.resolution = float(limits.resolution)

    def __repr__(self) -> str:
        return (
            f"finfo(resolution={self.resolution:g}, min={self.min:g}, max={self.max:g}, "
            f"eps={self.eps:g}, smallest_normal={self.smallest_normal:g}, tiny={self.tiny:g}, "
            f"dtype={self.dtype})"
        )


class iinfo:
    """Limits of an integer dtype: ``bits``, ``max``, ``min``, ``dtype``."""

    def __init__(self, dtype: DType) -> None:
        if not isinstance(dtype, DType) or dtype.kind not in ("int", "uint"):
            raise TypeError(f"iinfo() requires an integer input type, not {dtype!r}")
        limits = np.iinfo(dtype.numpy)
        self.dtype = dtype.name
        self.bits = int(limits.bits)
        self.max = int(limits.max)
        self.min = int(limits.min)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min}, max={self.max}, dtype={self.dtype})"
