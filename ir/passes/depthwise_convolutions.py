"""Convolutions whose channels have a kernel each, and the gradients of such kernels.

In: a ``convolution`` and its operands. Out: sums over the elements of the kernel, each of a part of
the left operand times that element; or, for each element, a fold over a part. There are no
matrices in them, and nothing but what is read and written is in memory.
"""

from __future__ import annotations

from itertools import product as product_of_ranges
from typing import Any

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Node, Value
from flamec.ir.ops.windows import bordered, spread
from flamec.ir.passes.move_permutations import Arranged
from flamec.ir.shape import Dim, product, structurally_equal
from flamec.ir.types import TensorType

LONG_ROW = 4  # places of a row that are worth vectors of them
MOST_SLICES = 64  # elements of a kernel of one channel up to which they are added one by one


def is_depthwise(node: Node) -> bool:
    """Whether every channel has a small kernel of its own: sums of few products, no matrices."""
    kernel = node.inputs[1].type.shape
    if not (kernel[1] == 1 and structurally_equal(kernel[0], node.attributes["groups"])):
        return False
    elements = product(kernel[2:])
    return isinstance(elements, int) and elements <= MOST_SLICES


def has_long_rows(places: TensorType, array: Arranged) -> bool:
    """Whether an array lies with the last spatial dimension innermost, and the places along it
    fill vectors of a CPU: then it needs no rearranging."""
    innermost = array.order.index(array.source.type.ndim - 1)
    size = places.shape[innermost]
    on_cpu = places.device.type == "cpu"
    return on_cpu and innermost >= 2 and not (isinstance(size, int) and size < LONG_ROW)


def sum_of_slices(b: GraphBuilder, node: Node, left: Arranged, right: Arranged) -> Arranged:
    """The sum over the elements of the kernel of a part of the left operand times the element."""
    attributes = node.attributes
    shape, kernel_shape = node.output.type.shape, node.inputs[1].type.shape[2:]
    spatial = left.order[2:]
    source = spread(b, left.source, spatial, attributes["lhs_dilation"])
    rank = source.type.ndim
    borders: list[tuple[Dim, Dim]] = [(0, 0)] * rank
    sizes, steps = list(source.type.shape), [1] * rank
    for n, axis in enumerate(spatial):
        borders[axis] = attributes["padding"][n]
        sizes[axis], steps[axis] = shape[2 + n], attributes["strides"][n]
    source = bordered(b, source, tuple(borders))
    wide = source.type.dtype.compute
    # [kernel…, channels], broadcast along all but the channels
    outputs, channels, *inner = right.order
    kernel = b.permute(right.source, axes=(*inner, outputs, channels))
    if node.output.type.device.type == "cpu" and left.order[1] == rank - 1:
        kernel = _element_by_element(b, kernel)
    along = tuple(d if i == left.order[1] else 1 for i, d in enumerate(source.type.shape))
    total: Any = None
    for place in product_of_ranges(*(range(int(size)) for size in kernel_shape)):
        starts = [0] * rank
        for n, axis in enumerate(spatial):
            starts[axis] = place[n] * attributes["rhs_dilation"][n]
        part = b.slice(source, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps))
        weights = b.slice(
            kernel,
            starts=(*place, 0, 0),
            sizes=(*(1,) * len(place), *kernel.type.shape[-2:]),
            steps=(1,) * kernel.type.ndim,
        )
        weights = b.cast(b.reshape(weights, shape=along), wide)
        part = b.cast(part, wide)  # not before it is cut out: borders have no memory then
        term = b.mul(part, b.expand_to(weights, part.type.shape))
        total = term if total is None else b.add(total, term)
    return Arranged(b.cast(total, node.output.type.dtype), left.order)


def _element_by_element(b: GraphBuilder, kernel: Value) -> Value:
    """A kernel [*places, outputs, channels] as an array in this order, put together from its
    elements: for each of them all channels are beside each other in memory."""
    shape = kernel.type.shape
    count, *last = product(shape[:-2]), *shape[-2:]
    assert isinstance(count, int)
    elements = b.reshape(kernel, shape=(count, *last))
    parts = [
        b.slice(elements, starts=(number, 0, 0), sizes=(1, *last), steps=(1, 1, 1))
        for number in range(count)
    ]
    return b.reshape(b.concatenate(*parts, axis=0), shape=shape)


def has_few_positions(node: Node) -> bool:
    """Whether a kernel for each group, with one output, has few places: as the gradient of
    kernels of one channel each. There is no matrix in it, and a group is an element in a row."""
    groups, kernel = node.attributes["groups"], node.inputs[1].type.shape
    places = product(node.output.type.shape[2:])
    longer = all(map(is_longer, kernel[2:], node.output.type.shape[2:]))
    one = structurally_equal(kernel[0], groups) and groups > 1
    return one and longer and isinstance(places, int) and places <= MOST_SLICES


def folds_of_slices(
    b: GraphBuilder, node: Node, left: Value, right: Value, in_rows: bool
) -> Arranged:
    """For each place of the kernels the sum of a part of the left operand times the kernels.

    Both lie with the groups last, so that these are beside each other in a row; ``in_rows``: with
    the groups first, and what is summed is rows.
    """
    attributes, shape = node.attributes, node.output.type.shape
    groups, (_, channels, *kernel_shape) = attributes["groups"], node.inputs[1].type.shape
    rank = 3 + len(kernel_shape)  # [batch, groups, channels, *spatial]
    order = tuple(range(rank)) if in_rows else (0, 2, *range(3, rank), 1)
    spatial = range(3, rank) if in_rows else range(2, rank - 1)
    source = b.reshape(left, shape=(shape[0], groups, channels, *left.type.shape[2:]))
    source = source if in_rows else b.permute(source, axes=order)
    source = spread(b, source, tuple(spatial), attributes["lhs_dilation"])
    borders: list[tuple[Dim, Dim]] = [(0, 0)] * rank
    for n, axis in enumerate(spatial):
        borders[axis] = attributes["padding"][n]
    source = bordered(b, source, tuple(borders))
    wide = source.type.dtype.compute
    kernel = b.reshape(b.cast(right, wide), shape=(1, groups, channels, *kernel_shape))
    kernel = kernel if in_rows else b.permute(kernel, axes=order)
    summed = tuple(place for place, axis in enumerate(order) if axis > 1)
    found = []
    for place in product_of_ranges(*(range(int(size)) for size in shape[2:])):
        starts, steps = [0] * rank, [1] * rank
        for n, axis in enumerate(spatial):
            starts[axis] = place[n] * attributes["strides"][n]
            steps[axis] = attributes["rhs_dilation"][n]
        sizes = (shape[0], *kernel.type.shape[1:])
        part = b.slice(source, starts=tuple(starts), sizes=sizes, steps=tuple(steps))
        part = b.cast(part, wide)  # not before it is cut out: borders have no memory then
        total = b.sum(b.mul(part, b.expand_to(kernel, part.type.shape)), axes=summed)
        found.append(b.reshape(total, shape=(1, *total.type.shape)))
    result = b.permute(b.concatenate(*found, axis=0), axes=(1, 2, 0))
    result = b.reshape(b.cast(result, node.output.type.dtype), shape=shape)
    return Arranged(result, tuple(range(len(shape))))


def is_longer(size: Dim, count: Dim) -> bool:
    """Whether a size is larger than a count; an unknown one counts as larger than a known one."""
    if isinstance(count, int):
        return not isinstance(size, int) or size > count
    return False
