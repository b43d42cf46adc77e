"""Sums, means and maxima of bags of table rows: embedding_bag.

In: indices as [bags, length], or one after the other with the place where each bag
starts. Out: one row per bag; an empty bag gives zeros. Bags of one length are folded
along their axis, others are combined into the row of their bag.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.linear import looked_up, require_same_dtype, shorten_rows, table_index
from flamec.functional.primitives import (
    is_empty_size,
    narrowed,
    ops,
    require,
    require_floating,
    widened,
)
from flamec.functional.promotion import require_tensor
from flamec.functional.shape import window
from flamec.ir.shape import Dim, equal, format_shape, product
from flamec.ir.types import int64
from flamec.state import thread
from flamec.tensor import Tensor

__all__ = ["embedding_bag"]

NAME = "embedding_bag"
MODES = ("sum", "mean", "max")


@dataclass(frozen=True)
class Bags:
    """How entries [*entries, k] become bags [bags, k], and back.

    ``fold(x, how)``, how in sum, amax, amin, combines the entries of each bag;
    ``spread`` gives each entry the row of its bag.
    """

    count: Dim
    fold: Callable[[Tensor, str], Tensor]
    spread: Callable[[Tensor], Tensor]


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """The sum, mean or max of the rows of ``weight`` that each bag of ``input`` names.

    input: int64 or int32, [bags, length], or [n] with ``offsets`` [bags] of the first entry of
    each bag ([bags + 1] with ``include_last_offset``; entries from the last offset on are
    in no bag). weight: [num_embeddings, embedding_dim]. ``per_sample_weights``: a factor for
    each entry of ``input``, for ``mode="sum"``. Result: [bags, embedding_dim].

    Entries ``padding_idx`` count as if they were not there. Of equal maxima the first gets
    the gradient; NaN is the largest. ``max_norm`` shortens, in place, the rows used whose
    ``norm_type``-norm is larger. Raises IndexError for an index out of range, and for eager
    tensors in host memory RuntimeError for offsets that do not start at 0 or end after the input.
    """
    require_tensor(NAME, "input", input)
    require_tensor(NAME, "weight", weight)
    _check_operands(input, weight, offsets, per_sample_weights)
    require(mode in MODES, f"{NAME}: mode has to be one of sum, mean or max, got {mode!r}")
    if mode == "max" and (sparse or scale_grad_by_freq):
        option = "sparse weights" if sparse else "scaling the gradient by the frequency"
        raise OperationError(f"{NAME}: max mode does not support {option} (at {user_location()})")
    if sparse:
        raise NotImplementedError(
            f"{NAME}: sparse is not available; gradients are dense (at {user_location()})"
        )
    if per_sample_weights is not None and mode != "sum":
        raise NotImplementedError(
            f"{NAME}: per_sample_weights is only supported for mode='sum', got mode={mode!r} "
            f"(at {user_location()})"
        )
    size = weight._type.shape[0]
    places = table_index(NAME, input, size)
    if offsets is None:
        bags = _equal_bags(places)
    else:
        bags = _consecutive_bags(places, offsets, include_last_offset)
    if max_norm is not None:
        shorten_rows(NAME, weight, places, max_norm, norm_type)
    counted = _counted(places, padding_idx, size)
    if mode == "max":
        return _maxima(weight, places, counted, bags)
    rows = widened(looked_up(weight, places, scale_grad_by_freq))
    if per_sample_weights is not None:
        rows = ops.mul(rows, _column(widened(per_sample_weights)))
    if counted is not None:
        rows = ops.where(counted, rows, 0.0)
    result = bags.fold(rows, "sum")
    if mode == "mean":
        one = ops.full_like(1.0, _column(places)._type.with_dtype(rows._type.dtype))
        ones = one if counted is None else ops.where(counted, one, 0.0)
        result = ops.div(result, ops.maximum(bags.fold(ones, "sum"), 1.0))
    return narrowed(result, weight._type.dtype)


def _check_operands(
    input: Tensor, weight: Tensor, offsets: Tensor | None, factors: Tensor | None
) -> None:
    shape = input._type.shape
    rank = len(weight._type.shape)
    require(rank == 2, f"{NAME}: weight has to be a 2D Tensor, but got one of dimension {rank}")
    require_floating(NAME, weight)
    require(
        len(shape) in (1, 2),
        f"{NAME}: input has to be a 1D or 2D Tensor, but got one of dimension {len(shape)}",
    )
    if factors is not None:
        require_tensor(NAME, "per_sample_weights", factors)
        have = factors._type.shape
        require(
            len(have) == len(shape) and all(map(equal, have, shape)),
            f"{NAME}: per_sample_weights {format_shape(have)} must have the same shape as the "
            f"input {format_shape(shape)}",
        )
        require_same_dtype(NAME, weight, factors)
    if len(shape) == 2:
        require(
            offsets is None,
            f"{NAME}: if input is 2D, then offsets has to be None, as input is treated as a "
            "mini-batch of fixed length sequences",
        )
        return
    require(offsets is not None, f"{NAME}: offsets has to be a 1D Tensor but got None")
    require_tensor(NAME, "offsets", offsets)
    assert offsets is not None
    require(len(offsets._type.shape) == 1, f"{NAME}: offsets has to be a 1D Tensor")


def _column(x: Tensor) -> Tensor:
    return ops.reshape(x, shape=(*x._type.shape, 1))


def _counted(places: Tensor, padding_idx: int | None, size: Dim) -> Tensor | None:
    """bool [*entries, 1]: the entry is no padding. None if there is no padding."""
    if padding_idx is None:
        return None
    require(
        -size <= padding_idx < size,
        f"{NAME}: padding_idx must be within the number of embeddings, {-size} through "
        f"{size - 1}, but got {padding_idx}",
    )
    padding = padding_idx + size if padding_idx < 0 else padding_idx
    return ops.ne(_column(places), padding)


# bags ---------------------------------------------------------------------------------
_UNITS = {"sum": 0, "amax": -math.inf, "amin": math.inf}


def _unit(how: str, x: Tensor) -> Any:
    """What a bag without entries gives."""
    if how == "sum" or x._type.dtype.is_floating_point:
        return _UNITS[how]
    limits = np.iinfo(x._type.dtype.numpy)
    return limits.min if how == "amax" else limits.max


def _equal_bags(places: Tensor) -> Bags:
    """The rows of ``places`` [bags, length]."""
    bags, _ = places._type.shape

    def fold(x: Tensor, how: str) -> Tensor:
        return getattr(ops, how)(x, axes=(1,))

    def spread(x: Tensor) -> Tensor:
        return ops.reshape(x, shape=(bags, 1, x._type.shape[-1]))

    return Bags(bags, fold, spread)


def _consecutive_bags(places: Tensor, offsets: Tensor, include_last: bool) -> Bags:
    """The parts of ``places`` [n] that start at ``offsets``.

    The number of offsets up to an entry, less one, is the number of its bag. One more bag
    takes the entries after the last offset, if that is an end, and is cut off.
    """
    length, starts = places._type.shape[0], offsets._type.shape[0]
    require(
        not (include_last and is_empty_size(starts)),
        f"{NAME}: include_last_offset: number of offsets should be at least 1",
    )
    _check_offsets(offsets, length)
    count = starts - 1 if include_last else starts
    kind: dict[str, Any] = {"dtype": int64, "device": places._type.device}
    positions = table_index(NAME, offsets, length + 1)
    marks = ops.index_put(
        ops.full(value=0, shape=(length + 1,), **kind),
        ops.full(value=1, shape=(starts,), **kind),
        positions,
        mode="add",
    )
    bag = ops.sub(window(ops.cumsum(marks, axis=0), 0, 0, length), 1)
    bag = ops.where(ops.lt(bag, 0), count, bag)

    def fold(x: Tensor, how: str) -> Tensor:
        start = ops.full(
            value=_unit(how, x),
            shape=(count + 1, x._type.shape[-1]),
            dtype=x._type.dtype,
            device=x._type.device,
        )
        mode = "add" if how == "sum" else how
        return window(ops.index_put(start, x, bag, mode=mode), 0, 0, count)

    def spread(x: Tensor) -> Tensor:
        last = window(x, 0, 0, 1) if not is_empty_size(count) else None
        if last is None:
            shape = (1, x._type.shape[-1])
            last = ops.full(value=0, shape=shape, dtype=x._type.dtype, device=x._type.device)
        return ops.index(ops.concatenate(x, last, axis=0), bag)

    return Bags(count, fold, spread)


def _check_offsets(offsets: Tensor, length: Dim) -> None:
    array = offsets._array
    if thread.trace is not None or not isinstance(array, np.ndarray) or not array.size:
        return
    if array.dtype.kind not in "iu":
        raise OperationTypeError(
            f"{NAME}: expected offsets of dtype int64 or int32, got {offsets._type.dtype.name} "
            f"(at {user_location()})"
        )
    require(
        int(array[0]) == 0,
        f"{NAME}: offsets[0] has to be 0, i.e., the first sequence in the mini-batch has to "
        f"start from position 0. However, got {array[0]}",
    )
    require(
        bool(array[-1] <= length),
        f"{NAME}: offsets[-1] can not be greater than input's length {length} but got "
        f"offsets[-1] of {array[-1]}",
    )


# maxima -------------------------------------------------------------------------------
def _maxima(weight: Tensor, places: Tensor, counted: Tensor | None, bags: Bags) -> Tensor:
    """The largest row entries of each bag, read from ``weight`` where they first occur."""
    width = weight._type.shape[1]
    shape = places._type.shape
    total = product(shape)
    kind: dict[str, Any] = {"dtype": int64, "device": weight._type.device}
    if is_empty_size(total):
        return bags.fold(ops.index(weight, places), "sum")
    rows = ops.detach(ops.index(weight, places))
    candidates = rows if counted is None else ops.where(counted, rows, -math.inf)
    largest = bags.spread(bags.fold(candidates, "amax"))
    chosen = ops.bitwise_or(ops.eq(candidates, largest), ops.ne(candidates, candidates))
    if counted is not None:
        chosen = ops.bitwise_and(chosen, counted)
    position = ops.reshape(ops.iota(shape=(total,), axis=0, **kind), shape=(*shape, 1))
    first = bags.fold(ops.where(chosen, ops.expand(position, shape=(*shape, width)), total), "amin")
    found = ops.lt(first, total)
    place = ops.index(ops.reshape(places, shape=(total,)), ops.where(found, first, 0))
    column = ops.iota(shape=(1, width), axis=1, **kind)
    picked = ops.index(weight, place, ops.expand(column, shape=(bags.count, width)))
    return ops.where(found, picked, 0.0)
