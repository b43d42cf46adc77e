"""pixel_shuffle, pixel_unshuffle, channel_shuffle, unfold and fold: elements in other places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.dispatch import tensor_builder
from flamec.functional.pooling import windows_of
from flamec.functional.primitives import ops, require
from flamec.functional.promotion import require_tensor
from flamec.functional.shape import apart_from
from flamec.functional.spatial import per_dimension, require_positive
from flamec.ir.ops.windows import bordered, overlap_add, reach
from flamec.ir.shape import Dim, SymbolicDim, floordiv, format_shape, product
from flamec.tensor import Tensor

__all__ = ["channel_shuffle", "fold", "pixel_shuffle", "pixel_unshuffle", "unfold"]

Numbers = int | Sequence[int]


def _lead(name: str, input: Tensor) -> tuple[Dim, ...]:
    require_tensor(name, "input", input)
    shape = input._type.shape
    require(
        len(shape) >= 3,
        f"{name} expects input to have at least 3 dimensions, but got input with {len(shape)} "
        "dimension(s)",
    )
    return shape[:-3]


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """[*, C * r * r, H, W] as [*, C, H * r, W * r] (Shi et al. 2016)."""
    lead = _lead("pixel_shuffle", input)
    r = int(upscale_factor)
    require(r > 0, f"pixel_shuffle expects a positive upscale_factor, but got {r}")
    channels, height, width = input._type.shape[-3:]
    require(
        isinstance(channels, SymbolicDim) or channels % (r * r) == 0,
        "pixel_shuffle expects its input's 'channel' dimension to be divisible by the square of "
        f"upscale_factor, but input.size(-3)={channels} is not divisible by {r * r}",
    )
    kept = floordiv(channels, r * r)
    n = len(lead)
    x = ops.reshape(input, shape=(*lead, kept, r, r, height, width))
    x = ops.permute(x, axes=(*range(n), n, n + 3, n + 1, n + 4, n + 2))
    return apart_from(input, ops.reshape(x, shape=(*lead, kept, height * r, width * r)))


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """[*, C, H * r, W * r] as [*, C * r * r, H, W]: the inverse of ``pixel_shuffle``."""
    lead = _lead("pixel_unshuffle", input)
    r = int(downscale_factor)
    require(r > 0, f"pixel_unshuffle expects a positive downscale_factor, but got {r}")
    channels, height, width = input._type.shape[-3:]
    for name, size in (("height", height), ("width", width)):
        require(
            isinstance(size, SymbolicDim) or size % r == 0,
            f"pixel_unshuffle expects {name} to be divisible by downscale_factor, but {size} is "
            f"not divisible by {r}",
        )
    rows, columns = floordiv(height, r), floordiv(width, r)
    n = len(lead)
    x = ops.reshape(input, shape=(*lead, channels, rows, r, columns, r))
    x = ops.permute(x, axes=(*range(n), n, n + 2, n + 4, n + 1, n + 3))
    return apart_from(input, ops.reshape(x, shape=(*lead, channels * r * r, rows, columns)))


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Channels [g, c] of dimension 1 in the order [c, g] (Zhang et al. 2018, ShuffleNet)."""
    require_tensor("channel_shuffle", "input", input)
    shape = input._type.shape
    require(
        len(shape) >= 3,
        f"channel_shuffle expects input with > 2 dims, but got input with sizes "
        f"{format_shape(shape)}",
    )
    require(
        groups > 0,
        f"Number of groups to divide channels in must be positive. Value of groups:{groups}",
    )
    channels = shape[1]
    require(
        isinstance(channels, SymbolicDim) or channels % groups == 0,
        f"Number of channels must be divisible by groups. Got {channels} channels and {groups} "
        "groups.",
    )
    apart = ops.reshape(input, shape=(shape[0], groups, floordiv(channels, groups), *shape[2:]))
    apart = ops.permute(apart, axes=(0, 2, 1, *range(3, len(shape) + 1)))
    return apart_from(input, ops.reshape(apart, shape=shape))


def _settings(name: str, **arguments: Any) -> list[tuple[int, ...]]:
    settings = [per_dimension(name, key, value, 2) for key, value in arguments.items()]
    require_positive(
        name, **{k: s for k, s in zip(arguments, settings, strict=True) if k != "padding"}
    )
    return settings


