"""Convolutions as products of windows, with arrays kept in the order that products leave.

In: any graph. Out: one without ``convolution``. A convolution becomes a ``dot_general`` of the
windows of its left operand, whose channels are brought last, and leaves its result with the
channels last. Where the left operand is spread (gradients of strides, transposed convolutions)
no zeros are multiplied: results at equal distances from its elements are a convolution with some
of the kernel's elements, or the kernels that its elements bring are added up, or the operands
exchange their roles. Channels with a kernel each are sums of slices, and their kernels'
gradients are folds. On a CPU arrays that come with channels first are read so; those of few
channels, or of small groups, that go to no other convolution stay so: their rows fill vectors.
``MovePermutations`` carries the order of arrays through the operations between convolutions, so
that none is rearranged from layer to layer.
"""

from __future__ import annotations

from collections import Counter

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import OpKind
from flamec.ir.ops.view import flip, inverse_permutation
from flamec.ir.ops.windows import reach
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
from flamec.ir.passes.spread_convolutions import added_up, by_turns, is_spread
from flamec.ir.passes.window_products import (
    has_places_last,
    kernels_in_rows,
    lowered,
    lowered_in_rows,
)
from flamec.ir.shape import Dim, floordiv, product
from flamec.ir.types import int64

FULL_GROUP = 64  # columns of a product that keep a block busy
MOST_OUTPUTS, FEW_OUTPUTS = 64, 31  # of a group whose places are read in rows
HALF_TILE = 32  # columns of a product, which leave half a tile of a CPU's idle
SHALLOW = 128  # depth of a product that takes no longer than to transpose it
LONG_SUM, SHORT_SUM = 864, 216  # of products for one of them, with few outputs and with many
VECTOR = 16  # elements
TINY_SUM = 40  # products for one of them, for which rows may be of any length
MANY_PLACES = 190  # of an image, which fill vectors whatever their rows
FEW_PLACES = 512  # rows of a product: a channel for each element of a kernel


def lower_convolutions(graph: Graph) -> Graph:
    """The graph without convolutions; itself if it has none."""
    if not any(op.kind is OpKind.CONVOLUTION for op in graph.ops):
        return graph
    return _ConvolutionLowering(graph).run()


