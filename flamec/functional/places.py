"""Indices and bounds of slices as places in a dimension.

In: what a user gives for an index or a bound (a number, a symbolic size, a number that varies), and
the size of the dimension. Out: places counted from the front, and lengths; of numbers that vary
while a function is traced symbols, whose values each call computes (``flamec.host_sizes``).
"""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np

from flamec.host_numbers import Expression, expression_of, whole_expression_of
from flamec.host_sizes import HostSizes
from flamec.ir.shape import Dim, SymbolicDim, less
from flamec.ir.types import int64
from flamec.tensor import RuntimeNumber, Tensor
from flamec.values import as_size


def is_python_int(value: Any) -> TypeGuard[RuntimeNumber]:
    """Whether a value is a whole number that varies and that Python computes in each call."""
    return expression_of(value) is not None and value._type.dtype is int64


def place_of(index: Any, extent: Dim) -> Dim | None:
    """The place of element ``index`` of a dimension, -1 being the last; None if it has none."""
    expression = whole_expression_of(index)
    if expression is not None:
        sizes = expression.state.sizes
        if sizes.serves(expression, extent):
            return sizes.place(expression, extent) if sizes.is_inside(expression, extent) else None
    place: Dim = int(index) if isinstance(index, (int, np.integer)) else index
    if isinstance(index, Tensor):
        place = as_size(index, "an index")
    if less(place, -extent) or not less(place, extent):
        return None
    return place + extent if less(place, 0) else place


def window_of(start: Any, stop: Any, step: int, extent: Dim) -> tuple[Dim, Dim] | None:
    """Where a slice with bounds that vary begins, and its length; None for other slices."""
    sizes, bounds = _varying(start, stop, extent)
    return None if sizes is None else sizes.window(*bounds, step, extent)


def narrowed(start: Any, length: Any, extent: Dim) -> tuple[Dim, Dim] | None:
    """Where ``length`` elements from ``start`` on begin, which may be counted from the end, and the
    length; None if they are not inside."""
    sizes, (first, count) = _varying(start, length, extent)
    if sizes is not None:
        return sizes.narrowed(first, count, extent)
    first, count = (as_size(v, "narrow()") if isinstance(v, Tensor) else v for v in (start, length))
    if less(first, 0):
        first = first + extent
    inside = not less(count, 0) and not less(first, 0) and not less(extent, first + count)
    return (first, count) if inside else None


def _varying(first: Any, second: Any, extent: Dim) -> tuple[HostSizes | None, tuple[Any, Any]]:
    """Two bounds, with expressions for those that vary; no sizes if none does, or if not all are
    known before a call's program runs."""
    bounds = [whole_expression_of(v) or v for v in (first, second)]
    bounds = [int(v) if isinstance(v, np.integer) else v for v in bounds]
    varying = next((v for v in bounds if isinstance(v, Expression)), None)
    known = (int, SymbolicDim, Expression, type(None))
    sizes = None if varying is None else varying.state.sizes
    if sizes is not None:
        serves = all(isinstance(v, known) for v in bounds) and sizes.serves(*bounds, extent)
        sizes = sizes if serves else None
    return sizes, (bounds[0], bounds[1])


def shown(index: Any) -> Any:
    """What an error shows of an index: of one that varies the number in the traced call."""
    expression = expression_of(index)
    return index if expression is None else expression.value
