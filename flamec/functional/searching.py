"""Searching in ordered values, membership, histograms.

In: numbers. Out: positions (int64, or int32 on request), truth, or counts. Everything is made of
comparisons and gathers, so it runs and compiles wherever those do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from flamec import return_types
from flamec.errors import OperationTypeError, user_location
from flamec.functional.arguments import public
from flamec.functional.bisection import counted_before
from flamec.functional.comparison import logical_not
from flamec.functional.primitives import is_empty_size, ops, require
from flamec.functional.promotion import (
    as_tensors,
    constant,
    is_number,
    require_tensor,
)
from flamec.functional.reduction import any as any_of
from flamec.functional.shape import window
from flamec.functional.sorting import picked, refuse_bool, sorted_along
from flamec.fusing import fused
from flamec.ir.shape import SymbolicDim, equal, format_shape, product
from flamec.ir.types import bool_, int32, int64
from flamec.tensor import Tensor
from flamec.values import required

Comparison = Callable[[Tensor, Tensor], Tensor]
_AFTER: dict[str, Comparison] = {  # whether an element does not stand before a value
    "reached": lambda x, y: ops.ge(x, y),
    "greater": lambda x, y: ops.gt(x, y),
    "not less": lambda x, y: logical_not(ops.lt(x, y)),
}
_MOST_STEPS = 40  # halvings of a size that is not known at all: no memory has room for more
_PAIRS = 64  # values that are compared one by one rather than sorted


def _flat(x: Tensor) -> Tensor:
    result: Tensor = ops.reshape(x, shape=(product(x._type.shape),))
    return result


# places in an order ----------------------------------------------------------------------


def _count_before(ordered: Tensor, values: Tensor, after: str) -> Tensor:
    """How many elements of the last dimension of ``ordered`` stand before each of ``values``.

    ``ordered`` has one dimension, or as many as ``values``, with the same sizes but for the last.
    ``after`` is one of ``_AFTER``.
    """
    size = ordered._type.shape[-1]
    steps = _MOST_STEPS if isinstance(size, SymbolicDim) else size.bit_length()
    if not steps:
        where: Any = {"dtype": int64, "device": values._type.device}
        none: Tensor = ops.full(value=0, shape=values._type.shape, **where)
        return none
    return _bisected(ordered, values, steps, after)


@fused()
def _bisected(ordered: Tensor, values: Tensor, steps: int, after: str) -> Tensor:
    """``_count_before``, where the size is less than 2 to the power of ``steps``."""
    size = ordered._type.shape[-1]
    if isinstance(size, SymbolicDim) and steps == _MOST_STEPS:
        # there is something to look at even where there is nothing
        none, one = (0,) * (ordered.ndim - 1), (1,)
        ordered = ops.pad(ordered, constant(0, ordered._type.dtype, ordered._type.device),
                          low=(*none, 0), high=(*none, *one))  # fmt: skip

    axis = ordered.ndim - 1

    def stands_after(place: Tensor, behind: int) -> Tensor:
        later = window(ordered, axis, behind, ordered._type.shape[axis] - behind)
        if ordered.ndim == 1:
            found = ops.index(later, place, inside=True)
        else:
            found = picked(later, place, axis, inside=True)
        return _AFTER[after](found, values)

    return counted_before(stands_after, size, steps, values._type.shape, values._type.device)


@public
def searchsorted(
    sorted_sequence: Tensor,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """How many elements of the last dimension, which is in order, stand before each value.

    Equal ones count with ``right`` (or ``side="right"``). ``sorted_sequence``: one dimension, or
    those of ``input`` but for the size of the last. ``sorter``: positions that put it in order.
    """
    name = "searchsorted"
    require_tensor(name, "sorted_sequence", sorted_sequence)
    if is_number(input):
        input = constant(input, sorted_sequence._type.dtype, sorted_sequence._type.device)
        require(sorted_sequence.ndim == 1, f"{name}(): a number needs a sequence of one dimension")
    require_tensor(name, "input", input)
    require(side in (None, "left", "right"), f"{name}(): side can only be 'left' or 'right'")
    require(
        not (right and side == "left"),
        f"{name}(): side and right can't be set to opposites, got side of left while right was "
        "True",
    )
    table, wanted = sorted_sequence._type, input._type
    matches = len(table.shape) == 1 or (
        len(table.shape) == len(wanted.shape) > 0
        and all(map(equal, table.shape[:-1], wanted.shape[:-1]))
    )
    require(
        matches,
        f"{name}(): boundaries tensor should be 1 dimension or the first N-1 dimensions of "
        f"boundaries tensor and input value tensor must match, but we got boundaries tensor "
        f"{format_shape(table.shape)} and input value tensor {format_shape(wanted.shape)}",
    )
    ordered = sorted_sequence
    if sorter is not None:
        require_tensor(name, "sorter", sorter)
        require(sorter._type.dtype is int64, f"{name}(): sorter must be a tensor of long ints")
        same = len(sorter._type.shape) == len(table.shape)
        require(
            same and all(map(equal, sorter._type.shape, table.shape)),
            f"{name}(): boundary and sorter must have the same size, but got "
            f"{format_shape(table.shape)} and {format_shape(sorter._type.shape)}",
        )
        ordered = picked(ordered, sorter, ordered.ndim - 1)
    ordered, values = as_tensors(name, ordered.detach(), input.detach())
    if table.dtype is bool_:
        raise OperationTypeError(f"{name}(): not defined for bool (at {user_location()})")
    after = "greater" if right or side == "right" else "reached"
    found = _count_before(ordered, values, after)
    return ops.cast(found, int32) if out_int32 else found


@public
def bucketize(
    input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False
) -> Tensor:
    """The number of the interval between ``boundaries``, which are in order, of each value.

    A boundary belongs to the interval below it, with ``right`` to the one above.
    """
    require_tensor("bucketize", "boundaries", boundaries)
    require(
        boundaries.ndim == 1,
        f"bucketize(): boundaries tensor must be 1 dimension, but got dim({boundaries.ndim})",
    )
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


# membership ------------------------------------------------------------------------------


@public
@fused()
def isin(
    elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False
) -> Tensor:
    """Whether each element occurs in ``test_elements``; ``invert``: whether it does not."""
    if not isinstance(elements, Tensor) and not isinstance(test_elements, Tensor):
        raise OperationTypeError(f"isin(): one argument must be a Tensor (at {user_location()})")
    x, tested = as_tensors("isin", elements, test_elements)
    x, tested = ops.detach(x), _flat(ops.detach(tested))
    count = tested._type.shape[0]
    if isinstance(count, SymbolicDim) or count <= _PAIRS or tested._type.dtype is bool_:
        same = ops.eq(ops.reshape(x, shape=(*x._type.shape, 1)), tested)
        found = any_of(same, dim=-1)
    else:
        ordered, _ = sorted_along(tested, 0)
        place = _count_before(ordered, x, "not less")
        found = ops.eq(ops.index(ordered, ops.minimum(place, count - 1)), x)
    return logical_not(found) if invert else found


# histograms ------------------------------------------------------------------------------


@public
def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """How many elements lie in each of ``bins`` equal intervals from ``min`` to ``max``.

    Both ends included; other elements and NaN are left out. If ``min`` and ``max`` are equal, the
    extremes of the data take their place, 1 further out if those are equal, too. Counts have the
    dtype of ``input``.
    """
    require_tensor("histc", "input", input)
    refuse_bool("histc", input)
    dtype = input._type.dtype
    if not dtype.is_floating_point:
        raise OperationTypeError(f"histc(): not defined for {dtype.name} (at {user_location()})")
    require(bins > 0, f"histc(): bins must be > 0, got {bins}")
    require(min <= max, f"histc(): max must be larger than min, got [{min}, {max}]")
    require(
        math.isfinite(min) and math.isfinite(max),
        f"histc(): range of [{min}, {max}] is not finite",
    )
    low, high = (constant(float(v), dtype.compute, input._type.device) for v in (min, max))
    if min == max and not is_empty_size(product(input._type.shape)):
        low, high = _extremes("histc", _values(input))
    return _histogram(input, low, high, bins)


def _extremes(name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest element; RuntimeError where they are not finite."""
    low, high = ops.amin(x, axes=(0,)), ops.amax(x, axes=(0,))
    message = f"{name}(): the range of the elements is not finite"
    low = required(low, lambda v: v > -math.inf, message)  # a NaN is both
    return low, required(high, lambda v: v < math.inf, message)


