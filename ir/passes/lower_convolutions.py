"""Convolutions as products of windows, with arrays kept in the order that products leave.

In: any graph. Out: one without ``convolution``. A convolution becomes a ``dot_general`` of the
windows of its left operand, whose channels are brought last, and leaves its result with the
channels last. Where the left operand is spread (gradients of strides, transposed convolutions)
no zeros are multiplied: results at equal distances from its elements are a convolution with some
of the kernel's elements, or the kernels that its elements bring are added up, or the operands
exchange their roles. Channels with a kernel each are sums of slices, and their kernels'
gradients are folds. ``MovePermutations`` carries that order through the operations between
convolutions, so that an array is not rearranged from layer to layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product as product_of_ranges
from math import gcd
from typing import Any

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import OpKind
from flamec.ir.ops.contraction import free_axes
from flamec.ir.ops.view import flip, inverse_permutation
from flamec.ir.ops.windows import bordered, overlap_add, reach, spread
from flamec.ir.passes.depthwise_convolutions import (
    folds_of_slices,
    has_few_positions,
    has_long_rows,
    is_depthwise,
    is_longer,
    sum_of_slices,
)
from flamec.ir.passes.few_channels import with_wider_pixels
from flamec.ir.passes.move_permutations import Arranged, MovePermutations
from flamec.ir.shape import Dim, floordiv, product
from flamec.ir.types import int64

Axes = tuple[int, ...]

FULL_GROUP = 64  # columns of a product that keep a block busy
FEW_PLACES = 512  # rows of a product: a channel for each element of a kernel


def lower_convolutions(graph: Graph) -> Graph:
    """The graph without convolutions; itself if it has none."""
    if not any(op.kind is OpKind.CONVOLUTION for op in graph.ops):
        return graph
    return _ConvolutionLowering(graph).run()


class _ConvolutionLowering(MovePermutations):
    """Permutations start at convolutions."""

    def start(self, node: Node) -> Arranged | None:
        if node.op.kind is not OpKind.CONVOLUTION:
            return None
        if has_few_positions(node):
            in_rows = all(has_long_rows(node.inputs[0].type, self.origin(v)) for v in node.inputs)
            left, right = (self.plain(v) for v in node.inputs)
            return folds_of_slices(self.builder, node, left, right, in_rows)
        if _is_spread(node) and _reads_better_from_kernel(node):
            return self._exchanged(node)
        together = _groups_together(node)
        if together > 1:
            return self._with_larger_groups(node, together)
        if is_depthwise(node):
            left, right = map(self.origin, node.inputs)
            if not has_long_rows(node.output.type, left):
                left = self.channels_last(node.inputs[0])
            found = None
            if _is_spread(node) and node.output.type.device.type == "cpu":
                found = _by_turns(self.builder, node, left, right, sum_of_slices)
            return found or sum_of_slices(self.builder, node, left, right)
        left, right = self.channels_last(node.inputs[0]), self.origin(node.inputs[1])
        if _is_spread(node):
            found = _by_turns(self.builder, node, left, right, _lowered)
            if found is None:
                found = _added_up(self.builder, node, left, right)
            if found is not None:
                return found
        wider = with_wider_pixels(self.builder, node, left, right)
        if wider is not None:
            found = _lowered(self.builder, wider.node, wider.left, wider.right)
            return _first_of_batch(self.builder, found, wider.batch)
        return _lowered(self.builder, node, left, right)

    def _with_larger_groups(self, node: Node, together: int) -> Arranged:
        """A convolution whose groups give few numbers each, as one with larger groups that gives
        the products of different groups, too, which are left out. [n, groups * c, *] becomes
        [together * n, groups / together * c, *]."""
        b, attributes = self.builder, node.attributes
        shape, spatial = node.inputs[0].type.shape, node.inputs[0].type.shape[2:]
        outputs, kernel = node.output.type.shape[1], node.output.type.shape[2:]
        groups = attributes["groups"] // together
        channels = node.inputs[1].type.shape[1]
        last = range(4, 4 + len(spatial))
        x = self.plain(node.inputs[0])
        x = b.reshape(x, shape=(shape[0], groups, together, channels, *spatial))
        x = b.permute(x, axes=(2, 0, 1, 3, *last))
        x = b.reshape(x, shape=(together * shape[0], groups * channels, *spatial))
        type = node.inputs[0].type.with_shape(x.type.shape)
        larger = Node(node.op, (Value(type), node.inputs[1]), {**attributes, "groups": groups})
        rank = len(shape)
        # what lies next to each other in memory is last
        axes = (*range(1, rank), 0)
        left = Arranged(b.permute(x, axes=axes), inverse_permutation(axes))
        found = _lowered(b, larger, left, self.origin(node.inputs[1]))
        result = b.permute(found.source, axes=found.order)
        each = floordiv(outputs, groups * together)
        result = b.reshape(result, shape=(together, shape[0], groups, together, each, *kernel))
        size = {"dtype": int64, "device": x.type.device}
        first, second = (b.iota(shape=(together,), axis=0, **size) for _ in range(2))
        first = b.reshape(first, shape=(together, *(1,) * (result.type.ndim - 1)))
        second = b.reshape(second, shape=(together, *(1,) * (1 + len(kernel))))
        same = b.expand_to(b.eq(first, second), result.type.shape)
        result = b.where(same, result, b.full_like(0, result.type))
        result = b.sum(result, axes=(0,))
        return Arranged(
            b.reshape(result, shape=node.output.type.shape), tuple(range(node.output.type.ndim))
        )

    def _exchanged(self, node: Node) -> Arranged:
        """The convolution with its operands exchanged, whose result is mirrored.

        What was spread on the left is a dilation on the right, where it costs nothing.
        """
        x, w = node.inputs
        attributes = node.attributes
        padding = []
        for n, size in enumerate(node.output.type.shape[2:]):
            step, spread_ = attributes["strides"][n], attributes["lhs_dilation"][n]
            low = (size - 1) * step - attributes["padding"][n][0]
            needed = reach(x.type.shape[2 + n], spread_) + reach(size, step) - 1
            padding.append((low, needed - low - w.type.shape[2 + n]))
        other = Node(
            node.op,
            (w, x),
            {
                **attributes,
                "padding": tuple(padding),
                "lhs_dilation": attributes["rhs_dilation"],
                "rhs_dilation": attributes["lhs_dilation"],
            },
        )
        found = _lowered(self.builder, other, self.channels_last(w), self.origin(x))
        source = found.source
        for axis in found.order[2:]:
            source = flip(self.builder, source, axis)
        first, second, *spatial = found.order
        return Arranged(source, (second, first, *spatial))

    def origin(self, value: Value) -> Arranged:
        """A value as a permutation of one that lies in memory."""
        order = tuple(range(value.type.ndim))
        while value not in self.arranged and value.node is not None and _is_permute(value.node):
            axes = value.node.attributes["axes"]
            order = tuple(axes[a] for a in order)
            value = value.node.inputs[0]
        found = self.arranged.get(value)
        if found is None:
            return Arranged(self.plain(value), order)
        return Arranged(found.source, tuple(found.order[a] for a in order))

    def channels_last(self, value: Value) -> Arranged:
        """The same with the second dimension of what lies in memory brought to the end, unless
        what is there is no place already."""
        source = value
        while source not in self.arranged and source.node is not None and _is_permute(source.node):
            source = source.node.inputs[0]
        found = self.origin(value)
        rank = value.type.ndim
        if source in self.arranged or rank - 1 not in found.order[2:]:
            return found
        axes = (0, *range(2, rank), 1)
        moved = inverse_permutation(axes)
        return Arranged(
            self.builder.permute(found.source, axes=axes), tuple(moved[a] for a in found.order)
        )


def _is_permute(node: Node) -> bool:
    return node.op.name == "permute"


def _is_spread(node: Node) -> bool:
    """Whether zeros stand between the elements of the left operand."""
    return any(step > 1 for step in node.attributes["lhs_dilation"])


def _reads_better_from_kernel(node: Node) -> bool:
    """Whether the right operand is the long one, as for the gradient of a transposed kernel."""
    attributes = node.attributes
    if attributes["groups"] > 1 or any(step > 1 for step in attributes["rhs_dilation"]):
        return False
    return all(map(is_longer, node.inputs[1].type.shape[2:], node.output.type.shape[2:]))


def _groups_together(node: Node) -> int:
    """How many groups are worth one product: where each gives few rows and columns (the gradient
    of a kernel), most of a block of a GPU would be idle."""
    if node.output.type.device.type != "cuda":
        return 1
    attributes, shape = node.attributes, node.output.type.shape
    groups, outputs = attributes["groups"], shape[1]
    rows = product((shape[0], *shape[2:]))
    if groups == 1 or _is_spread(node) or not (isinstance(rows, int) and isinstance(outputs, int)):
        return 1
    depth = product((node.inputs[1].type.shape[1], *node.inputs[1].type.shape[2:]))
    each = outputs // groups
    if rows > FEW_PLACES or _is_at_most(depth, FULL_GROUP * rows):
        return 1
    fitting = (m for m in range(1, groups + 1) if groups % m == 0 and m * each <= FULL_GROUP)
    return max(fitting, default=1)


def _is_at_most(size: Dim, bound: int) -> bool:
    return isinstance(size, int) and size <= bound


Lower = Callable[[GraphBuilder, Node, Arranged, Arranged], Arranged]


def _by_turns(
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
    if all(size <= s for size, s in zip(extents, spreads, strict=True)):  # type: ignore[operator]
        return None
    pieces: list[Arranged | None] = []
    shapes = []
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
        if not (all(counts) and all(taken)):
            pieces.append(None)
            continue
        some = _some_elements(b, right, starts, taken, spreads)
        type = node.inputs[1].type.with_shape((*node.inputs[1].type.shape[:2], *taken))
        inner = {**attributes, "lhs_dilation": (1,) * len(sizes), "padding": tuple(padding)}
        part = Node(node.op, (node.inputs[0], Value(type)), inner)
        pieces.append(lower(b, part, left, some))
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


def _added_up(b: GraphBuilder, node: Node, left: Arranged, right: Arranged) -> Arranged | None:
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
        source = _split(b, source, channel, groups)
        kernel = _split(b, kernel, kernel.type.ndim - 1, groups)
        grouped = ((channel,), (kernel.type.ndim - 2,))
        contract = ((channel + 1,), (0,))
    result = b.dot_general(source, kernel, contract=contract, batch=grouped)
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


@dataclass(frozen=True)
class _Windows:
    """The windows of a left operand and where its dimensions are among theirs."""

    value: Value
    batch: int
    channel: int
    positions: Axes
    kernel: Axes


def _lowered(b: GraphBuilder, node: Node, left: Arranged, right: Arranged) -> Arranged:
    windows = _windows(b, node, left)
    groups = node.attributes["groups"]
    if node.output.type.device.type == "cpu" and groups == 1 and _is_shallow(node):
        windows = _batch_outermost(b, windows)
    outputs, channels, *spatial = right.order
    kernel = right.source
    grouped: tuple[Axes, Axes] = ((), ())
    if groups > 1:
        windows = _split_channels(b, windows, groups)
        kernel = _split(b, kernel, outputs, groups)
        grouped = ((windows.channel - 1,), (outputs,))
        channels, *spatial = (a + (a > outputs) for a in (channels, *spatial))
        outputs += 1
    pairs = sorted(zip((windows.channel, *windows.kernel), (channels, *spatial), strict=True))
    contract = (tuple(i for i, _ in pairs), tuple(j for _, j in pairs))
    free = free_axes(windows.value.type.ndim, contract[0], grouped[0])
    # the windows in one order for all products: where they are copied, they are copied once
    first = contract[0][0] < free[0] if free else False
    operands = (kernel, windows.value) if first else (windows.value, kernel)
    turn = slice(None, None, -1 if first else 1)
    result = b.dot_general(*operands, contract=contract[turn], batch=grouped[turn])
    start = len(grouped[0]) + int(first)
    place = {axis: start + i for i, axis in enumerate(free)}
    output = len(grouped[0]) if first else start + len(free)
    rest = [place[windows.batch], *(place[a] for a in windows.positions)]
    if groups > 1:
        result, rest, output = _merge_channels(b, result, rest, output)
    return Arranged(result, (rest[0], output, *rest[1:]))


def _first_of_batch(b: GraphBuilder, found: Arranged, count: Dim) -> Arranged:
    """A result without the end of its batch."""
    sizes = list(found.source.type.shape)
    sizes[found.order[0]] = count
    starts, steps = (0,) * len(sizes), (1,) * len(sizes)
    if tuple(sizes) == found.source.type.shape:
        return found
    part = b.slice(found.source, starts=starts, sizes=tuple(sizes), steps=steps)
    return Arranged(part, found.order)


def _is_shallow(node: Node) -> bool:
    """Whether a kernel has more outputs than elements for each: as for the gradient of a kernel
    from few places. Then it takes longer to put a result in order than to find the windows."""
    outputs, *inner = node.inputs[1].type.shape
    depth = product(inner)
    return isinstance(outputs, int) and isinstance(depth, int) and depth < outputs


def _batch_outermost(b: GraphBuilder, windows: _Windows) -> _Windows:
    """The same windows with their batch before the positions: the order of the result."""
    batch, first = windows.batch, min(windows.positions)
    if batch < first:
        return windows
    axes = list(range(windows.value.type.ndim))
    axes.insert(first, axes.pop(batch))
    place = inverse_permutation(tuple(axes))
    return _Windows(
        b.permute(windows.value, axes=tuple(axes)),
        first,
        place[windows.channel],
        tuple(place[a] for a in windows.positions),
        tuple(place[a] for a in windows.kernel),
    )


def _windows(b: GraphBuilder, node: Node, left: Arranged) -> _Windows:
    attributes, shape = node.attributes, node.output.type.shape
    batch, channel, *spatial = left.order
    source = spread(b, left.source, tuple(spatial), attributes["lhs_dilation"])
    borders: list[tuple[Dim, Dim]] = [(0, 0)] * len(left.order)
    entries: dict[int, tuple[Dim, Dim, int, int]] = {}
    swapped: dict[int, bool] = {}
    kernel_shape = node.inputs[1].type.shape
    for n, axis in enumerate(spatial):
        count, size = shape[2 + n], kernel_shape[2 + n]
        step, dilation = attributes["strides"][n], attributes["rhs_dilation"][n]
        low = attributes["padding"][n][0]
        needed = reach(count, step) + reach(size, dilation) - 1
        high = needed - low - source.type.shape[axis]
        if not isinstance(high, int):  # its sign may depend on sizes; more than needed is harmless
            high = high + (step - 1) + (dilation - 1)
        borders[axis] = (low, high)
        # positions and elements of windows may change roles: as the first product had them
        swapped[axis] = is_longer(size, count)
        entry = (count, size, step, dilation)
        entries[axis] = (size, count, dilation, step) if swapped[axis] else entry
    source = bordered(b, source, tuple(borders))
    axes = tuple(sorted(spatial))
    last, added = axes[-1], len(axes)
    value = b.windows(
        source,
        axes=axes,
        **{
            name: tuple(entries[a][i] for a in axes)
            for i, name in enumerate(("counts", "sizes", "steps", "dilations"))
        },
    )
    inner = {a: last + 1 + i for i, a in enumerate(axes)}
    positions = tuple(inner[a] if swapped[a] else a for a in spatial)
    kernel = tuple(a if swapped[a] else inner[a] for a in spatial)
    batch, channel = (a + (added if a > last else 0) for a in (batch, channel))
    return _Windows(value, batch, channel, positions, kernel)


def _split(b: GraphBuilder, x: Value, axis: int, groups: int) -> Any:
    shape = x.type.shape
    apart = (groups, floordiv(shape[axis], groups))
    return b.reshape(x, shape=(*shape[:axis], *apart, *shape[axis + 1 :]))


def _split_channels(b: GraphBuilder, windows: _Windows, groups: int) -> _Windows:
    channel = windows.channel

    def moved(axis: int) -> int:
        return axis + (axis > channel)

    return _Windows(
        _split(b, windows.value, channel, groups),
        moved(windows.batch),
        channel + 1,
        tuple(map(moved, windows.positions)),
        tuple(map(moved, windows.kernel)),
    )


def _merge_channels(
    b: GraphBuilder, result: Value, rest: list[int], output: int
) -> tuple[Any, list[int], int]:
    """The groups, which are dimension 0, put before the outputs of each, both last."""
    middle = [a for a in range(1, result.type.ndim) if a != output]
    arranged = b.permute(result, axes=(*middle, 0, output))
    *lead, groups, outputs = arranged.type.shape
    merged = b.reshape(arranged, shape=(*lead, groups * outputs))
    return merged, [middle.index(a) for a in rest], len(lead)
