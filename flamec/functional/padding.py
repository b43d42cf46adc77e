"""pad: borders of a constant, of reflected, repeated or wrapped elements.

The modes beside ``constant`` put slices of the input side by side, one dimension at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.errors import OperationError, user_location
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.dimensions import signed_size
from flamec.functional.primitives import ops
from flamec.functional.promotion import require_tensor
from flamec.functional.shape import apart_from
from flamec.ir.ops.view import flip
from flamec.ir.shape import Dim, SymbolicDim, format_shape, less
from flamec.tensor import Tensor

__all__ = ["pad"]

MODES = ("reflect", "replicate", "circular")


def pad(
    input: Tensor, pad: Sequence[Dim], mode: str = "constant", value: float | None = None
) -> Tensor:
    """``input`` with ``pad`` = (low, high) pairs added, the last dimension's first.

    Negative amounts cut off. ``mode``: new elements are ``value`` (0) for "constant"; for
    "reflect" mirrored at the first and last element, for "replicate" copies of these, for
    "circular" taken from the other end. These three pad the last one to three dimensions of
    [*, spatial] with at most two dimensions before them.
    """
    require_tensor("pad", "input", input)
    if mode != "constant" and mode not in MODES:
        raise NotImplementedError(f"pad: unrecognised mode {mode!r} (at {user_location()})")
    rank = len(input._type.shape)
    amounts = tuple([signed_size("pad", a) for a in pad])
    if len(amounts) % 2 or len(amounts) > 2 * rank:
        raise OperationError(
            f"pad: {len(amounts)} amounts for {rank} dimensions; give a low and a high amount for "
            f"each of the last dimensions (at {user_location()})"
        )
    low: list[Dim] = [0] * rank
    high: list[Dim] = [0] * rank
    for position in range(len(amounts) // 2):
        axis = rank - 1 - position
        low[axis], high[axis] = amounts[2 * position], amounts[2 * position + 1]
    if mode != "constant":
        count = len(amounts) // 2
        casts = mode == "replicate" or (mode == "reflect" and count < 3)
        bordered = _cast_and_bordered if casts else _bordered
        return bordered(input, mode, value, low, high, count)
    result = _cut(input, low, high)
    grown_low = tuple(0 if _is_negative(a) else a for a in low)
    grown_high = tuple(0 if _is_negative(a) else a for a in high)
    fill = value if value is not None else 0
    if input._type.dtype.kind == "bool":
        fill = bool(fill)
    return ops.pad(result, fill, low=grown_low, high=grown_high)


def _bordered(
    x: Tensor, mode: str, value: float | None, low: Sequence[Dim], high: Sequence[Dim], count: int
) -> Tensor:
    rank = len(x._type.shape)
    if value not in (None, 0):
        raise OperationError(f"pad: mode {mode!r} takes no value argument (at {user_location()})")
    if not 1 <= count <= 3 or rank not in (count + 1, count + 2):
        raise NotImplementedError(
            f"pad: mode {mode!r} pads the last 1, 2 or 3 dimensions of an input with one or two "
            f"more; got {2 * count} amounts for {format_shape(x._type.shape)} "
            f"(at {user_location()})"
        )
    result = x
    for axis in range(rank - count, rank):
        result = _with_border(result, mode, axis, low[axis], high[axis])
    return apart_from(x, result)


_cast_and_bordered = autocasts(cpu=FLOAT32)(_bordered)


def _with_border(x: Tensor, mode: str, axis: int, low: Dim, high: Dim) -> Tensor:
    size = x._type.shape[axis]
    if _is_negative(low) or _is_negative(high):
        grown = [0 if _is_negative(d) else d for d in (low, high)]
        cut: list[list[Dim]] = [[0] * len(x._type.shape) for _ in (low, high)]
        for ends, amount in zip(cut, (low, high), strict=True):
            ends[axis] = amount if _is_negative(amount) else 0
        if mode == "circular":
            return _with_border(_cut(x, *cut), mode, axis, *grown)
        return _cut(_with_border(x, mode, axis, *grown), *cut)  # the border of all of it
    limit = {"reflect": size - 1, "replicate": None, "circular": size}[mode]
    for amount in (low, high):
        known = not isinstance(amount, SymbolicDim) and not isinstance(limit, SymbolicDim)
        if limit is not None and known and amount > limit:
            raise OperationError(
                f"pad: with mode {mode!r} padding must be at most {limit} for dimension {axis} of "
                f"{format_shape(x._type.shape)}, but got {low} and {high} (at {user_location()})"
            )
    parts = [x]
    if low != 0:
        first = {"reflect": 1, "replicate": 0, "circular": size - low}[mode]
        parts.insert(0, _border(x, mode, axis, first, low))
    if high != 0:
        first = {"reflect": size - 1 - high, "replicate": size - 1, "circular": 0}[mode]
        parts.append(_border(x, mode, axis, first, high))
    return parts[0] if len(parts) == 1 else ops.concatenate(*parts, axis=axis)


def _border(x: Tensor, mode: str, axis: int, first: Dim, count: Dim) -> Any:
    shape = x._type.shape
    taken = 1 if mode == "replicate" else count
    part = ops.slice(
        x,
        starts=tuple(first if i == axis else 0 for i in range(len(shape))),
        sizes=tuple(taken if i == axis else d for i, d in enumerate(shape)),
        steps=(1,) * len(shape),
    )
    if mode == "reflect":
        return flip(ops, part, axis)
    if mode == "replicate":
        wide = tuple(count if i == axis else d for i, d in enumerate(shape))
        return ops.expand(part, shape=wide)
    return part


def _is_negative(amount: Dim) -> bool:
    return less(amount, 0)


def _cut(x: Tensor, low: Sequence[Dim], high: Sequence[Dim]) -> Tensor:
    """``x`` without the elements that negative amounts take away."""
    if not any(map(_is_negative, (*low, *high))):
        return x
    starts = tuple(-a if _is_negative(a) else 0 for a in low)
    ends = tuple(-a if _is_negative(a) else 0 for a in high)
    shape = x._type.shape
    sizes = tuple(d - s - e for d, s, e in zip(shape, starts, ends, strict=True))
    for axis, size in enumerate(sizes):
        if less(size, 0):
            raise OperationError(
                f"pad: dimension {axis} of {format_shape(shape)} would get the negative size "
                f"{size} (at {user_location()})"
            )
    return ops.slice(x, starts=starts, sizes=sizes, steps=(1,) * len(shape))
