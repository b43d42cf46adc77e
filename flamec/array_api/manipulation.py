"""The standard's functions of shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.array_api.operands import axes_of
from flamec.errors import user_location
from flamec.functional import joining, reordering, repeating
from flamec.functional import shape as ours
from flamec.functional.promotion import promote_types
from flamec.tensor import Tensor

__all__ = [
    "broadcast_arrays", "broadcast_to", "concat", "expand_dims", "flip", "moveaxis",
    "permute_dims", "repeat", "reshape", "roll", "squeeze", "stack", "tile", "unstack",
]  # fmt: skip

Axes = int | tuple[int, ...]


def broadcast_arrays(*arrays: Tensor) -> tuple[Tensor, ...]:
    """Views of all in their common shape."""
    return tuple(ours.broadcast_tensors(*arrays))


def broadcast_to(x: Tensor, /, shape: tuple[int, ...]) -> Tensor:
    """A view in a larger shape."""
    return ours.broadcast_to(x, shape)


def _promoted(arrays: Sequence[Tensor]) -> list[Tensor]:
    dtype = arrays[0].dtype
    for array in arrays[1:]:
        dtype = promote_types(dtype, array.dtype)
    return [array.to(dtype) for array in arrays]


def concat(arrays: Sequence[Tensor], /, *, axis: int | None = 0) -> Tensor:
    """One array after the other along ``axis``; None: all elements in a line."""
    parts = _promoted(arrays)
    if axis is None:
        return joining.cat([part.reshape(-1) for part in parts])
    return joining.cat(parts, axis)


def stack(arrays: Sequence[Tensor], /, *, axis: int = 0) -> Tensor:
    """Arrays side by side along a new dimension."""
    return joining.stack(_promoted(arrays), axis)


def unstack(x: Tensor, /, *, axis: int = 0) -> tuple[Tensor, ...]:
    """The slices along a dimension."""
    return joining.unbind(x, axis)


def expand_dims(x: Tensor, /, axis: Axes = 0) -> Tensor:
    """A view with new dimensions of size 1 at these places."""
    axes = axes_of(x, axis)
    rank = x.ndim + len(axes)
    if any(not -rank <= a < rank for a in axes):
        raise IndexError(f"expand_dims(): axis {axis} out of range (at {user_location()})")
    places = sorted(a % rank for a in axes)
    if len(set(places)) != len(axes):
        raise ValueError(f"expand_dims(): repeated axis in {axis} (at {user_location()})")
    for place in places:
        x = ours.unsqueeze(x, place)
    return x


def squeeze(x: Tensor, /, axis: Axes) -> Tensor:
    """A view without these dimensions; ValueError unless their size is 1."""
    axes = axes_of(x, axis)
    for a in axes:
        if not -x.ndim <= a < x.ndim:
            raise IndexError(f"squeeze(): axis {a} out of range (at {user_location()})")
        if x.shape[a] != 1:
            raise ValueError(
                f"squeeze(): dimension {a} of size {x.shape[a]} is not 1 (at {user_location()})"
            )
    return ours.squeeze(x, axes)


def flip(x: Tensor, /, *, axis: Axes | None = None) -> Tensor:
    """The elements in reverse order along some, or all, dimensions."""
    return reordering.flip(x, axes_of(x, axis))


def moveaxis(x: Tensor, source: Axes, destination: Axes, /) -> Tensor:
    """A view with dimensions at other places."""
    return ours.movedim(x, source, destination)


def permute_dims(x: Tensor, /, axes: tuple[int, ...]) -> Tensor:
    """A view with the dimensions in another order."""
    return ours.permute(x, axes)


def repeat(x: Tensor, repeats: int | Tensor, /, *, axis: int | None = None) -> Tensor:
    """Each element (or slice) as often as ``repeats`` says, one after the other."""
    return repeating.repeat_interleave(x, repeats, axis)


def reshape(x: Tensor, /, shape: tuple[int, ...], *, copy: bool | None = None) -> Tensor:
    """The elements in another shape; a view unless ``copy`` or impossible."""
    if copy is False:
        return ours.view(x, *shape) if shape else ours.view(x, ())
    result = ours.reshape(x, shape)
    return ours.clone(result) if copy else result


def roll(x: Tensor, /, shift: Any, *, axis: Axes | None = None) -> Tensor:
    """The elements moved along dimensions, those at the end to the front."""
    return reordering.roll(x, shift, axis)


def tile(x: Tensor, repetitions: tuple[int, ...], /) -> Tensor:
    """The array beside itself, so often along each dimension."""
    return repeating.tile(x, repetitions)
