"""Pooling to a given output size, and the placing of pooled elements back (max_unpool).

Window i of an output of size n over m elements runs from floor(i * m / n) to
ceil((i + 1) * m / n). Where n divides m these are ordinary windows. Else means are sums of what
is chosen from a line, dimension by dimension, and the largest are looked for in a table.
Where m or n is symbolic, the program computes bounds and tables, for all sizes alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flamec.conversion import constant_array
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.pooling import largest, numbered, row_major, selected, with_history
from flamec.functional.primitives import (
    is_found_empty,
    mean_over,
    narrowed,
    ops,
    require,
    require_floating,
    widened,
)
from flamec.functional.promotion import require_tensor
from flamec.functional.shape import apart_from
from flamec.functional.spatial import batched, per_dimension, unbatched
from flamec.fusing import fused
from flamec.ir.shape import Dim, SymbolicDim, format_shape, product, structurally_equal
from flamec.ir.types import int64
from flamec.tensor import Tensor

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "max_unpool1d", "max_unpool2d", "max_unpool3d",
]  # fmt: skip

Size = int | None | Sequence[int | None]


def _output_size(name: str, output_size: Any, sizes: Sequence[Dim]) -> tuple[Dim, ...]:
    """The wanted sizes; None keeps a size."""
    entries = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,)
    if len(entries) == 1:
        entries = entries * len(sizes)
    require(
        len(entries) == len(sizes),
        f"{name}: output_size must be a number or {len(sizes)} of them, got {output_size}",
    )
    wanted = tuple(n if e is None else e for e, n in zip(entries, sizes, strict=True))
    require(
        all(isinstance(d, SymbolicDim) or d >= 0 for d in wanted),
        f"{name}: elements of output_size must be greater than or equal to 0, got {output_size}",
    )
    return wanted


def _require_elements(name: str, input: Tensor, sizes: Sequence[Dim]) -> None:
    require(
        not any(map(is_found_empty, sizes)),
        f"{name}: expected sizes other than 0 for the spatial dimensions, but input has shape "
        f"{format_shape(input._type.shape)}",
    )


def _bounds(size: int, output: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each window starts and ends."""
    places = np.arange(output)
    return places * size // output, -(-(places + 1) * size // output)


def _computed_bounds(x: Tensor, size: Dim, output: Dim) -> tuple[Tensor, Tensor]:
    """The same, computed by the program; both are [output]."""
    line = ops.iota(shape=(output,), axis=0, dtype=int64, device=x._type.device)
    return _start(line, size, output), _end(line, size, output)


def _start(place: Tensor, size: Dim, output: Dim) -> Tensor:
    return ops.floor_divide(ops.mul(place, size), output)


def _end(place: Tensor, size: Dim, output: Dim) -> Tensor:
    last = ops.floor_divide(ops.sub(ops.mul(ops.add(place, 1), size), 1), output)
    return ops.add(last, 1)


def _divides(output: Dim, size: Dim) -> bool:
    """Whether ordinary windows do for all that the sizes may be."""
    if isinstance(output, SymbolicDim) or isinstance(size, SymbolicDim):
        return structurally_equal(output, size)
    return output > 0 and size % output == 0


def _windowed(sizes: Sequence[Dim], wanted: Sequence[Dim]) -> tuple[Any, ...]:
    """Kernel, stride, padding, dilation and counts of windows that divide the input evenly."""
    kernel = tuple(
        1 if not isinstance(n, int) else n // int(o) for n, o in zip(sizes, wanted, strict=True)
    )
    none, ones = (0,) * len(kernel), (1,) * len(kernel)
    return kernel, kernel, none, ones, tuple(wanted)


def _adaptive_avg(name: str, spatial: int, input: Tensor, output_size: Size) -> Tensor:
    x, single = batched(name, input, spatial)
    require_floating(name, input)
    sizes = x._type.shape[2:]
    _require_elements(name, input, sizes)
    wanted = _output_size(name, output_size, sizes)
    wide = widened(x)
    if all(isinstance(o, int) and o == 1 for o in wanted):
        result = mean_over(wide, tuple(range(2, 2 + spatial)))
        return unbatched(narrowed(result, input._type.dtype), single)
    for n, (size, output) in enumerate(zip(sizes, wanted, strict=True)):
        wide = _means(name, wide, 2 + n, size, output)
    return apart_from(input, unbatched(narrowed(wide, input._type.dtype), single))


