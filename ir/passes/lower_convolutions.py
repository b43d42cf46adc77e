"""Convolutions as products of windows, with arrays kept in the order that products leave.

In: any graph. Out: one without ``convolution``. A convolution becomes a ``dot_general`` of the
windows of its left operand, whose channels are brought last, and leaves its result with the
channels last. ``MovePermutations`` carries that order through the operations between
convolutions, so that an array is not rearranged from layer to layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import OpKind
from flamec.ir.ops.contraction import free_axes
from flamec.ir.ops.view import inverse_permutation
from flamec.ir.ops.windows import bordered, reach, spread
from flamec.ir.passes.move_permutations import Arranged, MovePermutations
from flamec.ir.shape import Dim, floordiv

Axes = tuple[int, ...]


def lower_convolutions(graph: Graph) -> Graph:
    """The graph without convolutions; itself if it has none."""
    if not any(node.op.kind is OpKind.CONVOLUTION for node in graph.nodes):
        return graph
    return _ConvolutionLowering(graph).run()


class _ConvolutionLowering(MovePermutations):
    """Permutations start at convolutions."""

    def start(self, node: Node) -> Arranged | None:
        if node.op.kind is not OpKind.CONVOLUTION:
            return None
        return _lowered(
            self.builder, node, self.channels_last(node.inputs[0]), self.origin(node.inputs[1])
        )

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
        """The same with the second dimension of what lies in memory brought to the end."""
        source = value
        while source not in self.arranged and source.node is not None and _is_permute(source.node):
            source = source.node.inputs[0]
        found = self.origin(value)
        if source in self.arranged:
            return found
        rank = value.type.ndim
        axes = (0, *range(2, rank), 1)
        moved = inverse_permutation(axes)
        return Arranged(
            self.builder.permute(found.source, axes=axes), tuple(moved[a] for a in found.order)
        )


def _is_permute(node: Node) -> bool:
    return node.op.name == "permute"


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
    # the windows stand in memory in one order for all products that read them
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
        swapped[axis] = _is_longer(size, count)
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


def _is_longer(size: Dim, count: Dim) -> bool:
    if isinstance(count, int):
        return not isinstance(size, int) or size > count
    return False


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