def _values(input: Tensor) -> Tensor:
    """All elements, in the type that is computed with."""
    return _flat(ops.cast(ops.detach(input), input._type.dtype.compute))


@public
def histogram(
    input: Tensor,
    bins: int | Tensor = 100,
    *,
    range: tuple[float, float] | None = None,
    weight: Tensor | None = None,
    density: bool = False,
) -> Any:
    """hist and bin_edges: the weight of elements in each bin, whose last one has both ends.

    ``bins``: how many there are, of equal size over ``range`` or else over the data; or their edges
    in ascending order. ``weight``: one for each element, 1 unless given; ``density``: divided by
    their sum and by the sizes of bins. Elements outside are left out.
    """
    require_tensor("histogram", "input", input)
    dtype = input._type.dtype
    require(dtype.is_floating_point, f"histogram: not implemented for {dtype.name}")
    x = input.detach().reshape(-1)
    if isinstance(bins, Tensor):
        require(range is None, "histogram: range is only for bins that are a number")
        edges = bins.detach().to(dtype, copy=True)
    else:
        edges = _equal_bins(x, bins, range)
    require(
        weight is None or tuple(weight.shape) == tuple(input.shape),
        "histogram: weight must have the shape of the input",
    )
    last = edges.shape[0] - 2
    place = _count_before(edges, x, "greater") - 1
    place = ops.where(ops.eq(x, edges[-1]), last, place)
    inside = (place >= 0) & (place <= last)
    zeros = ops.full(value=0, shape=(last + 1,), dtype=dtype, device=x._type.device)
    if weight is None:
        counted = ops.cast(inside, dtype)
    else:
        counted = ops.where(inside, weight.detach().reshape(-1), 0.0)
    hist = ops.index_put(zeros, counted, place.clamp(0, last), mode="add")
    if density:
        hist = hist / hist.sum() / (edges[1:] - edges[:-1])
    return return_types.histogram(hist, edges)