def _means(name: str, x: Tensor, axis: int, size: Dim, output: Dim) -> Tensor:
    """Means of windows along one dimension."""
    shape = x._type.shape
    if structurally_equal(output, size):
        return x
    if structurally_equal(output, 1):
        return mean_over(x, (axis,))
    if _divides(output, size):
        count = size // int(output)
        apart = ops.reshape(x, shape=(*shape[:axis], output, count, *shape[axis + 1 :]))
        return ops.div(ops.sum(apart, axes=(axis + 1,)), count)
    grid = (*(1,) * axis, output, size, *(1,) * (len(shape) - axis - 1))
    across = (*grid[: axis + 1], 1, *grid[axis + 2 :])
    if isinstance(size, int) and isinstance(output, int):
        bounds = tuple(table_like(x, b.reshape(across)) for b in _bounds(size, output))
    else:
        bounds = tuple(ops.reshape(b, shape=across) for b in _computed_bounds(x, size, output))
    start, end = bounds
    place = ops.iota(shape=grid, axis=axis + 1, dtype=int64, device=x._type.device)
    inside = ops.bitwise_and(ops.ge(place, start), ops.lt(place, end))
    apart = ops.reshape(x, shape=(*shape[:axis], 1, *shape[axis:]))
    # a choice, not a product with zeros: NaN and infinities stay in their windows
    total = ops.sum(ops.where(inside, apart, 0), axes=(axis + 1,))
    count = ops.reshape(ops.sub(end, start), shape=(*across[: axis + 1], *across[axis + 2 :]))
    return ops.div(total, ops.cast(count, x._type.dtype))


def table_like(x: Tensor, values: np.ndarray) -> Tensor:
    """A table on the device of ``x``."""
    return constant_array(np.ascontiguousarray(values), x._type.device)


@fused()
def adaptive_avg_pool1d(input: Tensor, output_size: Size) -> Tensor:
    """Means over windows such that [N, C, L] becomes [N, C, output_size]."""
    return _adaptive_avg("adaptive_avg_pool1d", 1, input, output_size)


@fused()
def adaptive_avg_pool2d(input: Tensor, output_size: Size) -> Tensor:
    """Means over windows such that [N, C, H, W] becomes [N, C, *output_size]; None keeps a size."""
    return _adaptive_avg("adaptive_avg_pool2d", 2, input, output_size)


@autocasts(cpu=FLOAT32)
@fused()
def adaptive_avg_pool3d(input: Tensor, output_size: Size) -> Tensor:
    """Means over windows such that [N, C, D, H, W] becomes [N, C, *output_size]."""
    return _adaptive_avg("adaptive_avg_pool3d", 3, input, output_size)


def _adaptive_max(
    name: str, spatial: int, input: Tensor, output_size: Size, return_indices: bool
) -> Any:
    x, single = batched(name, input, spatial)
    sizes = x._type.shape[2:]
    _require_elements(name, input, sizes)
    wanted = _output_size(name, output_size, sizes)
    fill = -np.inf if x._type.dtype.is_floating_point else int(np.iinfo(x._type.dtype.numpy).min)
    if all(_divides(o, n) for o, n in zip(wanted, sizes, strict=True)):
        kernel, *rest = _windowed(sizes, wanted)
        result, number = selected(x, fill, 0, (kernel, *rest))
    else:
        tables = [_table(x, n, o) for n, o in zip(sizes, wanted, strict=True)]
        kernel = tuple(table._type.shape[1] for table in tables)
        view = x
        for n, table in enumerate(tables):
            view = _looked_up(view, 2 + 2 * n, table)
        order = (0, 1, *range(2, 2 + 2 * spatial, 2), *range(3, 3 + 2 * spatial, 2))
        view = ops.permute(view, axes=order)
        best, number = largest(ops.detach(view), spatial, 0, fill)
        result = best
        if x._type.dtype.is_floating_point:
            result = with_history(best, numbered(view, number, spatial))
    if not return_indices:
        return unbatched(result, single)
    places: list[Tensor] = []
    rest_ = number
    for n in reversed(range(spatial)):
        inside = ops.cast(ops.fmod(rest_, kernel[n]), int64)
        rest_ = ops.floor_divide(rest_, kernel[n])
        line = _axis_line(x, wanted[n], n, spatial)
        start, end = _start(line, sizes[n], wanted[n]), _end(line, sizes[n], wanted[n])
        places.insert(0, ops.minimum(ops.add(start, inside), ops.sub(end, 1)))
    flat = row_major(places, sizes)
    return unbatched(result, single), unbatched(flat, single)


