"""Fractional max pooling: windows whose places are drawn at random.

In: [N, C, *spatial], floating point. Out: [N, C, *output]. Each plane of each example has windows
of its own, which start at the places of Graham, "Fractional Max-Pooling" (2014), section 3:
``floor((i + u) * alpha) - floor(u * alpha)`` for a uniform u; the last one ends at the border.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.gathering import gather
from flamec.functional.pooling import row_major
from flamec.functional.primitives import ops, require, require_floating
from flamec.functional.sampling import rand
from flamec.functional.spatial import batched, per_dimension, require_positive, unbatched
from flamec.ir.shape import Dim, format_shape, product
from flamec.ir.types import int64
from flamec.tensor import Tensor

__all__ = ["fractional_max_pool2d", "fractional_max_pool3d"]

Sizes = int | Sequence[int] | None


@autocasts(cpu=FLOAT32)
def fractional_max_pool2d(
    input: Tensor,
    kernel_size: int | Sequence[int],
    output_size: Sizes = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """The largest element of each of H x W random windows; one of size and ratio must be given.

    ``_random_samples``: [N, C, 2] numbers in [0, 1), for the width and the height.
    """
    return _pooled(
        "fractional_max_pool2d",
        input,
        kernel_size,
        output_size,
        output_ratio,
        return_indices,
        _random_samples,
        (1, 0),
    )


@autocasts(cpu=FLOAT32)
def fractional_max_pool3d(
    input: Tensor,
    kernel_size: int | Sequence[int],
    output_size: Sizes = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """The largest element of each of D x H x W random windows.

    ``_random_samples``: [N, C, 3] numbers in [0, 1), for the depth, the height and the width.
    """
    return _pooled(
        "fractional_max_pool3d",
        input,
        kernel_size,
        output_size,
        output_ratio,
        return_indices,
        _random_samples,
        (0, 1, 2),
    )


def _pooled(
    name: str,
    input: Tensor,
    kernel_size: Any,
    output_size: Any,
    output_ratio: Any,
    return_indices: bool,
    samples: Tensor | None,
    columns: tuple[int, ...],
) -> Any:
    """``columns``: which sample is each dimension's."""
    spatial = len(columns)
    x, single = batched(name, input, spatial)
    require_floating(name, x)
    rows, channels, *sizes = x._type.shape
    kernel = per_dimension(name, "kernel_size", kernel_size, spatial)
    require_positive(name, kernel_size=kernel)
    counts = _output_counts(name, sizes, output_size, output_ratio, spatial)
    for size, width, count in zip(sizes, kernel, counts, strict=True):
        require(
            width + count - 1 <= int(size),
            f"{name}: {count} windows of {width} do not fit a dimension of {size}",
        )
    if samples is None:
        samples = rand((rows, channels, spatial), dtype=x._type.dtype, device=x._type.device)
    require(
        tuple(samples.shape) == (rows, channels, spatial),
        f"{name}: expected random samples of shape {format_shape((rows, channels, spatial))}, got "
        f"{format_shape(samples._type.shape)}",
    )
    places = []
    for axis, (size, width, count) in enumerate(zip(sizes, kernel, counts, strict=True)):
        starts = _starts(samples[:, :, columns[axis]], int(size), width, count)
        line = ops.iota(shape=(width,), axis=0, dtype=int64, device=x._type.device)
        inside = ops.add(ops.reshape(starts, shape=(*starts._type.shape, 1)), line)
        shape: list[Dim] = [rows, channels, *(1,) * (2 * spatial)]
        shape[2 + axis], shape[2 + spatial + axis] = count, width
        places.append(ops.reshape(inside, shape=tuple(shape)))
    flat = row_major(places, sizes)
    windows = int(product(counts)), int(product(kernel))
    flat = ops.reshape(flat, shape=(rows, channels, windows[0] * windows[1]))
    plane = ops.reshape(x, shape=(rows, channels, product(sizes)))
    in_windows = (rows, channels, *windows)
    elements = ops.reshape(gather(ops.detach(plane), 2, flat), shape=in_windows)
    best = ops.argmax(elements, axes=(3,))
    chosen = gather(
        ops.reshape(flat, shape=in_windows), 3, ops.reshape(best, shape=(*in_windows[:3], 1))
    )
    chosen = ops.reshape(chosen, shape=in_windows[:3])
    whole = (rows, channels, *counts)
    result = unbatched(ops.reshape(gather(plane, 2, chosen), shape=whole), single)
    if not return_indices:
        return result
    return result, unbatched(ops.reshape(chosen, shape=whole), single)


def _output_counts(
    name: str, sizes: Sequence[Dim], output_size: Any, output_ratio: Any, spatial: int
) -> tuple[int, ...]:
    require(
        (output_size is None) != (output_ratio is None),
        f"{name} requires specifying either an output_size or an output_ratio, not both",
    )
    if output_size is not None:
        return per_dimension(name, "output_size", output_size, spatial)
    ratios = (
        tuple(output_ratio)
        if isinstance(output_ratio, (tuple, list))
        else (output_ratio,) * spatial
    )
    require(
        len(ratios) == spatial and all(0 < r < 1 for r in ratios),
        f"{name}: output_ratio must be between 0 and 1 for each dimension, got {output_ratio}",
    )
    return tuple(int(int(d) * r) for d, r in zip(sizes, ratios, strict=True))


def _starts(sample: Tensor, size: int, width: int, count: int) -> Tensor:
    """Where the windows along one dimension start, [N, C, count], int64."""
    last = ops.full(
        value=size - width, shape=(*sample._type.shape, 1), dtype=int64, device=sample._type.device
    )
    if count == 1:
        return last
    alpha = (size - width) / (count - 1)
    sample = ops.reshape(sample, shape=(*sample._type.shape, 1))
    dtype, device = sample._type.dtype, sample._type.device
    place = ops.iota(shape=(count - 1,), axis=0, dtype=dtype, device=device)
    shifted = ops.floor(ops.mul(ops.add(place, sample), alpha))
    first = ops.floor(ops.mul(sample, alpha))
    return ops.concatenate(ops.cast(ops.sub(shifted, first), int64), last, axis=2)
