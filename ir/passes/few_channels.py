"""Convolutions of arrays with a handful of channels, which no block of a GPU reads well.

In: a ``convolution`` whose left operand has, as it lies in memory, three or so elements beside
each other (the channels of an image, as the operand's channels or, for the gradient of a kernel, as
its batch). Out: the same over a copy whose pixels have a power of two of elements and whose borders
are in memory: what a window reads of a line is then one run of aligned elements, without a question
in between, and the copy is read some fifty times (``wide_pixels``). What was added is zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Node, Value
from flamec.ir.ops.windows import bordered, reach
from flamec.ir.passes.move_permutations import Arranged
from flamec.ir.shape import Dim, product

FEWEST, MOST = 3, 7  # elements beside each other that are worth more of them
LARGE = 1 << 20  # elements of which a copy is worth a launch
WINDOW = 9  # elements of a kernel that read a pixel, at least
LINE = 16  # bytes of which a line has a multiple


@dataclass(frozen=True)
class WidenedConvolution:
    """The convolution of the copy; ``batch``: how much of its result's batch is wanted."""

    node: Node
    left: Arranged
    right: Arranged
    batch: Dim


def with_wider_pixels(
    b: GraphBuilder, node: Node, left: Arranged, right: Arranged
) -> WidenedConvolution | None:
    """See the module's docstring; None where it does not pay."""
    attributes, shape = node.attributes, node.output.type.shape
    last = left.source.type.ndim - 1
    axis = left.order.index(last)
    pixel = left.source.type.shape[last]
    if node.output.type.device.type != "cuda" or attributes["groups"] > 1 or axis > 1:
        return None
    if not isinstance(pixel, int) or not FEWEST <= pixel <= MOST or not _pays(node):
        return None
    more = (1 << pixel.bit_length()) - pixel if pixel & (pixel - 1) else 0
    borders: list[tuple[Dim, Dim]] = [(0, 0)] * (last + 1)
    borders[last] = (0, more)
    spatial = left.order[2:]
    for n, place in enumerate(spatial):
        size, kernel = left.source.type.shape[place], node.inputs[1].type.shape[2 + n]
        low = attributes["padding"][n][0]
        step, dilation = attributes["strides"][n], attributes["rhs_dilation"][n]
        needed = reach(shape[2 + n], step) + reach(kernel, dilation) - 1
        borders[place] = (low, needed - low - size)
    if not all(isinstance(d, int) and d >= 0 for pair in borders for d in pair):
        return None
    line, bytes_ = max(spatial), (pixel + more) * left.source.type.dtype.itemsize
    width = left.source.type.shape[line]
    assert isinstance(width, int)
    low, high = borders[line]
    rest = -(width + low + high) % max(1, LINE // bytes_)
    borders[line] = (low, high + rest)
    copy = bordered(b, left.source, tuple(borders))
    kernel_borders: list[tuple[Dim, Dim]] = [(0, 0)] * right.source.type.ndim
    if axis == 1:
        kernel_borders[right.order[1]] = (0, more)
    kernel_copy = bordered(b, right.source, tuple(kernel_borders))
    arrays = Arranged(copy, left.order), Arranged(kernel_copy, right.order)
    operands = [
        Value(value.type.with_shape(tuple(a.source.type.shape[i] for i in a.order)))
        for value, a in zip(node.inputs, arrays, strict=True)
    ]
    padding = tuple((0, -rest if place == line else 0) for place in spatial)
    wider = Node(node.op, tuple(operands), {**attributes, "padding": padding})
    return WidenedConvolution(wider, *arrays, shape[0])


def _pays(node: Node) -> bool:
    taps = product(node.inputs[1].type.shape[2:])
    places = product(node.output.type.shape[2:])
    size = product(node.inputs[0].type.shape)
    if any(step > 1 for step in node.attributes["lhs_dilation"]):
        return False
    if not (isinstance(taps, int) and isinstance(places, int) and isinstance(size, int)):
        return False
    return min(taps, places) >= WINDOW and size >= LARGE
