"""Reads and writes at computed places.

``index`` and ``index_put`` address the first k dimensions with k tensors of int64 or int32
and one shape. A negative index counts from the end; one outside the dimension
is an IndexError when evaluated.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.ir import batching
from flamec.ir.op import Attributes, DerivativeContext, Op, OpKind, Types, register
from flamec.ir.ops.checks import check_alike, check_numeric, check_same_device
from flamec.ir.shape import Dim, equal, format_shape, index_as_given
from flamec.ir.types import TensorType, int32, int64

if TYPE_CHECKING:
    from flamec.ir.builder import Builder

# any: one of those that meet; over: see the operation
PUT_MODES = ("set", "any", "over", "add", "prod", "amax", "amin")

_ROUNDS = 16  # places hit at most this often are added to all together, one hit a round


def _check_indices(op: str, x: TensorType, indices: Types) -> tuple[Dim, ...]:
    """The common shape of the index tensors."""
    if not indices:
        raise TypeError(f"{op} takes at least one index tensor")
    if len(indices) > len(x.shape):
        raise IndexError(
            f"{op}: {len(indices)} index tensors for {format_shape(x.shape)} "
            f"of {len(x.shape)} dimensions"
        )
    shape = indices[0].shape
    for position, index in enumerate(indices):
        if index.dtype not in (int64, int32):
            raise TypeError(f"{op}: index tensor {position} must be int64 or int32, not {index}")
        if len(index.shape) != len(shape) or not all(map(equal, shape, index.shape)):
            raise ValueError(
                f"{op}: index tensors have shapes {format_shape(shape)} and "
                f"{format_shape(index.shape)}; they must be equal"
            )
    check_same_device(op, (x, *indices))
    return shape


def _check_range(op: str, x: np.ndarray, indices: tuple[np.ndarray, ...]) -> None:
    for axis, index in enumerate(indices):
        size = x.shape[axis]
        for found in (int(index.min()), int(index.max())) if index.size else ():
            if not -size <= found < size:
                raise IndexError(
                    f"{op}: index {index_as_given(found)} is out of bounds for dimension {axis} "
                    f"of size {size}"
                )


# index --------------------------------------------------------------------
def _infer_index(types: Types, attributes: Attributes) -> TensorType:
    if not types:
        raise TypeError("index takes a tensor and at least one index tensor")
    x, *indices = types
    shape = _check_indices("index", x, tuple(indices))
    return x.with_shape((*shape, *x.shape[len(indices) :]))


def _taken(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    """``x[index]``; of a dense array in another order of dimensions where its elements lie, since
    NumPy copies that first."""
    if index.ndim == 1 and not x.flags.c_contiguous:
        order = sorted(range(x.ndim), key=lambda axis: -x.strides[axis])
        dense = x.transpose(order)
        if dense.flags.c_contiguous:
            return dense.take(index, axis=order.index(0)).transpose(np.argsort(order))
    return x.take(index, axis=0)


def _evaluate_index(attributes: Attributes, x: np.ndarray, *indices: np.ndarray) -> np.ndarray:
    try:
        return _taken(x, indices[0]) if len(indices) == 1 else x[indices]
    except IndexError:
        _check_range("index", x, indices)
        raise


def _index_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> list[Any]:
    indices = ctx.inputs[1:]
    zeros = b.full_like(0, ctx.input_types[0])
    return [b.index_put(zeros, g, *indices, mode="add"), *(None for _ in indices)]


index = register(
    Op(
        name="index",
        kind=OpKind.GATHER,
        infer=_infer_index,
        evaluate=_evaluate_index,
        derivative=_index_gradient,
        saves_inputs=slice(1, None),
        batch=batching.index,
        doc="x[idx0, idx1, …] over the first dimensions. With the attribute inside all indices are "
        "known to exist and to be counted from the start, so that they need not be checked.",
    )
)


# index_put ----------------------------------------------------------------
def _infer_index_put(types: Types, attributes: Attributes) -> TensorType:
    if len(types) < 3:
        raise TypeError("index_put takes a tensor, values and at least one index tensor")
    x, values, *indices = types
    mode = attributes["mode"]
    if mode not in PUT_MODES:
        raise ValueError(f"index_put: unknown mode {mode!r}; known: {', '.join(PUT_MODES)}")
    check_alike("index_put", (x, values))
    if mode in ("add", "prod"):
        check_numeric(f"index_put with mode {mode!r}", x)
    shape = _check_indices("index_put", x, tuple(indices))
    expected = (*shape, *x.shape[len(indices) :])
    if len(expected) != len(values.shape) or not all(map(equal, expected, values.shape)):
        raise ValueError(
            f"index_put: values have shape {format_shape(values.shape)}; the places that "
            f"{len(indices)} index tensors of {format_shape(shape)} select in "
            f"{format_shape(x.shape)} have shape {format_shape(expected)}"
        )
    return x


def _evaluate_index_put(
    attributes: Attributes, x: np.ndarray, values: np.ndarray, *indices: np.ndarray
) -> np.ndarray:
    mode = attributes["mode"]
    result = np.array(x, order="C")
    if mode == "over":
        kept = np.logical_and.reduce([index >= 0 for index in indices])
        values, indices = values[kept], tuple([index[kept] for index in indices])
    _check_range("index_put", x, indices)
    if not values.size:
        return result
    if mode in ("set", "any", "over"):
        result[indices] = values
    elif mode == "add":
        _add_rows(result, values, indices)
    elif mode == "prod":
        np.multiply.at(result, indices, values)
    else:
        (np.maximum if mode == "amax" else np.minimum).at(result, indices, values)
    return result


def _add_rows(result: np.ndarray, values: np.ndarray, indices: tuple[np.ndarray, ...]) -> None:
    """Add rows of ``values`` into the contiguous ``result``; equal places accumulate in order."""
    k = len(indices)
    places = np.zeros(indices[0].size, dtype=np.int64)
    for axis, index in enumerate(indices):
        size = result.shape[axis]
        flat = index.reshape(-1)
        places = places * size + np.where(flat < 0, flat + size, flat)
    width = result.size // max(1, int(np.prod(result.shape[:k], dtype=np.int64)))
    if width == 1:
        np.add.at(result.reshape(-1), places, values.reshape(-1))
        return
    order = np.argsort(places, kind="stable")
    target, first, counts = np.unique(places[order], return_index=True, return_counts=True)
    table, rows = result.reshape(-1, width), values.reshape(-1, width)
    few = counts <= _ROUNDS
    for turn in range(min(int(counts.max()), _ROUNDS)):
        now = few & (counts > turn)
        table[target[now]] += rows[order[first[now] + turn]]
    for place, begin, count in zip(target[~few], first[~few], counts[~few], strict=True):
        table[place] += np.add.reduce(rows[order[begin : begin + count]], axis=0)


def _index_put_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> list[Any]:
    mode = ctx.attributes["mode"]
    if mode not in ("set", "any", "over", "add"):
        raise NotImplementedError(f"index_put with mode {mode!r} has no derivative")
    indices = ctx.inputs[2:]
    x_gradient = values_gradient = None
    if ctx.needs[0]:
        x_gradient = b.full_like(0, ctx.input_types[0]) if mode == "over" else g
        if mode in ("set", "any"):
            zeros = b.full_like(0, ctx.input_types[1])
            x_gradient = b.index_put(g, zeros, *indices, mode=mode)
    if ctx.needs[1]:
        values_gradient = _gradient_over(b, g, indices) if mode == "over" else b.index(g, *indices)
    return [x_gradient, values_gradient, *(None for _ in indices)]


def _gradient_over(b: Builder, g: Any, indices: Any) -> Any:
    """What arrives where values were put; nothing at those with an index that is negative."""
    zeros = [b.full_like(0, b.type_of(index)) for index in indices]
    found = b.index(g, *map(b.maximum, indices, zeros), inside=True)
    type = b.type_of(found)
    kept = reduce(b.bitwise_and, map(b.ge, indices, zeros))
    rank = len(b.type_of(kept).shape)
    kept = b.reshape(kept, shape=(*b.type_of(kept).shape, *(1 for _ in type.shape[rank:])))
    return b.where(b.expand_to(kept, type.shape), found, b.full_like(0, type))


index_put = register(
    Op(
        name="index_put",
        kind=OpKind.SCATTER,
        infer=_infer_index_put,
        evaluate=_evaluate_index_put,
        derivative=_index_put_gradient,
        saves_inputs=slice(2, None),
        batch=batching.index_put,
        doc="A copy of x with values put at x[idx0, idx1, …]; equal places combine by mode: set "
        "keeps the last one, any keeps one of them, in whatever order memory is written. over does "
        "so, too, leaves values out that have a negative index, has no other indices that do not "
        "exist, and does not specify what is where nothing was put.",
    )
)
