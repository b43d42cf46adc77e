"""``convolution``: sums of products over windows, with its derivatives again convolutions.

Left operand [N, C, *spatial], right operand [O, C / groups, *kernel], result [N, O, *positions].
The composite of windows and a product has the same values, but the derivative of its windows
is as large as all of them together; here it is a convolution of the result's gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flamec.ir import batching
from flamec.ir.builder import Builder
from flamec.ir.op import Attributes, DerivativeContext, Op, OpKind, Types, register
from flamec.ir.ops.checks import (
    check_alike,
    check_numeric,
    check_one_per_dimension,
    check_operand_count,
    surely_less,
)
from flamec.ir.ops.view import flip, numpy_window
from flamec.ir.ops.windows import reach
from flamec.ir.shape import Dim, equal, floordiv, format_shape, structurally_equal
from flamec.ir.types import TensorType

Dims = tuple[Dim, ...]

_MERGED_COLUMNS = 256  # fewer positions of one array than this: all arrays in one product


def _positions(
    size: Dim, kernel: Dim, border: tuple[Dim, Dim], attributes: Attributes, n: int
) -> Dim:
    """How many places the kernel has along spatial dimension n."""
    extent = reach(size, attributes["lhs_dilation"][n]) + border[0] + border[1]
    window = reach(kernel, attributes["rhs_dilation"][n])
    if structurally_equal(size, 0):
        extent = border[0] + border[1]
    if surely_less(extent, window):
        raise ValueError(
            f"convolution: the kernel spans {window} elements of spatial dimension {n}, which has "
            f"{extent} with its borders {border}"
        )
    return floordiv(extent - window, attributes["strides"][n]) + 1


def _infer_convolution(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("convolution", types, 2)
    check_alike("convolution", types)
    x, w = types
    check_numeric("convolution", x)
    spatial = len(x.shape) - 2
    if spatial < 1 or len(w.shape) != len(x.shape):
        raise ValueError(
            f"convolution: operands {format_shape(x.shape)} and {format_shape(w.shape)} must have "
            "a batch or output dimension, a channel dimension and the same spatial dimensions"
        )
    for name in ("strides", "lhs_dilation", "rhs_dilation"):
        check_one_per_dimension("convolution", name, (0, 0, *attributes[name]), spatial + 2)
        for entry in attributes[name]:
            if not isinstance(entry, int) or entry < 1:
                raise ValueError(f"convolution: {name} {attributes[name]} must be positive")
    check_one_per_dimension("convolution", "padding", (0, 0, *attributes["padding"]), spatial + 2)
    groups = attributes["groups"]
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"convolution: groups must be positive, not {groups}")
    if not equal(w.shape[1] * groups, x.shape[1]):
        raise ValueError(
            f"convolution: {format_shape(x.shape)} has {x.shape[1]} channels; a kernel "
            f"{format_shape(w.shape)} in {groups} group{'s' * (groups != 1)} needs "
            f"{w.shape[1] * groups}"
        )
    if groups > 1 and not equal(floordiv(w.shape[0], groups) * groups, w.shape[0]):
        raise ValueError(
            f"convolution: {w.shape[0]} output channels of {format_shape(w.shape)} do not divide "
            f"into {groups} groups"
        )
    for n, size in enumerate(w.shape[2:]):
        if structurally_equal(size, 0):
            raise ValueError(f"convolution: the kernel is empty along spatial dimension {n}")
    positions = tuple(
        _positions(x.shape[2 + n], w.shape[2 + n], attributes["padding"][n], attributes, n)
        for n in range(spatial)
    )
    return x.with_shape((x.shape[0], w.shape[0], *positions))


def _evaluate_convolution(attributes: Attributes, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The windows as columns of a matrix for each group, multiplied by the BLAS."""
    x = _with_borders(x, attributes)
    groups, spatial = attributes["groups"], x.ndim - 2
    strides, dilations = attributes["strides"], attributes["rhs_dilation"]
    positions = tuple(
        (size - reach(kernel, d)) // s + 1
        for size, kernel, s, d in zip(x.shape[2:], w.shape[2:], strides, dilations, strict=True)
    )
    batch, channels, outputs = x.shape[0], w.shape[1], w.shape[0]
    inner = tuple(d * s for d, s in zip(dilations, x.strides[2:], strict=True))
    outer = tuple(d * s for d, s in zip(strides, x.strides[2:], strict=True))
    windows = np.lib.stride_tricks.as_strided(
        x,
        (batch, groups, channels, *w.shape[2:], *positions),
        (x.strides[0], channels * x.strides[1], x.strides[1], *inner, *outer),
        writeable=False,
    )
    count = int(np.prod(positions, dtype=np.int64))
    depth = channels * int(np.prod(w.shape[2:], dtype=np.int64))
    kernels = np.ascontiguousarray(w).reshape(groups, outputs // groups, depth)
    if count >= _MERGED_COLUMNS:
        columns = windows.reshape(batch, groups, depth, count)
        return np.matmul(kernels, columns).reshape(batch, outputs, *positions)
    order = (1, *range(2, 3 + spatial), 0, *range(3 + spatial, 3 + 2 * spatial))
    columns = windows.transpose(order).reshape(groups, depth, batch * count)
    product = np.matmul(kernels, columns).reshape(outputs, batch, *positions)
    return product.swapaxes(0, 1)


def _with_borders(x: np.ndarray, attributes: Attributes) -> np.ndarray:
    """Dilated, with zeros around it or cut off, as row-major memory."""
    dilation, padding = attributes["lhs_dilation"], attributes["padding"]
    if all(d == 1 for d in dilation) and all(p == (0, 0) for p in padding):
        return np.ascontiguousarray(x)
    sizes = [reach(n, d) if n else 0 for n, d in zip(x.shape[2:], dilation, strict=True)]
    shape = [low + n + high for n, (low, high) in zip(sizes, padding, strict=True)]
    result = np.zeros((*x.shape[:2], *shape), x.dtype)
    source: list[slice] = [slice(None)] * 2
    starts, counts = [0, 0], list(x.shape[:2])
    for n, d, (low, _), extent in zip(x.shape[2:], dilation, padding, shape, strict=True):
        first = max(0, -(low // d)) if low < 0 else 0  # the first element that is not cut off
        last = min(n, (extent - 1 - low) // d + 1)
        source.append(slice(first, max(first, last)))
        starts.append(low + first * d)
        counts.append(max(0, last - first))
    target = numpy_window(tuple(starts), tuple(counts), (1, 1, *dilation))
    result[target] = x[tuple(source)]
    return result


def _convolution_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any, Any]:
    w = ctx.input_types[1]
    groups = ctx.attributes["groups"]
    x_gradient = w_gradient = None
    if ctx.needs[0]:
        kernel = exchanged(b, ctx.inputs[1], groups)
        for axis in range(2, len(w.shape)):
            kernel = flip(b, kernel, axis)
        x_gradient = b.convolution(g, kernel, **_input_attributes(ctx))
    if ctx.needs[1]:
        # the channels of a group play the batch, and batch times groups the channels
        left = _regrouped(b, ctx.inputs[0], groups, first=1)
        right = b.permute(g, axes=(1, 0, *range(2, len(w.shape))))
        product = b.convolution(left, right, **_kernel_attributes(ctx))
        w_gradient = b.permute(product, axes=(1, 0, *range(2, len(w.shape))))
    return x_gradient, w_gradient


def exchanged(b: Builder, kernel: Any, groups: int) -> Any:
    """[G * o, c, *] as [G * c, o, *]."""
    shape = b.type_of(kernel).shape
    rest = tuple(range(2, len(shape)))
    if groups == 1:
        return b.permute(kernel, axes=(1, 0, *rest))
    outputs, channels = floordiv(shape[0], groups), shape[1]
    apart = b.reshape(kernel, shape=(groups, outputs, *shape[1:]))
    apart = b.permute(apart, axes=(0, 2, 1, *(a + 1 for a in rest)))
    return b.reshape(apart, shape=(groups * channels, outputs, *shape[2:]))


def _regrouped(b: Builder, x: Any, groups: int, first: int) -> Any:
    """[N, G * c, *] as [c, G * N, *]."""
    shape = b.type_of(x).shape
    rest = tuple(range(2, len(shape)))
    if groups == 1:
        return b.permute(x, axes=(1, 0, *rest))
    channels = floordiv(shape[1], groups)
    apart = b.reshape(x, shape=(shape[0], groups, channels, *shape[2:]))
    apart = b.permute(apart, axes=(2, 1, 0, *(a + 1 for a in rest)))
    return b.reshape(apart, shape=(channels, groups * shape[0], *shape[2:]))


def _input_attributes(ctx: DerivativeContext) -> dict[str, Any]:
    """The gradient of the left operand is a convolution of g by the flipped kernel.

    As many zeros around the spread g as make the result as long as the spread left operand.
    """
    a = ctx.attributes
    x, w, y = ctx.input_types[0].shape, ctx.input_types[1].shape, ctx.output_types[0].shape
    padding = []
    for n, (low, _) in enumerate(a["padding"]):
        window = reach(w[2 + n], a["rhs_dilation"][n])
        before = window - 1 - low
        extent = reach(x[2 + n], a["lhs_dilation"][n]) + window - 1
        padding.append((before, extent - reach(y[2 + n], a["strides"][n]) - before))
    return {
        "strides": a["lhs_dilation"],
        "padding": tuple(padding),
        "lhs_dilation": a["strides"],
        "rhs_dilation": a["rhs_dilation"],
        "groups": a["groups"],
    }


def _kernel_attributes(ctx: DerivativeContext) -> dict[str, Any]:
    """The gradient of the right operand is a convolution of the left one by g."""
    a = ctx.attributes
    x, w, y = ctx.input_types[0].shape, ctx.input_types[1].shape, ctx.output_types[0].shape
    padding = []
    for n, (low, _) in enumerate(a["padding"]):
        extent = reach(w[2 + n], a["rhs_dilation"][n]) + reach(y[2 + n], a["strides"][n]) - 1
        padding.append((low, extent - reach(x[2 + n], a["lhs_dilation"][n]) - low))
    return {
        "strides": a["rhs_dilation"],
        "padding": tuple(padding),
        "lhs_dilation": a["lhs_dilation"],
        "rhs_dilation": a["strides"],
        "groups": a["groups"],
    }


convolution = register(
    Op(
        name="convolution",
        kind=OpKind.CONVOLUTION,
        infer=_infer_convolution,
        evaluate=_evaluate_convolution,
        derivative=_convolution_gradient,
        saves_inputs={0: (1,), 1: (0,)},
        expensive=True,
        dimensions=("padding",),
        batch=batching.convolution,
        doc="Sums of products of a kernel with every window: spatial dimensions of the left "
        "operand are spread by lhs_dilation and get borders (low, high), which may be negative.",
    )
)
