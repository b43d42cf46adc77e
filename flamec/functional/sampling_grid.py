"""affine_grid and grid_sample: an image read at computed places (Jaderberg et al. 2015).

Places are coordinates from -1 to 1 over the image, x (the last dimension) first. Elements
are gathered, so that the derivative adds up in the image what was read more than once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product as combinations
from typing import Any

from flamec.errors import OperationError, user_location
from flamec.functional.autocasting import FLOAT32, WIDEST, autocasts
from flamec.functional.linear import require_same_dtype
from flamec.functional.primitives import narrowed, ops, require, require_floating, widened
from flamec.functional.promotion import require_tensor
from flamec.fusing import fused
from flamec.ir.shape import Dim, SymbolicDim, equal, format_shape, less
from flamec.ir.types import bool_, float64, int64
from flamec.state import thread
from flamec.tensor import Tensor

__all__ = ["affine_grid", "grid_sample"]

_MODES = ("bilinear", "nearest", "bicubic")
_PADDING_MODES = ("zeros", "border", "reflection")


def _base(theta: Tensor, sizes: Sequence[Dim], align_corners: bool) -> Tensor:
    """Homogeneous coordinates [*sizes, len(sizes) + 1] of the centres or corners, x first."""
    dtype, device = theta._type.dtype, theta._type.device
    shape = tuple(sizes)
    lines = []
    for axis in reversed(range(len(shape))):
        place = ops.iota(shape=shape, axis=axis, dtype=dtype, device=device)
        n = shape[axis]
        step, first = _line(theta, n, align_corners)
        line = ops.add(ops.mul(place, step), first)
        lines.append(ops.reshape(line, shape=(*shape, 1)))
    ones = ops.full(value=1.0, shape=(*shape, 1), dtype=dtype, device=device)
    return ops.concatenate(*lines, ones, axis=len(shape))


def _line(theta: Tensor, size: Dim, align_corners: bool) -> tuple[Any, Any]:
    """How far places along a dimension are apart, and where the first one is."""
    if isinstance(size, SymbolicDim):
        device, dtype = theta._type.device, theta._type.dtype
        count = ops.dim_size(size=size, dtype=float64, device=device)
        steps = ops.maximum(ops.sub(count, 1.0), 1.0) if align_corners else count
        first = ops.sub(ops.div(1.0, count), 1.0)
        if align_corners:
            first = ops.where(ops.gt(count, 1.0), -1.0, ops.sub(count, count))
        return ops.cast(ops.div(2.0, steps), dtype), ops.cast(first, dtype)
    if align_corners:
        return (2.0 / (size - 1), -1.0) if size > 1 else (0.0, 0.0)
    return 2.0 / size, 1.0 / size - 1.0


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """Places [N, *spatial, d] of images of ``size`` [N, C, *spatial] under theta [N, d, d + 1].

    ``align_corners``: -1 and 1 are the centres of the first and last element, not their edges.
    """
    require_tensor("affine_grid", "theta", theta)
    require_floating("affine_grid", theta)
    wanted = tuple(d if isinstance(d, SymbolicDim) else int(d) for d in size)
    dims = len(wanted) - 2
    if dims not in (2, 3):
        raise NotImplementedError(
            "affine_grid only supports 4D and 5D sizes, for 2D and 3D affine transforms, "
            f"respectively. Got size {format_shape(wanted)} (at {user_location()})"
        )
    have = theta._type.shape
    if len(have) != 3 or tuple(have[1:]) != (dims, dims + 1):
        raise ValueError(
            f"Expected a batch of {dims}D affine matrices of shape {wanted[0]}x{dims}x{dims + 1} "
            f"for size {format_shape(wanted)}. Got {format_shape(have)}. (at {user_location()})"
        )
    require(
        equal(have[0], wanted[0]),
        f"Expected a batch of {wanted[0]} affine matrices. Got {format_shape(have)}.",
    )
    require(
        all(less(0, d) for d in wanted),
        f"Expected non-zero, positive output size. Got {format_shape(wanted)}",
    )
    base = _base(theta, wanted[2:], bool(align_corners))
    grid = ops.dot_general(theta, base, contract=((2,), (dims,)), batch=((), ()))
    return ops.permute(grid, axes=(0, *range(2, dims + 2), 1))


@autocasts(cpu=FLOAT32, cuda=WIDEST)
@fused()
def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """``input`` [N, C, *spatial] read at ``grid`` [N, *out, d], as [N, C, *out].

    ``mode``: bilinear (trilinear for 5D), nearest, bicubic (4D). ``padding_mode``: what lies
    outside is 0, the border, or reflected.
    """
    require_tensor("grid_sample", "input", input)
    require_tensor("grid_sample", "grid", grid)
    if mode not in _MODES:
        raise ValueError(
            "nn.functional.grid_sample(): expected mode to be 'bilinear', 'nearest' or 'bicubic', "
            f"but got: '{mode}' (at {user_location()})"
        )
    if padding_mode not in _PADDING_MODES:
        raise ValueError(
            "nn.functional.grid_sample(): expected padding_mode to be 'zeros', 'border', or "
            f"'reflection', but got: '{padding_mode}' (at {user_location()})"
        )
    require_floating("grid_sample", input)
    require_same_dtype("grid_sample", input, grid)
    shape, places = input._type.shape, grid._type.shape
    dims = len(shape) - 2
    if dims not in (2, 3) or len(places) != len(shape):
        raise OperationError(
            "grid_sampler(): expected 4D or 5D input and grid with same number of dimensions, but "
            f"got input with sizes {format_shape(shape)} and grid with sizes "
            f"{format_shape(places)} (at {user_location()})"
        )
    require(
        equal(shape[0], places[0]),
        "grid_sampler(): expected grid and input to have same batch size, but got input with sizes "
        f"{format_shape(shape)} and grid with sizes {format_shape(places)}",
    )
    require(
        places[-1] == dims,
        f"grid_sampler(): expected grid to have size {dims} in last dimension, but got grid with "
        f"sizes {format_shape(places)}",
    )
    require(
        all(not isinstance(d, int) or d > 0 for d in shape[2:]),
        "grid_sampler(): expected input to have non-empty spatial dimensions, but input has sizes "
        f"{format_shape(shape)}",
    )
    require(
        mode != "bicubic" or dims == 2,
        "grid_sampler(): bicubic interpolation only supports 4D input",
    )
    sampler = _Sampler(widened(input), widened(grid), padding_mode, bool(align_corners))
    result: Tensor = getattr(sampler, mode)()
    return narrowed(result, input._type.dtype)


class _Sampler:
    """An image and the places at which it is read, dimension by dimension."""

    def __init__(self, x: Tensor, grid: Tensor, padding_mode: str, align_corners: bool) -> None:
        self.padding_mode = padding_mode
        self.align_corners = align_corners
        shape = x._type.shape
        self.sizes = shape[2:]
        self.output = grid._type.shape[:-1]
        self.channels_last = ops.permute(x, axes=(0, *range(2, len(shape)), 1))
        rank = len(self.output)
        self.batch = ops.iota(shape=self.output, axis=0, dtype=int64, device=x._type.device)
        self.places = []
        for n, size in enumerate(self.sizes):
            starts = (*(0,) * rank, len(self.sizes) - 1 - n)
            part = ops.slice(grid, starts=starts, sizes=(*self.output, 1), steps=(1,) * (rank + 1))
            self.places.append(self._unscaled(ops.reshape(part, shape=self.output), size))

    def _unscaled(self, place: Tensor, size: Dim) -> Tensor:
        """Coordinates from -1 to 1 as numbers of elements."""
        if self.align_corners:
            return ops.mul(ops.mul(ops.add(place, 1.0), 0.5), size - 1)
        return ops.mul(ops.sub(ops.mul(ops.add(place, 1.0), size), 1.0), 0.5)

    def _inside(self, place: Tensor, size: Dim) -> Tensor:
        """The coordinate after the padding mode; zeros are handled where elements are read."""
        if self.padding_mode == "zeros":
            return place
        if self.padding_mode == "reflection":
            twice = (0, 2 * (size - 1)) if self.align_corners else (-1, 2 * size - 1)
            place = _reflected(place, *twice)
        place = ops.where(ops.le(place, 0.0), 0.0, place)  # no derivative at the border
        return ops.where(ops.ge(place, size - 1), size - 1, place)

    def _read(self, at: Sequence[Tensor]) -> Tensor:
        """[*output, C]: the elements at whole coordinates; zeros outside."""
        valid: Any = None
        places = []
        for place, size in zip(at, self.sizes, strict=True):
            inside = ops.bitwise_and(ops.ge(place, 0.0), ops.le(place, size - 1))
            valid = inside if valid is None else ops.bitwise_and(valid, inside)
            places.append(ops.cast(ops.where(inside, place, 0.0), int64))
        found = ops.index(self.channels_last, self.batch, *places)
        valid = ops.reshape(valid, shape=(*self.output, 1))
        return ops.where(valid, found, 0.0)

    def _weighted(self, taps: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> Tensor:
        """The sum over all combinations of (coordinate, weight) of each dimension."""
        total: Any = None
        for chosen in combinations(*taps):
            weight: Any = None
            for _, w in chosen:
                weight = w if weight is None else ops.mul(weight, w)
            part = self._read([place for place, _ in chosen])
            part = ops.mul(part, ops.reshape(weight, shape=(*self.output, 1)))
            total = part if total is None else ops.add(total, part)
        return self._channels_first(total)

    def _channels_first(self, x: Tensor) -> Tensor:
        rank = len(self.output)
        return ops.permute(x, axes=(0, rank, *range(1, rank)))

    def nearest(self) -> Tensor:
        at = [
            ops.round(ops.detach(self._inside(place, size)))
            for place, size in zip(self.places, self.sizes, strict=True)
        ]
        found = self._read(at)
        for place in self.places:  # the grid's gradient is zero, not absent
            if thread.grad_enabled and place.requires_grad:
                never = ops.full(
                    value=False, shape=self.output, dtype=bool_, device=place._type.device
                )
                nothing = ops.reshape(ops.where(never, place, 0.0), shape=(*self.output, 1))
                found = ops.add(found, nothing)
        return self._channels_first(found)

    def bilinear(self) -> Tensor:
        taps = []
        for place, size in zip(self.places, self.sizes, strict=True):
            inside = self._inside(place, size)
            low = ops.floor(ops.detach(inside))
            share = ops.sub(inside, low)
            taps.append([(low, ops.sub(1.0, share)), (ops.add(low, 1.0), share)])
        return self._weighted(taps)

    def bicubic(self) -> Tensor:
        taps = []
        for place, size in zip(self.places, self.sizes, strict=True):
            low = ops.floor(ops.detach(place))
            share = ops.sub(place, low)
            taps.append([
                (ops.detach(self._inside(ops.add(low, float(i - 1)), size)), weight)
                for i, weight in enumerate(_cubic_weights(share))
            ])  # fmt: skip
        return self._weighted(taps)


def _reflected(place: Tensor, twice_low: Dim, twice_high: Dim) -> Tensor:
    """Coordinates reflected until they lie between half of each bound."""
    span = (twice_high - twice_low) * 0.5 if isinstance(twice_high, int) else None
    if span is None:
        raise OperationError(
            f"grid_sample: reflection needs static spatial sizes (at {user_location()})"
        )
    low = twice_low / 2
    if span == 0:
        return ops.mul(place, 0.0)
    distance = ops.abs(ops.sub(place, low))
    extra = ops.fmod(distance, span)
    flips = ops.floor(ops.div(ops.detach(distance), span))
    even = ops.eq(ops.fmod(flips, 2.0), 0.0)
    return ops.where(even, ops.add(extra, low), ops.sub(span + low, extra))


def _cubic_weights(t: Tensor) -> tuple[Any, ...]:
    """Weights of the four neighbours at distances 1 + t, t, 1 - t, 2 - t (Keys 1981, a = -0.75)."""
    a = -0.75

    def near(d: Any) -> Any:
        inner = ops.sub(ops.mul(d, a + 2), a + 3)
        return ops.add(ops.mul(ops.mul(inner, d), d), 1.0)

    def far(d: Any) -> Any:
        inner = ops.add(ops.mul(ops.sub(ops.mul(d, a), 5 * a), d), 8 * a)
        return ops.sub(ops.mul(inner, d), 4 * a)

    return far(ops.add(t, 1.0)), near(t), near(ops.sub(1.0, t)), far(ops.sub(2.0, t))
