"""interpolate and its older names: an array of another spatial size.

Every mode but "area" works on one dimension after the other: nearest picks elements,
(bi-, tri-)linear and bicubic mix two or four neighbours, and with ``antialias`` a product
with a matrix of weights mixes as many as the scale asks for. Positions are PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from flamec.errors import OperationError, user_location
from flamec.functional.adaptive_pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    table_like,
)
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.primitives import (
    is_found_empty,
    narrowed,
    ops,
    require,
    require_floating,
    widened,
)
from flamec.functional.promotion import require_tensor
from flamec.functional.shape import apart_from
from flamec.fusing import fused
from flamec.ir.shape import Dim, SymbolicDim, format_shape, structurally_equal
from flamec.ir.types import DType, float32, float64, int64, uint8
from flamec.tensor import Tensor

__all__ = ["interpolate", "upsample", "upsample_bilinear", "upsample_nearest"]

_RANKS = {"linear": 3, "bilinear": 4, "trilinear": 5, "bicubic": 4}
_NEAREST = ("nearest", "nearest-exact")
_MOST_EXACT = 1 << 20  # a size times a smaller number is exact as a float
_CUBIC = -0.75  # the free coefficient of the cubic convolution kernel (Keys 1981)


@autocasts(cuda=FLOAT32)
@fused()
def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """[N, C, *spatial] resampled to ``size`` or by ``scale_factor``.

    ``mode``: nearest, nearest-exact, area, linear (3D input), bilinear and bicubic (4D),
    trilinear (5D). ``align_corners``: first and last elements keep their places.
    ``antialias`` (bilinear, bicubic): when shrinking, all elements that are covered count.
    Elements are floats, or bytes, which are rounded after rows and again after columns.
    Raises ValueError for arguments that do not fit together.
    """
    require_tensor("interpolate", "input", input)
    shape = input._type.shape
    spatial = len(shape) - 2
    if not 1 <= spatial <= 3:
        raise NotImplementedError(
            f"interpolate: input must be 3D, 4D or 5D, got {format_shape(shape)} "
            f"(at {user_location()})"
        )
    _check_mode(mode, spatial, align_corners, antialias, shape)
    sizes, scales = _sizes(shape[2:], size, scale_factor, recompute_scale_factor)
    for axis, output in enumerate(sizes):
        require(
            not is_found_empty(output) and not is_found_empty(shape[2 + axis]),
            f"interpolate: input and output sizes should be greater than 0, but got input "
            f"{format_shape(shape[2:])} output {format_shape(sizes)}",
        )
    if mode == "area":
        pool = (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)[spatial - 1]
        return pool(input, sizes)  # type: ignore[arg-type]  # symbols pass as ints
    if mode in _NEAREST:
        x = input
        for n, (output, scale) in enumerate(zip(sizes, scales, strict=True)):
            x = _nearest(x, 2 + n, output, scale, mode == "nearest-exact")
        return apart_from(input, x)
    pixels = input._type.dtype is uint8
    if not pixels:
        require_floating("interpolate", input)
    x = ops.cast(input, float32) if pixels else widened(input)
    mix = _taps if not antialias else _antialiased
    steps = list(enumerate(zip(sizes, scales, strict=True)))
    for n, (output, scale) in reversed(steps) if pixels else steps:
        x = mix(x, 2 + n, output, scale, bool(align_corners), mode == "bicubic")
        if pixels:  # after rows, and again after columns
            x = _rounded_pixels(x)
    return apart_from(input, ops.cast(x, uint8) if pixels else narrowed(x, input._type.dtype))


def _rounded_pixels(x: Tensor) -> Tensor:
    whole = ops.floor(ops.add(x, 0.5))
    pixels: Tensor = ops.where(
        ops.lt(whole, 0.0), 0.0, ops.where(ops.gt(whole, 255.0), 255.0, whole)
    )
    return pixels


def _check_mode(
    mode: str, spatial: int, align_corners: bool | None, antialias: bool, shape: Sequence[Dim]
) -> None:
    where = f"(at {user_location()})"
    if mode in (*_NEAREST, "area"):
        if align_corners is not None:
            raise ValueError(
                "align_corners option can only be set with the interpolating modes: linear | "
                f"bilinear | bicubic | trilinear {where}"
            )
    elif mode not in _RANKS or _RANKS[mode] != spatial + 2:
        raise NotImplementedError(
            f"interpolate: mode {mode!r} for an input of size {format_shape(shape)}; 3D inputs "
            "take nearest, nearest-exact, area and linear, 4D inputs also bilinear and bicubic, 5D "
            f"inputs trilinear {where}"
        )
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ValueError(f"Anti-alias option is restricted to bilinear and bicubic modes {where}")


def _sizes(
    have: Sequence[Dim], size: Any, scale_factor: Any, recompute: bool | None
) -> tuple[tuple[Dim, ...], tuple[float | None, ...]]:
    """The sizes of the result, and the scale factors that positions are computed with."""
    where = f"(at {user_location()})"
    if (size is None) == (scale_factor is None):
        which = "only one of size or" if size is not None else "either size or"
        raise ValueError(f"{which} scale_factor should be defined {where}")
    given = size if size is not None else scale_factor
    entries = tuple(given) if isinstance(given, (tuple, list)) else (given,) * len(have)
    if len(entries) != len(have):
        raise ValueError(
            f"interpolate: input and {'size' if size is not None else 'scale_factor'} must have "
            f"the same number of spatial dimensions, got {len(have)} and {given} {where}"
        )
    if size is not None:
        if recompute:
            raise ValueError(
                f"recompute_scale_factor is not meaningful with an explicit size {where}"
            )
        return entries, (None,) * len(have)
    sizes: list[Dim] = []
    for n, scale in zip(have, entries, strict=True):
        if isinstance(n, SymbolicDim):
            factor, divisor = float(scale).as_integer_ratio()
            require(
                factor < _MOST_EXACT and divisor < _MOST_EXACT,
                "interpolate: a spatial size that is symbolic can be scaled by whole numbers, "
                f"halves, quarters and so on, not by {scale}; give size instead",
            )
            sizes.append(n * factor // divisor)
        else:
            sizes.append(math.floor(float(n) * float(scale)))
    scales: tuple[float | None, ...] = tuple(float(s) for s in entries)
    return tuple(sizes), (None,) * len(have) if recompute else scales


def _static(size: Dim, output: Dim) -> tuple[int, int]:
    if isinstance(size, SymbolicDim) or isinstance(output, SymbolicDim):
        raise OperationError(
            f"interpolate: spatial sizes must be static here; mark them so (at {user_location()})"
        )
    return int(size), int(output)


def _moved(x: Tensor, axis: int) -> Tensor:
    rank = len(x._type.shape)
    return ops.permute(x, axes=(axis, *(i for i in range(rank) if i != axis)))


def _picked(x: Tensor, axis: int, places: np.ndarray) -> Tensor:
    """``x`` at these places of a dimension."""
    rank = len(x._type.shape)
    found = ops.index(_moved(x, axis), table_like(x, places.astype(np.int64)))
    return ops.permute(found, axes=(*range(1, axis + 1), 0, *range(axis + 1, rank)))


def _nearest(x: Tensor, axis: int, output: Dim, scale: float | None, exact: bool) -> Tensor:
    shape = x._type.shape
    size = shape[axis]
    if structurally_equal(size, output) and scale in (None, 1.0):
        return x
    repeat = None
    if isinstance(size, SymbolicDim) and scale is not None and scale.is_integer():
        repeat = int(scale)
    elif isinstance(size, int) and isinstance(output, int) and output % size == 0:
        repeat = output // size if scale in (None, output / size) else None
    if repeat is not None:
        apart = ops.reshape(x, shape=(*shape[: axis + 1], 1, *shape[axis + 1 :]))
        apart = ops.expand(apart, shape=(*shape[: axis + 1], repeat, *shape[axis + 1 :]))
        return ops.reshape(apart, shape=(*shape[:axis], output, *shape[axis + 1 :]))
    if isinstance(size, SymbolicDim) or isinstance(output, SymbolicDim):
        ratio = _number(x, 1.0 / scale, float32) if scale is not None else _divided(x, size, output)
        line = ops.iota(shape=(output,), axis=0, dtype=float32, device=x._type.device)
        places = ops.mul(ops.add(line, 0.5) if exact else line, ratio)
        return _picked_at(x, axis, ops.cast(ops.floor(places), int64))
    n, m = _static(size, output)
    # PyTorch computes the positions in float32
    ratio = np.float32(1.0 / scale) if scale is not None else np.float32(n) / np.float32(m)
    places = np.arange(m, dtype=np.float32)
    if exact:
        places = places + np.float32(0.5)
    return _picked(x, axis, np.minimum(np.floor(places * ratio).astype(np.int64), n - 1))


# sizes that vary -----------------------------------------------------------------------------
def _number(x: Tensor, value: float | Dim, dtype: DType) -> Tensor:
    """A number, or a size, as a scalar beside ``x``."""
    if isinstance(value, SymbolicDim):
        return ops.dim_size(size=value, dtype=dtype, device=x._type.device)
    return ops.full(value=value, shape=(), dtype=dtype, device=x._type.device)


def _divided(x: Tensor, size: Dim, output: Dim) -> Tensor:
    return ops.div(_number(x, size, float32), _number(x, output, float32))


def _picked_at(x: Tensor, axis: int, places: Tensor) -> Tensor:
    """``x`` at computed places of a dimension, or its first or last ones."""
    rank, last = len(x._type.shape), x._type.shape[axis] - 1
    inside = ops.minimum(ops.maximum(places, 0), _number(x, last, int64))
    found = ops.index(_moved(x, axis), inside)
    return ops.permute(found, axes=(*range(1, axis + 1), 0, *range(axis + 1, rank)))


def _computed_taps(
    x: Tensor, axis: int, output: Dim, scale: float | None, align_corners: bool, cubic: bool
) -> Tensor:
    """``_taps`` by places and weights that the program computes from the sizes."""
    size, kind = x._type.shape[axis], float64 if x._type.dtype is float64 else float32
    if align_corners:
        steps = ops.maximum(_number(x, output - 1, float64), 1.0)
        ratio = ops.div(_number(x, size - 1, float64), steps)
    elif scale is not None and scale > 0:
        ratio = _number(x, 1.0 / scale, float64)
    else:
        ratio = ops.div(_number(x, size, float64), _number(x, output, float64))
    ratio = ops.cast(ratio, kind)
    line = ops.iota(shape=(output,), axis=0, dtype=kind, device=x._type.device)
    if align_corners:
        places = ops.mul(line, ratio)
    else:
        places = ops.sub(ops.mul(ratio, ops.add(line, 0.5)), 0.5)
        if not cubic:
            places = ops.maximum(places, 0.0)
            if scale is not None:  # elements stay where the size does
                same = ops.eq(_number(x, size, kind), _number(x, output, kind))
                places = ops.where(same, line, places)
    whole = ops.floor(places)
    if not cubic:
        whole = ops.minimum(whole, _number(x, size - 1, kind))
    first, share = ops.cast(whole, int64), ops.cast(ops.sub(places, whole), float64)
    if cubic:
        neighbours = [(ops.add(first, i - 1), w) for i, w in enumerate(_cubic(share))]
    else:
        neighbours = [(first, ops.sub(1.0, share)), (ops.add(first, 1), share)]
    total: Any = None
    wide = tuple(output if i == axis else 1 for i in range(len(x._type.shape)))
    for at, weights in neighbours:
        weights = ops.reshape(ops.cast(weights, x._type.dtype), shape=wide)
        part = ops.mul(_picked_at(x, axis, at), weights)
        total = part if total is None else ops.add(total, part)
    return total


def _ratio(n: int, m: int, scale: float | None, align_corners: bool) -> float:
    if align_corners:
        return (n - 1) / (m - 1) if m > 1 else 0.0
    return 1.0 / scale if scale is not None and scale > 0 else n / m


def _positions(
    x: Tensor, n: int, m: int, scale: float | None, align_corners: bool, clamps: bool
) -> np.ndarray:
    """Where each element of the result lies among those of the input."""
    kind: Any = np.float64 if x._type.dtype.name == "float64" else np.float32
    ratio = kind(_ratio(n, m, scale, align_corners))
    places = np.arange(m, dtype=kind)
    if align_corners:
        return places * ratio
    places = ratio * (places + kind(0.5)) - kind(0.5)
    return np.maximum(places, 0) if clamps else places


def _cubic(t: Any) -> tuple[Any, ...]:
    """Weights of the four neighbours at distances 1 + t, t, 1 - t, 2 - t."""
    a = _CUBIC

    def near(d: Any) -> Any:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Any) -> Any:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return far(t + 1), near(t), near(1 - t), far(2 - t)


def _taps(
    x: Tensor, axis: int, output: Dim, scale: float | None, align_corners: bool, cubic: bool
) -> Tensor:
    """A sum of two or four neighbours, weighted."""
    size = x._type.shape[axis]
    if structurally_equal(size, output) and (not cubic or scale in (None, 1.0)):
        return x
    if isinstance(size, SymbolicDim) or isinstance(output, SymbolicDim):
        return _computed_taps(x, axis, output, scale, align_corners, cubic)
    n, m = size, output
    places = _positions(x, n, m, scale, align_corners, clamps=not cubic)
    first = np.floor(places).astype(np.int64)
    if not cubic:
        first = np.minimum(first, n - 1)
    share = places - first
    if cubic:
        neighbours = [(first - 1 + i, w) for i, w in enumerate(_cubic(share))]
    else:
        neighbours = [(first, 1 - share), (first + 1, share)]
    total: Any = None
    wide = tuple(m if i == axis else 1 for i in range(len(x._type.shape)))
    for at, weights in neighbours:
        part = _picked(x, axis, np.clip(at, 0, n - 1))
        values = np.asarray(weights, dtype=x._type.dtype.numpy).reshape([int(d) for d in wide])
        part = ops.mul(part, table_like(x, values))
        total = part if total is None else ops.add(total, part)
    return total


def _antialiased(
    x: Tensor, axis: int, output: Dim, scale: float | None, align_corners: bool, cubic: bool
) -> Tensor:
    """A product with weights of a kernel as wide as the elements of the result are apart."""
    n, m = _static(x._type.shape[axis], output)
    if n == m:
        return x
    ratio = _ratio(n, m, scale, align_corners)
    reach, kernel = (2.0, _keys) if cubic else (1.0, _triangle)
    width = max(ratio, 1.0)
    weights = np.zeros((m, n))
    for i in range(m):
        center = ratio * (i + 0.5)
        low = max(int(center - reach * width + 0.5), 0)
        high = min(int(center + reach * width + 0.5), n)
        row = kernel((np.arange(low, high) - center + 0.5) / width)
        weights[i, low:high] = row / row.sum()
    table = table_like(x, weights.astype(x._type.dtype.numpy))
    product = ops.dot_general(x, table, contract=((axis,), (1,)), batch=((), ()))
    rank = len(x._type.shape)
    return ops.permute(product, axes=(*range(axis), rank - 1, *range(axis, rank - 1)))


def _triangle(d: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(d), 0)


def _keys(d: np.ndarray) -> np.ndarray:
    """The cubic kernel with a = -0.5, as PyTorch's antialiased resampling has it."""
    a, d = -0.5, np.abs(d)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((d - 5) * d + 8) * d * a - 4 * a
    return np.where(d < 1, near, np.where(d < 2, far, 0.0))


def upsample(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """The older name of ``interpolate``."""
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
) -> Tensor:
    """``interpolate`` with mode "nearest"."""
    return interpolate(input, size, scale_factor, mode="nearest")


def upsample_bilinear(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
) -> Tensor:
    """``interpolate`` with mode "bilinear" and aligned corners."""
    return interpolate(input, size, scale_factor, mode="bilinear", align_corners=True)
