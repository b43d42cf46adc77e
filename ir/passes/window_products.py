"""Convolutions as products of windows and kernels.

In: a ``convolution`` and its operands as they lie in memory. Out: a ``dot_general``, or, where
channels come first and stay there, one for each image and group. The windows are a view, and so is
the kernel: the product reads both where they lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Node, Value
from flamec.ir.ops.contraction import convolution_part, free_axes
from flamec.ir.ops.view import inverse_permutation
from flamec.ir.ops.windows import bordered, reach, spread
from flamec.ir.passes.depthwise_convolutions import is_longer
from flamec.ir.passes.move_permutations import Arranged
from flamec.ir.shape import Dim, floordiv, product, structurally_equal

Axes = tuple[int, ...]

COLLISION = 2048  # bytes between places that are a power of two apart
LINE = 64  # bytes


@dataclass(frozen=True)
class _Windows:
    """The windows of a left operand and where its dimensions are among theirs."""

    value: Value
    batch: int
    channel: int
    positions: Axes
    kernel: Axes


def lowered_in_rows(b: GraphBuilder, node: Node, left: Arranged, right: Arranged) -> Arranged:
    """A convolution of arrays with channels first as a product for each image and group, whose
    columns are the places: its result has channels first, too."""
    groups = node.attributes["groups"]
    windows = _split_channels(b, _windows(b, node, left), groups)
    outputs, channels, *spatial = right.order
    kernel = split(b, right.source, outputs, groups)
    channels, *spatial = (a + (a > outputs) for a in (channels, *spatial))
    count = node.output.type.shape[0]
    kernel = b.reshape(kernel, shape=(1, *kernel.type.shape))
    kernel = b.expand(kernel, shape=(count, *kernel.type.shape[1:]))
    contract = ((channels + 1, *(a + 1 for a in spatial)), (windows.channel, *windows.kernel))
    batch = ((0, outputs + 1), (windows.batch, windows.channel - 1))
    whole = convolution_part(node.output.type)
    result = b.dot_general(kernel, windows.value, contract=contract, batch=batch, **whole)
    free = free_axes(windows.value.type.ndim, contract[1], batch[1])
    result = b.permute(result, axes=(0, 1, 2, *(3 + free.index(a) for a in windows.positions)))
    _, _, each, *positions = result.type.shape
    result = b.reshape(result, shape=(count, groups * each, *positions))
    return Arranged(result, tuple(range(result.type.ndim)))


def kernels_in_rows(b: GraphBuilder, node: Node, left: Value, right: Arranged) -> Arranged:
    """The gradient of a kernel in groups, of arrays with channels first, as a product for each
    group. ``left`` is [channels, groups * images, *]; the result lies as a kernel is stored."""
    groups, shape = node.attributes["groups"], left.type.shape
    images = node.inputs[1].type.shape[1]
    source = b.reshape(left, shape=(shape[0], groups, images, *shape[2:]))
    spatial = range(3, 3 + len(shape[2:]))
    windows = _windows(b, node, Arranged(source, (0, 2, *spatial)))
    outputs, inner, *places = right.order
    gradient = split(b, right.source, outputs, groups)
    inner, *places = (a + (a > outputs) for a in (inner, *places))
    contract = ((inner, *places), (windows.channel, *windows.kernel))
    batch = ((outputs,), (windows.batch + 1,))
    whole = convolution_part(node.output.type)
    result = b.dot_general(gradient, windows.value, contract=contract, batch=batch, **whole)
    _, each, *rest = result.type.shape
    result = b.reshape(result, shape=(groups * each, *rest))
    return Arranged(result, (1, 0, *range(2, len(shape))))


def lowered(b: GraphBuilder, node: Node, left: Arranged, right: Arranged) -> Arranged:
    windows = _windows(b, node, left)
    groups = node.attributes["groups"]
    if node.output.type.device.type == "cpu" and groups == 1 and _is_shallow(node):
        windows = _batch_outermost(b, windows)
    outputs, channels, *spatial = right.order
    kernel = right.source
    grouped: tuple[Axes, Axes] = ((), ())
    if groups > 1:
        windows = _split_channels(b, windows, groups)
        kernel = split(b, kernel, outputs, groups)
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
    whole = convolution_part(node.output.type)
    result = b.dot_general(*operands, contract=contract[turn], batch=grouped[turn], **whole)
    start = len(grouped[0]) + int(first)
    place = {axis: start + i for i, axis in enumerate(free)}
    output = len(grouped[0]) if first else start + len(free)
    rest = [place[windows.batch], *(place[a] for a in windows.positions)]
    if groups > 1:
        result, rest, output = _merge_channels(b, result, rest, output)
    return Arranged(result, (rest[0], output, *rest[1:]))


def has_places_last(array: Arranged) -> bool:
    """Whether the spatial dimensions are the innermost of what lies in memory, in order."""
    return array.order[2:] == tuple(range(2, len(array.order)))


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
    borders: list[tuple[Dim, Dim]] = [(0, 0)] * source.type.ndim
    entries: dict[int, tuple[Dim, Dim, int, int]] = {}
    swapped: dict[int, bool] = {}
    kernel_shape = node.inputs[1].type.shape
    for n, axis in enumerate(spatial):
        count, size = shape[2 + n], kernel_shape[2 + n]
        step, dilation = attributes["strides"][n], attributes["rhs_dilation"][n]
        low, behind = attributes["padding"][n]
        needed = reach(count, step) + reach(size, dilation) - 1
        high = needed - low - source.type.shape[axis]
        if not isinstance(high, int) and isinstance(behind, int):
            high = behind  # of which the last window may leave a rest, which is harmless
        elif not isinstance(high, int):  # its sign may depend on sizes
            high = high + (step - 1) + (dilation - 1)
        borders[axis] = (low, high)
        # positions and elements of windows may change roles: as the first product had them
        swapped[axis] = is_longer(size, count)
        entry = (count, size, step, dilation)
        entries[axis] = (size, count, dilation, step) if swapped[axis] else entry
    source = _apart(b, source, borders, tuple(spatial))
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


def _apart(b: GraphBuilder, x: Value, borders: list[tuple[Dim, Dim]], spatial: Axes) -> Any:
    """``x`` with its borders. Where places are copied for them anyway, and would lie a multiple of
    COLLISION bytes apart, each gets one more line: neighbours would compete for few sets of a
    cache."""
    last = x.type.ndim - 1
    size, itemsize = x.type.shape[last], x.type.dtype.itemsize
    copied = not all(structurally_equal(d, 0) for pair in borders for d in pair)
    on_cpu = x.type.device.type == "cpu" and last not in spatial
    if not (copied and on_cpu and isinstance(size, int) and size * itemsize % COLLISION == 0):
        return bordered(b, x, tuple(borders))
    wide = bordered(b, x, (*borders[:last], (0, LINE // itemsize)))
    sizes = (*wide.type.shape[:last], size)
    return b.slice(wide, starts=(0,) * len(sizes), sizes=sizes, steps=(1,) * len(sizes))


def split(b: GraphBuilder, x: Value, axis: int, groups: int) -> Any:
    shape = x.type.shape
    apart = (groups, floordiv(shape[axis], groups))
    return b.reshape(x, shape=(*shape[:axis], *apart, *shape[axis + 1 :]))


def _split_channels(b: GraphBuilder, windows: _Windows, groups: int) -> _Windows:
    channel = windows.channel

    def moved(axis: int) -> int:
        return axis + (axis > channel)

    return _Windows(
        split(b, windows.value, channel, groups),
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