def _equal_bins(x: Tensor, bins: int, limits: tuple[float, float] | None) -> Tensor:
    """The edges of bins of equal size between two limits, or over the data."""
    require(bins > 0, f"histogram(): bins must be > 0, but got {bins}")
    dtype, device = x._type.dtype, x._type.device
    if limits is not None:
        low, high = (constant(float(v), dtype, device) for v in limits)
        require(
            limits[0] <= limits[1],
            f"histogram: min should not exceed max, but got min {limits[0]} max {limits[1]}",
        )
    elif is_empty_size(x._type.shape[0]):
        low, high = constant(0.0, dtype, device), constant(1.0, dtype, device)
    else:
        low, high = _extremes("histogram", x)
    alike = ops.eq(low, high)
    low, high = ops.where(alike, ops.sub(low, 0.5), low), ops.where(alike, ops.add(high, 0.5), high)
    steps = ops.iota(shape=(bins + 1,), axis=0, dtype=int64, device=device).to(dtype) / bins
    edges = ops.where(
        ops.lt(steps, 0.5), low + (high - low) * steps, high - (high - low) * (1 - steps)
    )
    result: Tensor = edges
    return result


@fused()
def _histogram(input: Tensor, low: Tensor, high: Tensor, bins: int) -> Tensor:
    """How many elements lie in each of ``bins`` intervals from low to high, in their dtype."""
    x = _values(input)
    alike = ops.eq(low, high)
    low, high = ops.where(alike, ops.sub(low, 1.0), low), ops.where(alike, ops.add(high, 1.0), high)
    inside = ops.bitwise_and(ops.ge(x, low), ops.le(x, high))
    position = ops.div(ops.mul(ops.sub(x, low), float(bins)), ops.sub(high, low))
    safe = ops.where(inside, position, 0.0)
    place = ops.minimum(ops.cast(safe, int32), bins - 1)
    zeros = ops.full(value=0, shape=(bins,), dtype=int64, device=x._type.device)
    counts = ops.index_put(zeros, ops.cast(inside, int64), place, mode="add")
    result: Tensor = ops.cast(counts, input._type.dtype)
    return result


__all__ = ["bucketize", "histc", "histogram", "isin", "searchsorted"]

TENSOR_METHODS: dict[str, Callable[..., Any]] = {"histc": histc, "histogram": histogram}
