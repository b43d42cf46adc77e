"""The standard's reductions, running sums, sorting, searching and sets."""

from __future__ import annotations

from typing import Any, NamedTuple

from flamec.array_api.operands import accumulated, axes_of, pair
from flamec.functional import (
    comparison,
    gathering,
    joining,
    masking,
    scan,
    searching,
    sorting,
    statistics,
    uniqueness,
)
from flamec.functional import reduction as ours
from flamec.functional.creation import ones_like, zeros_like
from flamec.ir.types import DType
from flamec.tensor import Tensor

Axes = int | tuple[int, ...] | None


def sum(
    x: Tensor, /, *, axis: Axes = None, dtype: DType | None = None, keepdims: bool = False
) -> Tensor:
    """The sum; of integers at least in the default integer dtype."""
    return (
        ours.sum(accumulated(x, dtype), axes_of(x, axis), keepdims)
        if x.ndim
        else accumulated(x, dtype).clone()
    )


def prod(
    x: Tensor, /, *, axis: Axes = None, dtype: DType | None = None, keepdims: bool = False
) -> Tensor:
    """The product; of integers at least in the default integer dtype."""
    result = accumulated(x, dtype)
    for a in sorted((a % x.ndim for a in axes_of(x, axis)), reverse=True):
        result = ours.prod(result, a, keepdims)
    return result


