"""When two arrays are the same results: what tests of exactness share."""

from __future__ import annotations

import numpy as np


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal, zeros by sign too; any NaN equals any NaN."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind in "biu":
        return np.array_equal(a, b)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    nan = np.isnan(wide_a)
    signs = np.signbit(wide_a) == np.signbit(wide_b)
    return bool(np.all(np.where(nan, np.isnan(wide_b), (wide_a == wide_b) & signs)))
