"""``windows``: the overlapping windows of some dimensions, as a view.

The derivative adds the windows up where they overlap. It is written with paddings of the
gradient, one for each window that can cover an element, so that it can be fused and
differentiated again; windows that do not overlap are put side by side.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from flamec.ir import batching
from flamec.ir.builder import Builder
from flamec.ir.op import Attributes, DerivativeContext, Op, OpKind, Types, register
from flamec.ir.ops.checks import check_axis, check_operand_count, surely_less
from flamec.ir.shape import Dim, format_shape, structurally_equal
from flamec.ir.types import TensorType, int64

Dims = tuple[Dim, ...]


def reach(count: Dim, step: int) -> Dim:
    """How many elements ``count`` places that are ``step`` apart span."""
    return (count - 1) * step + 1


def _infer_windows(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("windows", types, 1)
    (x,) = types
    axes = attributes["axes"]
    for name in ("counts", "sizes", "steps", "dilations"):
        if len(attributes[name]) != len(axes):
            raise ValueError(
                f"windows: {name} has {len(attributes[name])} entries for {len(axes)} axes"
            )
    if not axes or list(axes) != sorted(set(axes)):
        raise ValueError(f"windows: axes {axes} must be sorted, each once, and not empty")
    shape = list(x.shape)
    for axis, count, size, step, dilation in zip(
        axes, *(attributes[k] for k in ("counts", "sizes", "steps", "dilations")), strict=True
    ):
        check_axis("windows", axis, x)
        for name, value in (("step", step), ("dilation", dilation)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"windows: {name} {value} at dimension {axis} must be positive")
        if surely_less(size, 1) or surely_less(count, 0):
            raise ValueError(f"windows: {count} windows of size {size} at dimension {axis}")
        needed = reach(count, step) + reach(size, dilation) - 1
        if not structurally_equal(count, 0) and surely_less(x.shape[axis], needed):
            raise ValueError(
                f"windows: {count} windows of size {size} (step {step}, dilation {dilation}) need "
                f"{needed} elements of dimension {axis} of {format_shape(x.shape)}"
            )
        shape[axis] = count
    last = axes[-1] + 1
    return x.with_shape((*shape[:last], *attributes["sizes"], *shape[last:]))


def _evaluate_windows(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    axes = attributes["axes"]
    shape, strides = list(x.shape), list(x.strides)
    inner = [
        dilation * x.strides[axis]
        for axis, dilation in zip(axes, attributes["dilations"], strict=True)
    ]
    for axis, count, step in zip(axes, attributes["counts"], attributes["steps"], strict=True):
        shape[axis], strides[axis] = count, step * x.strides[axis]
    last = axes[-1] + 1
    return np.lib.stride_tricks.as_strided(
        x,
        (*shape[:last], *attributes["sizes"], *shape[last:]),
        (*strides[:last], *inner, *strides[last:]),
    )


def _windows_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any]:
    return (_added_up(b, g, ctx.input_types[0].shape, ctx.attributes),)


def _added_up(b: Builder, g: Any, shape: Dims, attributes: Attributes) -> Any:
    """An array of ``shape`` of which each element is the sum of its copies in ``g``."""
    axes = attributes["axes"]
    for number in reversed(range(len(axes))):
        step, dilation = (attributes[k][number] for k in ("steps", "dilations"))
        g = overlap_add(b, g, axes[number], axes[-1] + 1 + number, step, dilation)
        g = _fitted(b, g, axes[number], shape[axes[number]])
    return g


def overlap_add(b: Builder, g: Any, axis: int, inner: int, step: int, dilation: int) -> Any:
    """Element ``i * step + j * dilation`` of the result's ``axis``: the sum over all such i, j.

    i counts ``axis`` and j ``inner`` of ``g``; the result may have zeros after the last element.
    """
    shape = b.type_of(g).shape
    count, size = shape[axis], shape[inner]
    rest = tuple(i for i in range(len(shape)) if i not in (axis, inner))
    if not isinstance(size, int):
        if not isinstance(count, int):
            raise ValueError(
                f"windows: the derivative needs the number of windows or their size as a number; "
                f"they are {count} and {size}"
            )
        return overlap_add(b, b.permute(g, axes=_swapped(len(shape), axis, inner)), axis, inner,
                           dilation, step)  # fmt: skip
    if step == 1:
        offsets, parts, block = [j * dilation for j in range(size)], size, 1
    else:
        g = _spread(b, g, inner, dilation)
        parts = -(-int(reach(size, dilation)) // step)
        g = _fitted(b, g, inner, parts * step)
        offsets, block = list(range(parts)), step
    last = offsets[-1]
    order = list(rest)
    order.insert(axis - (inner < axis), axis)
    place = order.index(axis)
    order.insert(place + 1, inner)
    g = b.permute(g, axes=tuple(order))
    lead, trail = (
        tuple(shape[i] for i in order[:place]),
        tuple(shape[i] for i in order[place + 2 :]),
    )
    rank = len(lead) + 2 + len(trail)
    total = None
    for number, offset in enumerate(offsets):
        piece = b.slice(
            g,
            starts=tuple(number * block if i == place + 1 else 0 for i in range(rank)),
            sizes=(*lead, count, block, *trail),
            steps=(1,) * rank,
        )
        if last:
            low = tuple(offset if i == place else 0 for i in range(rank))
            high = tuple(last - offset if i == place else 0 for i in range(rank))
            piece = b.pad(piece, b.constant(0, b.type_of(g)), low=low, high=high)
        total = piece if total is None else b.add(total, piece)
    return b.reshape(total, shape=(*lead, (count + last) * block, *trail))


def _swapped(rank: int, first: int, second: int) -> tuple[int, ...]:
    axes = list(range(rank))
    axes[first], axes[second] = second, first
    return tuple(axes)


def _spread(b: Builder, x: Any, axis: int, step: int) -> Any:
    """``x`` with ``step - 1`` zeros after each element of a dimension but the last."""
    return spread(b, x, (axis,), (step,))


def spread(b: Builder, x: Any, axes: tuple[int, ...], steps: tuple[int, ...]) -> Any:
    """``x`` with ``step - 1`` zeros between neighbours along each of ``axes``."""
    type = b.type_of(x)
    if all(step == 1 for step in steps):
        return x
    by_axis = dict(zip(axes, steps, strict=True))
    apart: list[Dim] = []
    high: list[Dim] = []
    merged: list[Dim] = []
    for axis, size in enumerate(type.shape):
        step = by_axis.get(axis, 1)
        apart += [size] if step == 1 else [size, 1]
        high += [0] if step == 1 else [0, step - 1]
        merged.append(size * step)
    x = b.reshape(x, shape=tuple(apart))
    x = b.pad(x, b.constant(0, type), low=(0,) * len(apart), high=tuple(high))
    x = b.reshape(x, shape=tuple(merged))
    sizes = tuple(
        size if by_axis.get(axis, 1) == 1 else reach(size, by_axis[axis])
        for axis, size in enumerate(type.shape)
    )
    return b.slice(x, starts=(0,) * len(sizes), sizes=sizes, steps=(1,) * len(sizes))


def _fitted(b: Builder, x: Any, axis: int, extent: Dim) -> Any:
    """``x`` cut off or filled up with zeros at the end of a dimension."""
    shape = b.type_of(x).shape
    return bordered(b, x, tuple(
        (0, extent - size) if i == axis else (0, 0) for i, size in enumerate(shape)
    ))  # fmt: skip


def bordered(b: Builder, x: Any, borders: tuple[tuple[Dim, Dim], ...]) -> Any:
    """``x`` with so many zeros before and after each dimension; negative numbers cut off."""
    type = b.type_of(x)
    low, high = zip(*borders, strict=True)
    starts = tuple(-d if _negative(d) else 0 for d in low)
    ends = tuple(-d if _negative(d) else 0 for d in high)
    if any(_negative(d) for d in (*low, *high)):
        sizes = zip(type.shape, starts, ends, strict=True)
        x = b.slice(
            x,
            starts=starts,
            sizes=tuple(size - start - end for size, start, end in sizes),
            steps=(1,) * len(borders),
        )
    low = tuple(0 if _negative(d) else d for d in low)
    high = tuple(0 if _negative(d) else d for d in high)
    if all(structurally_equal(d, 0) for d in (*low, *high)):
        return x
    return b.pad(x, b.constant(0, type), low=low, high=high)


def _negative(amount: Dim) -> bool:
    return surely_less(amount, 0)


def _write_back(b: Builder, parent: Any, child: Any, attributes: Attributes) -> Any:
    """For windows that have no element in common."""
    whole = b.type_of(parent)
    for count, size, step, dilation in zip(
        *(attributes[k] for k in ("counts", "sizes", "steps", "dilations")), strict=True
    ):
        again = math.lcm(step, dilation)  # the distance of elements that two windows share
        if surely_less(again // step, count) and surely_less(again // dilation, size):
            raise ValueError(
                "cannot write through windows that overlap: several of their elements are one "
                "element of memory; clone() them first"
            )
    ones = b.full(value=1, shape=b.type_of(child).shape, dtype=int64, device=whole.device)
    covered = _added_up(b, ones, whole.shape, attributes)
    covered = b.ne(covered, b.constant(0, b.type_of(covered)))
    return b.where(covered, _added_up(b, child, whole.shape, attributes), parent)


windows = register(
    Op(
        name="windows",
        kind=OpKind.VIEW,
        infer=_infer_windows,
        evaluate=_evaluate_windows,
        derivative=_windows_gradient,
        write_back=_write_back,
        dimensions=("counts", "sizes"),
        batch=batching.shifting("axes"),
        doc="Windows along axes: dimension axes[n] counts them, their elements are dimensions "
        "after the last of the axes. Element j of window i is element i * step + j * dilation.",
    )
)