def mean(x: Tensor, /, *, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The arithmetic mean."""
    return ours.mean(x, axes_of(x, axis), keepdims) if x.ndim else x.clone()


def max(x: Tensor, /, *, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The greatest element; NaN if there is one."""
    return ours.amax(x, axes_of(x, axis), keepdims)


def min(x: Tensor, /, *, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The least element; NaN if there is one."""
    return ours.amin(x, axes_of(x, axis), keepdims)


def var(
    x: Tensor, /, *, axis: Axes = None, correction: float = 0.0, keepdims: bool = False
) -> Tensor:
    """The mean squared distance from the mean, of ``count - correction`` elements."""
    return statistics.var(x, axes_of(x, axis), correction=correction, keepdim=keepdims)


def std(
    x: Tensor, /, *, axis: Axes = None, correction: float = 0.0, keepdims: bool = False
) -> Tensor:
    """The square root of ``var``."""
    return statistics.std(x, axes_of(x, axis), correction=correction, keepdim=keepdims)


def all(x: Tensor, /, *, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Whether all elements are nonzero."""
    return _folded(ours.all, x, axis, keepdims)


def any(x: Tensor, /, *, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Whether some element is nonzero."""
    return _folded(ours.any, x, axis, keepdims)


def _folded(function: Any, x: Tensor, axis: Axes, keepdims: bool) -> Tensor:
    result = comparison.ne(x, zeros_like(x))
    for a in sorted((a % x.ndim for a in axes_of(x, axis)), reverse=True):
        result = function(result, a, keepdims)
    return result


def count_nonzero(x: Tensor, /, *, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """How many elements are nonzero."""
    return sum(comparison.ne(x, zeros_like(x)), axis=axis, keepdims=keepdims)


def argmax(x: Tensor, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Where the greatest element is, the first of several."""
    return ours.argmax(x, axis, keepdims)


def argmin(x: Tensor, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Where the least element is, the first of several."""
    return ours.argmin(x, axis, keepdims)


# running ------------------------------------------------------------------------------------
def _running(
    x: Tensor, axis: int | None, dtype: DType | None, include_initial: bool, product: bool
) -> Tensor:
    if axis is None:
        if x.ndim != 1:
            raise ValueError("axis must be given for an array that is not one-dimensional")
        axis = 0
    wide = accumulated(x, dtype)
    result = scan.cumprod(wide, axis) if product else scan.cumsum(wide, axis)
    if not include_initial:
        return result
    shape = [1 if i == axis % x.ndim else d for i, d in enumerate(result.shape)]
    make = ones_like if product else zeros_like
    return joining.cat([make(result.new_empty(shape)), result], axis)


def cumulative_sum(
    x: Tensor,
    /,
    *,
    axis: int | None = None,
    dtype: DType | None = None,
    include_initial: bool = False,
) -> Tensor:
    """The sums of the first elements; with ``include_initial`` zero before them."""
    return _running(x, axis, dtype, include_initial, False)


def cumulative_prod(
    x: Tensor,
    /,
    *,
    axis: int | None = None,
    dtype: DType | None = None,
    include_initial: bool = False,
) -> Tensor:
    """The products of the first elements; with ``include_initial`` one before them."""
    return _running(x, axis, dtype, include_initial, True)


def diff(
    x: Tensor,
    /,
    *,
    axis: int = -1,
    n: int = 1,
    prepend: Tensor | None = None,
    append: Tensor | None = None,
) -> Tensor:
    """The n-th differences of neighbours."""
    return scan.diff(x, n, axis, prepend, append)


# sorting and searching ----------------------------------------------------------------------
def sort(x: Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The elements in order."""
    values: Tensor = sorting.sort(x, axis, descending, stable=stable)[0]
    return values


def argsort(
    x: Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True
) -> Tensor:
    """Where the elements in order are found."""
    return sorting.argsort(x, axis, descending, stable=stable)


def searchsorted(
    x1: Tensor, x2: Any, /, *, side: str = "left", sorter: Tensor | None = None
) -> Tensor:
    """Where elements of ``x2`` belong in the ordered ``x1``."""
    ordered, wanted = pair("searchsorted", x1, x2)
    return searching.searchsorted(ordered, wanted, side=side, sorter=sorter)


def nonzero(x: Tensor, /) -> tuple[Tensor, ...]:
    """Where elements are nonzero, one array for each dimension."""
    found: tuple[Tensor, ...] = masking.nonzero(x, as_tuple=True)
    return found


def take(x: Tensor, indices: Tensor, /, *, axis: int | None = None) -> Tensor:
    """The slices at ``indices`` of a dimension."""
    if axis is None:
        if x.ndim != 1:
            raise ValueError("axis must be given for an array that is not one-dimensional")
        axis = 0
    wrapped = (indices + x.shape[axis]) % x.shape[axis] if x.shape[axis] else indices
    return gathering.index_select(x, axis, wrapped)


def take_along_axis(x: Tensor, indices: Tensor, /, *, axis: int = -1) -> Tensor:
    """For each place the element along ``axis`` that ``indices`` names."""
    size = x.shape[axis]
    wrapped = (indices + size) % size if size else indices
    return gathering.take_along_dim(x, wrapped, axis)


# sets ---------------------------------------------------------------------------------------
class UniqueAll(NamedTuple):
    """What ``unique_all`` gives."""

    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    """What ``unique_counts`` gives."""

    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    """What ``unique_inverse`` gives."""

    values: Tensor
    inverse_indices: Tensor


def unique_all(x: Tensor, /) -> UniqueAll:
    """The different elements in order, where each is first, which each element is, how many."""
    values, inverse, counts = uniqueness.unique(x, return_inverse=True, return_counts=True)
    order = sorting.argsort(inverse.reshape(-1), stable=True)
    starts = scan.cumsum(counts, 0) - counts
    return UniqueAll(values, order[starts], inverse.reshape(x.shape), counts)


def unique_counts(x: Tensor, /) -> UniqueCounts:
    """The different elements in order, and how many there are of each."""
    return UniqueCounts(*uniqueness.unique(x, return_counts=True))


def unique_inverse(x: Tensor, /) -> UniqueInverse:
    """The different elements in order, and which of them each element is."""
    values, inverse = uniqueness.unique(x, return_inverse=True)
    return UniqueInverse(values, inverse.reshape(x.shape))


def unique_values(x: Tensor, /) -> Tensor:
    """The different elements in order."""
    values: Tensor = uniqueness.unique(x)
    return values
