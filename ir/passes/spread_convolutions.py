"""Convolutions whose left operand is spread, without a multiplication by zero.

In: a ``convolution`` with zeros between the elements of its left operand (the gradient of strides,
a transposed convolution). Out: convolutions of the dense operand whose results take turns, or
sums of the kernels that its elements bring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product as product_of_ranges
from math import gcd

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Node, Value
from flamec.ir.ops.contraction import convolution_part, free_axes
from flamec.ir.ops.view import flip, inverse_permutation
from flamec.ir.ops.windows import bordered, overlap_add, reach
from flamec.ir.passes.move_permutations import Arranged
from flamec.ir.passes.window_products import split
from flamec.ir.shape import Dim

Axes = tuple[int, ...]


def is_spread(node: Node) -> bool:
    """Whether zeros stand between the elements of the left operand."""
    return any(step > 1 for step in node.attributes["lhs_dilation"])


Lower = Callable[[GraphBuilder, Node, Arranged, Arranged], Arranged]


def by_turns(
    b: GraphBuilder, node: Node, left: Arranged, right: Arranged, lower: Lower
) -> Arranged | None:
    """A spread convolution as convolutions of the dense operand, whose results take turns.

    Result s * q + r meets the kernel's elements j of which j * dilation - low + r is a multiple
    of the spread s: every s-th one. None where one of them is all that there is, where spread and
    dilation have a common factor, or where sizes are not known.
    """
    attributes, shape = node.attributes, node.output.type.shape
    spreads, dilations = attributes["lhs_dilation"], attributes["rhs_dilation"]
    sizes, extents = node.inputs[0].type.shape[2:], node.inputs[1].type.shape[2:]
    if any(step > 1 for step in attributes["strides"]):
        return None
    if not all(isinstance(size, int) for size in (*sizes, *extents, *shape[2:])):
        return None
    if any(gcd(s, d) > 1 for s, d in zip(spreads, dilations, strict=True)):
        return None
    if all(size <= s for size, s in zip(extents, spreads, strict=True)):
        return None
    parts, shapes = [], []
    for turn in product_of_ranges(*map(range, spreads)):
        counts, starts, taken, padding = [], [], [], []
        for n, (r, s, d) in enumerate(zip(turn, spreads, dilations, strict=True)):
            low = int(attributes["padding"][n][0])
            first = (low - r) * pow(d, -1, s) % s if s > 1 else 0
            counts.append(len(range(r, int(shape[2 + n]), s)))
            starts.append(first)
            taken.append(len(range(first, int(extents[n]), s)))
            before = -((r + first * d - low) // s)
            needed = counts[-1] + d * (taken[-1] - 1)
            padding.append((before, needed - int(sizes[n]) - before))
        shapes.append((*shape[:2], *counts))
        parts.append((starts, taken, padding) if all(counts) and all(taken) else None)
    borders = _largest([part[2] for part in parts if part is not None])
    dense, left = _with_borders(b, node.inputs[0], left, borders)
    pieces: list[Arranged | None] = []
    for part in parts:
        if part is None:
            pieces.append(None)
            continue
        starts, taken, padding = part
        some = _some_elements(b, right, starts, taken, spreads)
        type = node.inputs[1].type.with_shape((*node.inputs[1].type.shape[:2], *taken))
        rest = [(low - x, high - y) for (low, high), (x, y) in zip(padding, borders, strict=True)]
        inner = {**attributes, "lhs_dilation": (1,) * len(sizes), "padding": tuple(rest)}
        pieces.append(lower(b, Node(node.op, (dense, Value(type)), inner), left, some))
    order = next((piece.order for piece in pieces if piece is not None), None)
    if order is None:
        return None
    values = []
    for piece, wanted in zip(pieces, shapes, strict=True):
        if piece is None:
            along = tuple(wanted[i] for i in inverse_permutation(order))
            values.append(b.full_like(0, node.output.type.with_shape(along)))
        elif piece.order == order:
            values.append(piece.source)
        else:
            plain = tuple(piece.order[i] for i in inverse_permutation(order))
            values.append(b.permute(piece.source, axes=plain))
    axes = sorted(zip(order[2:], spreads, strict=True))
    if [axis for axis, _ in axes] != list(order[2:]):
        return None
    result = b.interleave(*values, axes=tuple(order[2:]), steps=tuple(spreads))
    return Arranged(result, order)


def _largest(paddings: Sequence[Sequence[tuple[int, int]]]) -> list[tuple[int, int]]:
    """Borders that are enough for all: none is cut off where the others need it."""
    return [
        (max(0, *(low for low, _ in along)), max(0, *(high for _, high in along)))
        for along in zip(*paddings, strict=True)
    ]


def _with_borders(
    b: GraphBuilder, value: Value, left: Arranged, borders: Sequence[tuple[int, int]]
) -> tuple[Value, Arranged]:
    """An operand, and how it lies, with zeros around it that several convolutions read."""
    shape = list(value.type.shape)
    along = [(0, 0)] * len(shape)
    for n, (low, high) in enumerate(borders):
        along[left.order[2 + n]] = (low, high)
        shape[2 + n] = shape[2 + n] + low + high
    source = bordered(b, left.source, tuple(along))
    return Value(value.type.with_shape(tuple(shape))), Arranged(source, left.order)


def _some_elements(
    b: GraphBuilder, kernel: Arranged, starts: Sequence[int], sizes: Sequence[int],
    steps: Sequence[int],
) -> Arranged:  # fmt: skip
    """Every so-many-th element of a kernel along its spatial dimensions."""
    source = kernel.source
    first, taken, apart = [0] * source.type.ndim, list(source.type.shape), [1] * source.type.ndim
    for axis, start, size, step in zip(kernel.order[2:], starts, sizes, steps, strict=True):
        first[axis], taken[axis], apart[axis] = start, size, step
    part = b.slice(source, starts=tuple(first), sizes=tuple(taken), steps=tuple(apart))
    return Arranged(part, kernel.order)


def added_up(b: GraphBuilder, node: Node, left: Arranged, right: Arranged) -> Arranged | None:
    """A spread convolution as the sum of the kernels that each element of the left one brings.

    No zeros are multiplied. None where the kernel moves by more than one element, or where
    sizes do not tell how much of the sum is cut off.
    """
    attributes = node.attributes
    shape, kernel_shape = node.output.type.shape, node.inputs[1].type.shape[2:]
    if any(step > 1 for step in attributes["strides"]):
        return None
    if not all(isinstance(size, int) for size in kernel_shape):
        return None
    groups = attributes["groups"]
    batch, channel, *spatial = left.order
    outputs, channels, *inner = right.order
    source = left.source
    kernel = right.source
    for axis in inner:
        kernel = flip(b, kernel, axis)
    kernel = b.permute(kernel, axes=(channels, *inner, outputs))
    grouped: tuple[Axes, Axes] = ((), ())
    contract: tuple[Axes, Axes] = ((channel,), (0,))
    if groups > 1:
        source = split(b, source, channel, groups)
        kernel = split(b, kernel, kernel.type.ndim - 1, groups)
        grouped = ((channel,), (kernel.type.ndim - 2,))
        contract = ((channel + 1,), (0,))
    whole = convolution_part(node.output.type)
    result = b.dot_general(source, kernel, contract=contract, batch=grouped, **whole)
    free = free_axes(source.type.ndim, contract[0], grouped[0])
    first = len(free)  # of the kernel's dimensions, after the groups have gone to the end
    if groups > 1:
        last = result.type.ndim - 1
        result = b.permute(result, axes=(*range(1, last), 0, last))
        *lead, count, size = result.type.shape
        result = b.reshape(result, shape=(*lead, count * size))
    place = {axis: i for i, axis in enumerate(free)}
    shift = groups > 1
    where = [place[a + (shift and a > channel)] for a in (batch, *spatial)]
    for n in reversed(range(len(spatial))):
        result = overlap_add(
            b,
            result,
            where[1 + n],
            first + n,
            attributes["lhs_dilation"][n],
            attributes["rhs_dilation"][n],
        )
    borders: list[tuple[Dim, Dim]] = [(0, 0)] * result.type.ndim
    for n, size in enumerate(kernel_shape):
        axis = where[1 + n]
        low = attributes["padding"][n][0] - reach(size, attributes["rhs_dilation"][n]) + 1
        high = shape[2 + n] - result.type.shape[axis] - low
        if not (isinstance(low, int) and isinstance(high, int)):
            return None
        borders[axis] = (low, high)
    result = bordered(b, result, tuple(borders))
    return Arranged(result, (where[0], result.type.ndim - 1, *where[1:]))