class _ConvolutionLowering(MovePermutations):
    """Permutations start at convolutions."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self._read = _led_to_convolutions(graph)
        convolutions = (n for n in graph.nodes if n.op.kind is OpKind.CONVOLUTION)
        self._operands = Counter(_base(value) for n in convolutions for value in n.inputs)

    def start(self, node: Node) -> Arranged | None:
        if node.op.kind is not OpKind.CONVOLUTION:
            return None
        in_rows = all(has_long_rows(node.inputs[0].type, self.origin(v)) for v in node.inputs)
        if has_few_positions(node):
            left, right = (self.plain(v) for v in node.inputs)
            return folds_of_slices(self.builder, node, left, right, in_rows)
        if is_spread(node) and _reads_better_from_kernel(node):
            return self._exchanged(node)
        together = _groups_together(node)
        if together > 1:
            return self._with_larger_groups(node, together)
        if is_depthwise(node):
            left, right = map(self.origin, node.inputs)
            if not has_long_rows(node.output.type, left):
                left = self.channels_last(node.inputs[0])
            found = None
            if is_spread(node) and node.output.type.device.type == "cpu":
                found = by_turns(self.builder, node, left, right, sum_of_slices)
            return found or sum_of_slices(self.builder, node, left, right)
        if in_rows and _is_kernel_of_groups(node):
            left, right = self.plain(node.inputs[0]), self.origin(node.inputs[1])
            return kernels_in_rows(self.builder, node, left, right)
        if self._stays_in_rows(node):
            left, right = map(self.origin, node.inputs)
            if not is_spread(node):
                return lowered_in_rows(self.builder, node, left, right)
            found = by_turns(self.builder, node, left, right, lowered_in_rows)
            if found is not None:
                return found
        left, right = self._as_read(node), self.origin(node.inputs[1])
        if is_spread(node):
            found = by_turns(self.builder, node, left, right, lowered)
            if found is None:
                found = added_up(self.builder, node, left, right)
            if found is not None:
                return found
        wider = with_wider_pixels(self.builder, node, left, right)
        if wider is not None:
            found = lowered(self.builder, wider.node, wider.left, wider.right)
            return _first_of_batch(self.builder, found, wider.batch)
        return lowered(self.builder, node, left, right)

    def _stays_in_rows(self, node: Node) -> bool:
        """Whether the places of an image are best the columns of a product on a CPU: the operand
        comes with channels first, and no convolution reads the result. So it is for a narrow or
        shallow group, which is read where it lies, and for strides of 1x1 kernels, few channels or
        outputs, and more than one group, if no other convolution reads the operand (the gradients
        do)."""
        outputs, channels, *kernel = node.inputs[1].type.shape
        if node.output.type.device.type != "cpu" or node.output in self._read:
            return False
        if any(map(is_longer, kernel, node.output.type.shape[2:])):
            return False
        rows, depth = floordiv(outputs, node.attributes["groups"]), product((channels, *kernel))
        depth = floordiv(depth, product(node.attributes["lhs_dilation"]))  # of a turn
        left = self.origin(node.inputs[0])
        if left.order != tuple(range(len(left.order))):
            return False
        if not _fills_rows(node, rows, depth):
            return False
        if self._operands[_base(node.inputs[0])] == 1 and _fills_vectors(node):
            strided = any(step > 1 for step in node.attributes["strides"])
            small = _is_at_most(rows, HALF_TILE) or _is_at_most(depth, SHALLOW)
            if node.attributes["groups"] > 1 or strided or small:
                return True
        if not _is_at_most(rows, MOST_OUTPUTS) or not _is_at_most(depth, LONG_SUM):
            return False
        return _is_at_most(rows, FEW_OUTPUTS) or _is_at_most(depth, SHORT_SUM)

    def _as_read(self, node: Node) -> Arranged:
        """The left operand with its channels last; on a CPU as it lies if its places are innermost,
        because a product reads single elements of it."""
        value = node.inputs[0]
        found = self.origin(value)
        on_cpu = value.type.device.type == "cpu"
        if on_cpu and node.attributes["groups"] == 1 and has_places_last(found):
            return found
        return self.channels_last(value)

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
        found = lowered(b, larger, left, self.origin(node.inputs[1]))
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
        found = lowered(self.builder, other, self.channels_last(w), self.origin(x))
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


def _base(value: Value) -> Value:
    """What a value is a view of."""
    while value.node is not None and value.node.op.kind is OpKind.VIEW:
        value = value.node.inputs[0]
    return value


def _led_to_convolutions(graph: Graph) -> set[Value]:
    """The values that some convolution is computed from."""
    found: set[Value] = set()
    for node in reversed(graph.nodes):
        if node.op.kind is OpKind.CONVOLUTION or not found.isdisjoint(node.outputs):
            found.update(node.inputs)
    return found


def _is_permute(node: Node) -> bool:
    return node.op.name == "permute"


def _fills_vectors(node: Node) -> bool:
    """Whether the places of an image are many, and are found without picking elements apart."""
    places, taps = product(node.output.type.shape[2:]), product(node.inputs[1].type.shape[2:])
    plain = all(step == 1 for step in node.attributes["strides"]) or taps == 1
    return plain and not is_spread(node) and isinstance(places, int) and places >= MANY_PLACES


def _fills_rows(node: Node, outputs: Dim, depth: Dim) -> bool:
    """Whether the rows of an image leave few lanes of vectors idle, where outputs leave none and
    sums of neighbouring places are not tiny."""
    width, attributes = node.output.type.shape[-1], node.attributes
    if attributes["groups"] > 1 or is_spread(node) or any(n > 1 for n in attributes["strides"]):
        return True
    if product(node.inputs[1].type.shape[2:]) == 1 or not isinstance(width, int):
        return True
    if not isinstance(outputs, int) or outputs % VECTOR or _is_at_most(depth, TINY_SUM):
        return True  # channels would leave lanes idle, too
    idle = -width % VECTOR
    most = width // 5 if _is_at_most(outputs, FEW_OUTPUTS) else width // 10
    return width >= VECTOR - 1 and idle <= most


def _is_kernel_of_groups(node: Node) -> bool:
    """Whether there are fewer places than are summed for one, as for the gradient of a kernel, and
    few outputs of each group."""
    groups, kernel = node.attributes["groups"], node.inputs[1].type.shape
    if groups == 1 or is_spread(node):
        return False
    few = _is_at_most(floordiv(kernel[0], groups), MOST_OUTPUTS)
    return few and all(map(is_longer, kernel[2:], node.output.type.shape[2:]))


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
    if groups == 1 or is_spread(node) or not (isinstance(rows, int) and isinstance(outputs, int)):
        return 1
    depth = product((node.inputs[1].type.shape[1], *node.inputs[1].type.shape[2:]))
    each = outputs // groups
    if rows > FEW_PLACES or _is_at_most(depth, FULL_GROUP * rows):
        return 1
    fitting = (m for m in range(1, groups + 1) if groups % m == 0 and m * each <= FULL_GROUP)
    return max(fitting, default=1)


def _is_at_most(size: Dim, bound: int) -> bool:
    return isinstance(size, int) and size <= bound


def _first_of_batch(b: GraphBuilder, found: Arranged, count: Dim) -> Arranged:
    """A result without the end of its batch."""
    sizes = list(found.source.type.shape)
    sizes[found.order[0]] = count
    starts, steps = (0,) * len(sizes), (1,) * len(sizes)
    if tuple(sizes) == found.source.type.shape:
        return found
    part = b.slice(found.source, starts=starts, sizes=tuple(sizes), steps=steps)
    return Arranged(part, found.order)
