"""Limits of the element types: ``finfo`` and ``iinfo``."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from flamec.functional.arguments import as_dtype
from flamec.ir.types import DType
from flamec.state import process


class finfo:
    """Limits of a floating-point dtype (the default dtype unless given).

    ``bits``, ``eps``, ``max``, ``min``, ``tiny``, ``smallest_normal``, ``resolution``, ``dtype``
    (its name). Raises TypeError for other dtypes.
    """

    def __init__(self, type: DType | None = None) -> None:
        dtype = process.default_dtype if type is None else as_dtype("finfo", type)
        if not dtype.is_floating_point:
            raise TypeError(f"finfo() requires a floating point dtype, not {dtype!r}; use iinfo()")
        limits_of: Any = ml_dtypes.finfo  # which has no types
        limits = limits_of(dtype.numpy)
        self.dtype = dtype.name
        self.bits = int(limits.bits)
        self.eps = float(limits.eps)
        self.max = float(limits.max)
        self.min = float(limits.min)
        self.tiny = self.smallest_normal = float(limits.smallest_normal)
        self.resolution = 10.0**-limits.precision

    def __repr__(self) -> str:
        fields = ("resolution", "min", "max", "eps", "smallest_normal", "tiny")
        numbers = ", ".join(f"{f}={getattr(self, f):g}" for f in fields)
        return f"finfo({numbers}, dtype={self.dtype})"


class iinfo:
    """Limits of an integer dtype: ``bits``, ``max``, ``min``, ``dtype`` (its name)."""

    def __init__(self, type: DType) -> None:
        dtype = as_dtype("iinfo", type)
        if dtype.kind not in ("int", "uint"):
            raise TypeError(f"iinfo() requires an integer dtype, not {dtype!r}; use finfo()")
        limits = np.iinfo(dtype.numpy)
        self.dtype = dtype.name
        self.bits = int(limits.bits)
        self.max = int(limits.max)
        self.min = int(limits.min)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min}, max={self.max}, dtype={self.dtype})"