def _table(x: Tensor, size: Dim, output: Dim) -> Tensor:
    """The elements of each window [output, longest]; short ones repeat their last."""
    if isinstance(size, int) and isinstance(output, int):
        start, end = _bounds(size, output)
        longest = int((end - start).max(initial=1))
        known = np.minimum(start[:, None] + np.arange(longest), end[:, None] - 1)
        return table_like(x, known.astype(np.int64))
    first, behind = (ops.reshape(b, shape=(output, 1)) for b in _computed_bounds(x, size, output))
    grid = (output, (size - 1) // output + 2)
    line = ops.iota(shape=grid, axis=1, dtype=int64, device=x._type.device)
    return ops.minimum(ops.add(first, line), ops.sub(behind, 1))


def _looked_up(x: Tensor, axis: int, table: Tensor) -> Tensor:
    """``x[..., table, ...]`` along one dimension."""
    rank = len(x._type.shape)
    front = ops.permute(x, axes=(axis, *(i for i in range(rank) if i != axis)))
    found = ops.index(front, table)
    order = (*range(2, axis + 2), 0, 1, *range(axis + 2, rank + 1))
    return ops.permute(found, axes=order)


def _axis_line(x: Tensor, count: Dim, n: int, spatial: int) -> Tensor:
    shape = tuple(count if i == n else 1 for i in range(spatial))
    return ops.iota(shape=(1, 1, *shape), axis=2 + n, dtype=int64, device=x._type.device)


@fused()
def adaptive_max_pool1d(input: Tensor, output_size: Size, return_indices: bool = False) -> Any:
    """The largest of windows such that [N, C, L] becomes [N, C, output_size]."""
    return _adaptive_max("adaptive_max_pool1d", 1, input, output_size, return_indices)


@fused()
def adaptive_max_pool2d(input: Tensor, output_size: Size, return_indices: bool = False) -> Any:
    """The largest of windows such that [N, C, H, W] becomes [N, C, *output_size]."""
    return _adaptive_max("adaptive_max_pool2d", 2, input, output_size, return_indices)


@autocasts(cpu=FLOAT32)
@fused()
def adaptive_max_pool3d(input: Tensor, output_size: Size, return_indices: bool = False) -> Any:
    """The largest of windows such that [N, C, D, H, W] becomes [N, C, *output_size]."""
    return _adaptive_max("adaptive_max_pool3d", 3, input, output_size, return_indices)


# the way back ------------------------------------------------------------------------------
def _max_unpool(
    name: str, spatial: int, input: Tensor, indices: Tensor, kernel_size: Any, stride: Any,
    padding: Any, output_size: Any,
) -> Tensor:  # fmt: skip
    require_tensor(name, "indices", indices)
    x, single = batched(name, input, spatial)
    require(
        indices._type.dtype is int64,
        f"{name}: elements in indices should be type int64 but got {indices._type.dtype.name}",
    )
    require(
        indices._type.shape == input._type.shape,
        f"{name}: expected shape of indices to be that of the input "
        f"({format_shape(input._type.shape)}), but got {format_shape(indices._type.shape)}",
    )
    kernel = per_dimension(name, "kernel_size", kernel_size, spatial)
    steps = kernel if stride is None else per_dimension(name, "stride", stride, spatial)
    borders = per_dimension(name, "padding", padding, spatial)
    shape = x._type.shape
    usual = tuple(
        (n - 1) * s + k - 2 * p
        for n, s, k, p in zip(shape[2:], steps, kernel, borders, strict=True)
    )
    sizes: tuple[Dim, ...] = usual
    if output_size is not None:
        sizes = tuple(output_size)[-spatial:]
        for size, default, step in zip(sizes, usual, steps, strict=True):
            require(
                isinstance(default, SymbolicDim) or default - step < size < default + step,
                f"{name}: invalid output_size {format_shape(sizes)} (each entry must differ by "
                f"less than the stride from {format_shape(usual)})",
            )
    rows, count = shape[0] * shape[1], product(shape[2:])
    flat = ops.reshape(x, shape=(rows, count))
    places = ops.reshape(indices, shape=(rows, count))
    row = ops.iota(shape=(rows, count), axis=0, dtype=int64, device=x._type.device)
    zeros = ops.full(
        value=0, shape=(rows, product(sizes)), dtype=x._type.dtype, device=x._type.device
    )
    placed = ops.index_put(zeros, flat, row, places, mode="set")
    return unbatched(ops.reshape(placed, shape=(*shape[:2], *sizes)), single)


@fused()
def max_unpool1d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
    output_size: Any = None,
) -> Tensor:  # fmt: skip
    """The elements of ``input`` at the places that ``max_pool1d`` found, zeros elsewhere."""
    return _max_unpool("max_unpool1d", 1, input, indices, kernel_size, stride, padding,
                       output_size)  # fmt: skip


@autocasts(cpu=FLOAT32)
@fused()
def max_unpool2d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
    output_size: Any = None,
) -> Tensor:  # fmt: skip
    """The elements of ``input`` at the places that ``max_pool2d`` found, zeros elsewhere."""
    return _max_unpool("max_unpool2d", 2, input, indices, kernel_size, stride, padding,
                       output_size)  # fmt: skip


@autocasts(cpu=FLOAT32)
@fused()
def max_unpool3d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
    output_size: Any = None,
) -> Tensor:  # fmt: skip
    """The elements of ``input`` at the places that ``max_pool3d`` found, zeros elsewhere."""
    return _max_unpool("max_unpool3d", 3, input, indices, kernel_size, stride, padding,
                       output_size)  # fmt: skip