def unfold(
    input: Tensor,
    kernel_size: Numbers,
    dilation: Numbers = 1,
    padding: Numbers = 0,
    stride: Numbers = 1,
) -> Tensor:
    """The windows of [N, C, H, W] as columns: [N, C * kh * kw, number of windows].

    An input without N gives a result without N.
    """
    require_tensor("unfold", "input", input)
    shape = input._type.shape
    require(
        len(shape) in (3, 4),
        "unfold: expected 3D or 4D (batch mode) tensor for input, but got a tensor of size "
        f"{format_shape(shape)}",
    )
    kernel, dilations, borders, steps = _settings(
        "unfold", kernel_size=kernel_size, dilation=dilation, padding=padding, stride=stride
    )
    counts: list[Dim] = []
    for n, k, d, p, s in zip(shape[-2:], kernel, dilations, borders, steps, strict=True):
        room = n + 2 * p - reach(k, d)
        require(
            isinstance(room, SymbolicDim) or room >= 0,
            f"unfold: given input with spatial size {format_shape(shape[-2:])}, "
            f"kernel_size={kernel}, dilation={dilations}, padding={borders}, stride={steps}, the "
            "array of sliding blocks has no elements",
        )
        counts.append(floordiv(room, s) + 1)
    view = windows_of(input, 0, kernel, steps, borders, dilations, counts)
    n = len(shape) - 2
    view = ops.permute(view, axes=(*range(n), n + 2, n + 3, n, n + 1))
    rows = product((shape[-3], *kernel))
    return apart_from(input, ops.reshape(view, shape=(*shape[:-3], rows, product(counts))))


def fold(
    input: Tensor,
    output_size: Numbers,
    kernel_size: Numbers,
    dilation: Numbers = 1,
    padding: Numbers = 0,
    stride: Numbers = 1,
) -> Tensor:
    """Columns [N, C * kh * kw, windows] added up in [N, C, *output_size]: ``unfold`` transposed."""
    require_tensor("fold", "input", input)
    shape = input._type.shape
    require(
        len(shape) in (2, 3),
        f"fold: expected 2D (unbatched) or 3D (batched) tensor for input with a dimension of "
        f"columns, but got input of size {format_shape(shape)}",
    )
    sizes = per_dimension("fold", "output_size", output_size, 2)
    kernel, dilations, borders, steps = _settings(
        "fold", kernel_size=kernel_size, dilation=dilation, padding=padding, stride=stride
    )
    elements = int(product(kernel))
    counts = [
        (n + 2 * p - reach(k, d)) // s + 1
        for n, k, d, p, s in zip(sizes, kernel, dilations, borders, steps, strict=True)
    ]
    rows, columns = shape[-2:]
    require(
        isinstance(rows, SymbolicDim) or rows % elements == 0,
        f"fold: expected size of input's dimension {len(shape) - 2} to be divisible by the product "
        f"of kernel_size, but got input.size({len(shape) - 2})={rows} and kernel_size={kernel}",
    )
    require(
        all(isinstance(c, SymbolicDim) or c > 0 for c in counts)
        and (isinstance(columns, SymbolicDim) or columns == product(counts)),
        f"fold: given output_size={sizes}, kernel_size={kernel}, dilation={dilations}, "
        f"padding={borders}, stride={steps}, expected size of input's dimension "
        f"{len(shape) - 1} to match the calculated number of sliding blocks "
        f"{' * '.join(map(str, counts))}, but got {columns}",
    )
    lead = (*shape[:-2], floordiv(rows, elements))
    n = len(lead)
    x: Any = ops.reshape(input, shape=(*lead, *kernel, *counts))
    x = ops.permute(x, axes=(*range(n), n + 2, n + 3, n, n + 1))  # [*, counts, kernel]
    b = tensor_builder
    for i in (1, 0):
        x = overlap_add(b, x, n + i, n + 2 + i, steps[i], dilations[i])
        extent = b.type_of(x).shape[n + i]
        border: list[tuple[Dim, Dim]] = [(0, 0)] * len(b.type_of(x).shape)
        border[n + i] = (-borders[i], sizes[i] + borders[i] - extent)
        x = bordered(b, x, tuple(border))
    return apart_from(input, x)
