"""Tensors repeated along dimensions: repeat, tile, repeat_interleave. The results are copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flamec.conversion import constant_array
from flamec.dispatch import apply_named, tensor_builder
from flamec.errors import OperationError, user_location
from flamec.functional.arguments import listed
from flamec.functional.dimensions import dimension, size, sizes
from flamec.functional.searching import searchsorted
from flamec.functional.shape import (
    movedim,
    owned,
    ravel,
    regroup,
)
from flamec.fusing import fused
from flamec.ir.shape import (
    Dim,
    equal,
    format_shape,
    less,
    product,
    structurally_equal,
)
from flamec.ir.types import int64
from flamec.state import thread
from flamec.tensor import Tensor
from flamec.values import all_true, as_size, concrete_array


@listed("repeats")
def repeat(input: Tensor, *repeats: Any) -> Tensor:
    """A copy in which dimension i occurs ``repeats[i]`` times, one after the other."""
    counts = sizes("repeat", repeats)
    shape = input._type.shape
    if len(counts) < len(shape):
        raise OperationError(
            f"repeat: number of repeat dims {list(counts)} can not be smaller than the number of "
            f"dimensions of the tensor {format_shape(shape)} (at {user_location()})"
        )
    if any(isinstance(c, int) and c < 0 for c in counts):
        raise OperationError(
            f"repeat: repeats must not be negative: {list(counts)} (at {user_location()})"
        )
    shape = ((1,) * (len(counts) - len(shape))) + shape
    apart: list[Dim] = []
    repeated: list[Dim] = []
    for count, extent in zip(counts, shape, strict=True):
        if not structurally_equal(count, 1):
            apart.append(1)
            repeated.append(count)
        apart.append(extent)
        repeated.append(extent)
    expanded = apply_named("expand", regroup(input, apart), shape=tuple(repeated))
    copied = owned(expanded)
    return regroup(copied, tuple(c * d for c, d in zip(counts, shape, strict=True)))


@listed("dims")
def tile(input: Tensor, *dims: Any) -> Tensor:
    """As ``repeat``; missing leading counts are 1."""
    counts = sizes("tile", dims)
    missing = len(input._type.shape) - len(counts)
    return repeat(input, *((1,) * missing), *counts)


def repeat_interleave(
    input: Tensor,
    repeats: int | Tensor | None = None,
    dim: int | None = None,
    *,
    output_size: int | None = None,
) -> Tensor:
    """A copy in which each element along ``dim`` occurs ``repeats`` times in a row.

    Without ``dim`` the flattened tensor is used. A tensor of ``repeats`` has one
    count for each element; its values must be known, so it cannot be compiled.
    """
    if repeats is None:
        return _positions_repeated(input)
    if dim is None:
        input, dim = ravel(input), 0
    shape = input._type.shape
    axis = dimension("repeat_interleave", dim, len(shape))
    if isinstance(repeats, Tensor) and product(repeats._type.shape) != 1:
        if len(repeats._type.shape) != 1 or not equal(repeats._type.shape[0], shape[axis]):
            raise OperationError(
                f"repeat_interleave: repeats has shape {format_shape(repeats._type.shape)}, but "
                f"dimension {axis} of the input has size {shape[axis]} (at {user_location()})"
            )
        places = _positions_repeated(repeats)
        taken = apply_named("index", movedim(input, axis, 0), places)
        return taken if axis == 0 else owned(movedim(taken, 0, axis))
    if isinstance(repeats, Tensor) and repeats._type.shape:
        repeats = regroup(repeats, ())
    count = size("repeat_interleave", repeats)
    if less(count, 0):
        raise OperationError(
            f"repeat_interleave: repeats must not be negative (at {user_location()})"
        )
    return _each_repeated(input, axis, count)


@fused()
def _each_repeated(input: Tensor, axis: int, count: Dim) -> Tensor:
    shape = input._type.shape
    apart = regroup(input, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    repeated = (*shape[: axis + 1], count, *shape[axis + 1 :])
    copied = owned(apply_named("expand", apart, shape=repeated))
    return regroup(copied, (*shape[:axis], shape[axis] * count, *shape[axis + 1 :]))


def _positions_repeated(repeats: Tensor) -> Tensor:
    trace = thread.trace
    if trace is not None and trace.can_read() and repeats._type.dtype.kind in ("int", "uint"):
        positive = apply_named("ge", repeats, tensor_builder.constant(0, repeats._type))
        if not all_true(positive, "repeat_interleave()"):
            raise _not_counts()
        ends = apply_named("cumsum", tensor_builder.cast(repeats, int64), axis=0)
        total = as_size(tensor_builder.sum(repeats, axes=(0,)), "repeat_interleave()")
        where: Any = {"dtype": int64, "device": repeats._type.device}
        number = tensor_builder.iota(shape=(total,), axis=0, **where)
        return searchsorted(ends, number, right=True)
    counts = concrete_array(repeats, "repeat_interleave() with a tensor of repeats")
    if counts.dtype.kind not in "iu" or counts.ndim != 1 or (counts < 0).any():
        raise _not_counts()
    places = np.repeat(np.arange(counts.size), counts)
    return constant_array(places, repeats._type.device)


def _not_counts() -> OperationError:
    return OperationError(
        "repeat_interleave: repeats must be a one-dimensional tensor of nonnegative integers "
        f"(at {user_location()})"
    )


TENSOR_METHODS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (repeat, repeat_interleave, tile)
}
