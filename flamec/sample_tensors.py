"""Tensors of random numbers for tests: ``testing.make_tensor``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from flamec.dtype_limits import finfo, iinfo
from flamec.functional.sampling import rand, randint
from flamec.ir.types import DType, bool_, int64, uint8
from flamec.memory_format import contiguous_format
from flamec.tensor import Tensor

__all__ = ["make_tensor"]


def make_tensor(
    *shape: Any,
    dtype: DType,
    device: Any,
    low: float | None = None,
    high: float | None = None,
    requires_grad: bool = False,
    noncontiguous: bool = False,
    exclude_zero: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """A tensor of ``dtype`` with numbers drawn evenly from ``[low, high)``.

    If not given these are -9 and 9 for floats, -9 and 10 for integers, 0 and 10 for uint8, 0 and 2
    for bool. ``noncontiguous``: every second one of twice as many along the last dimension.
    ``exclude_zero``: zeros become the smallest normal number, of integers 1. ValueError for bounds
    without anything between them, and for ``requires_grad`` of what is no float.
    """
    if len(shape) == 1 and isinstance(shape[0], Sequence):
        shape = tuple(shape[0])
    if noncontiguous and memory_format is not None:
        raise ValueError(
            "The parameters `noncontiguous` and `memory_format` are mutually exclusive, but got "
            f"noncontiguous={noncontiguous} and memory_format={memory_format}"
        )
    if requires_grad and not dtype.is_floating_point:
        raise ValueError(
            "`requires_grad=True` is not supported for boolean and integral dtypes, but got "
            f"dtype={dtype}"
        )
    wide = noncontiguous and math.prod(shape) > 1
    drawn = (*shape[:-1], 2 * shape[-1]) if wide else shape
    first, last = _bounds(dtype, low, high)
    if dtype.is_floating_point:
        place = rand(drawn, device=device, dtype=dtype)
        result = (place * last + (1 - place) * first).clamp(first, last)
    else:
        result = randint(math.ceil(first), math.ceil(last), drawn, device=device, dtype=dtype)
    if wide:
        result = result[..., 1::2]
    elif memory_format is not None and memory_format is not contiguous_format:
        result = result.clone(memory_format=memory_format)
    if exclude_zero:
        least = finfo(dtype).tiny if dtype.is_floating_point else 1
        result = result.masked_fill(result == 0, least)
    if requires_grad:
        result.requires_grad_()
    return result


def _bounds(dtype: DType, low: float | None, high: float | None) -> tuple[float, float]:
    """The bounds within what the type can hold."""
    if dtype is bool_:
        defaults, least, end = (0, 2), 0.0, 2.0
    elif dtype.is_floating_point:
        defaults, least, end = (-9, 9), finfo(dtype).min, finfo(dtype).max
    else:
        defaults = (0, 10) if dtype is uint8 else (-9, 10)
        least, end = iinfo(dtype).min, iinfo(dtype).max + (dtype is not int64)
    first = defaults[0] if low is None else low
    last = defaults[1] if high is None else high
    if math.isnan(first) or math.isnan(last):
        raise ValueError(f"`low` and `high` cannot be NaN, but got low={first} and high={last}")
    if first > last or (first == last and not dtype.is_floating_point):
        raise ValueError(f"`low` must be less than `high`, but got {first} >= {last}")
    if last < least or first >= end:
        raise ValueError(
            f"The value interval specified by `low` and `high` is [{first}, {last}), but {dtype} "
            f"only supports [{least}, {end})"
        )
    return min(max(first, least), end), min(max(last, least), end)
