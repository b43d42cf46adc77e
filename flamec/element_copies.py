"""Copies of NumPy arrays whose order in memory changes.

In: arrays of any strides. Out: the same elements, row-major or where another array has them. NumPy
walks along one of two arrays whose neighbours lie in different dimensions, and so reads or
writes another line of memory for each element; in strips of a line's width it takes a fifth of the
time (1024x1024 float32 transposed 0.8 ms, 5.2 at once).
"""

from __future__ import annotations

from typing import Any

import numpy as np

_LEAST = 1 << 15  # elements below which all lines stay in the cache
_WIDTH = 16  # elements of a strip
_STRIP = 1 << 12  # elements of all lines of a strip, below which calls of NumPy take the time
_LINES = 512  # fewer stay in the nearest cache until their next elements are read
_PAGE = 4096  # bytes, at whose multiples few lines have room there


def row_major(array: np.ndarray) -> np.ndarray:
    """The array, if it is row-major, or a copy that is."""
    if array.flags.c_contiguous:
        return array
    made = np.empty(array.shape, array.dtype)
    copy_elements(made, array)
    return made


def copy_elements(target: np.ndarray, source: Any) -> None:
    """Write the elements of ``source``, which is broadcast and cast, into ``target``."""
    if target.size >= _LEAST and target.shape == np.shape(source):
        along = _fastest(target)
        count = target.shape[along]
        many = count >= _LINES or (count > _WIDTH and source.strides[along] % _PAGE == 0)
        if (
            many
            and _WIDTH * target.size >= _STRIP * count
            and along != _fastest(source)
            and not np.may_share_memory(target, source)
        ):
            before = (slice(None),) * along
            for start in range(0, count, _WIDTH):
                strip = (*before, slice(start, start + _WIDTH))
                np.copyto(target[strip], source[strip])
            return
    np.copyto(target, source)


def _fastest(array: np.ndarray) -> int:
    """The dimension whose neighbours lie closest together."""
    steps = [
        (abs(stride) if size > 1 else np.inf, -axis)
        for axis, (size, stride) in enumerate(zip(array.shape, array.strides, strict=True))
    ]
    return -min(steps)[1]
