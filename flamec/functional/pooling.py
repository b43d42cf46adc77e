"""Pooling over windows: the largest, the mean, the p-norm; and adaptive pooling.

Windows are views. The largest element of a window is found by comparisons one after the
other; its derivative goes to the place that was found, the first of equals, as in PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from flamec.dispatch import apply_named
from flamec.functional.arguments import public
from flamec.functional.arithmetic import div, pow
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.primitives import (
    is_empty_size,
    narrowed,
    ops,
    reduce_kept,
    require,
    require_floating,
    widened,
)
from flamec.functional.promotion import require_tensor
from flamec.functional.selected_elements import plain, with_selected_gradient, with_summed_gradient
from flamec.functional.spatial import (
    batched,
    per_dimension,
    require_positive,
    slices,
    unbatched,
)
from flamec.fusing import fused
from flamec.ir.ops.windows import reach
from flamec.ir.shape import (
    Dim,
    SymbolicDim,
    floordiv,
    format_shape,
    has_symbols,
    less,
    product,
    structurally_equal,
)
from flamec.ir.types import DType, int32, int64
from flamec.state import thread
from flamec.tensor import Tensor

Numbers = int | Sequence[int]
Ints = tuple[int, ...]

MOST_COMPARED = 64  # elements of a window up to which it is compared element by element


def _counts(
    name: str, sizes: Sequence[Dim], kernel: Ints, stride: Ints, padding: Ints, dilation: Ints,
    ceil_mode: bool,
) -> tuple[Dim, ...]:  # fmt: skip
    """How many windows there are; with ``ceil_mode`` also those that go beyond the border.

    The last window must start inside the input or the border before it.
    """
    counts: list[Dim] = []
    for n, k, s, p, d in zip(sizes, kernel, stride, padding, dilation, strict=True):
        require(
            2 * p <= k if d == 1 else 2 * p <= reach(k, d),
            f"{name}: pad should be at most half of effective kernel size, but got padding "
            f"{padding} for kernel size {kernel}",
        )
        room = n + 2 * p - reach(k, d) + (s - 1 if ceil_mode else 0)
        count = floordiv(room, s) + 1
        if ceil_mode and not less((count - 1) * s, n + p):
            count = count - 1
        require(
            less(0, count),
            f"{name}: given input size {format_shape(sizes)}, the calculated output size is too "
            "small",
        )
        counts.append(count)
    return tuple(counts)


def windows_of(
    x: Tensor, fill: Any, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints,
    counts: Sequence[Dim], detached: bool = False,
) -> Tensor:  # fmt: skip
    """[N, C, *counts, *kernel]: windows over the spatial dimensions, in a border of ``fill``.

    ``detached``: they have no derivative, for which a border of symbolic size would have to be at
    least a step wide.
    """
    shape, lead = x._type.shape, len(x._type.shape) - len(kernel)
    low: list[Dim] = [0] * lead
    high: list[Dim] = [0] * lead
    for n, k, s, p, d, count in zip(
        shape[lead:], kernel, stride, padding, dilation, counts, strict=True
    ):
        missing = reach(count, s) + reach(k, d) - 1 - p - n
        low.append(p)
        if isinstance(missing, SymbolicDim):  # more than -s; more does no harm
            inside = floordiv(n + 2 * p - reach(k, d), s) + 1  # what ceil_mode has not
            exact = detached and structurally_equal(count, inside)
            missing = p if exact else missing + s
        high.append(max(missing, 0) if isinstance(missing, int) else missing)
    if any(not isinstance(d, int) or d for d in (*low, *high)):
        x = ops.pad(x, fill, low=tuple(low), high=tuple(high))
    return ops.windows(
        x,
        axes=tuple(range(lead, len(shape))),
        counts=tuple(counts),
        sizes=kernel,
        steps=stride,
        dilations=dilation,
    )


def _settings(
    name: str, count: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any = 1
) -> tuple[Ints, Ints, Ints, Ints]:
    kernel = per_dimension(name, "kernel_size", kernel_size, count)
    absent = stride is None or (isinstance(stride, (tuple, list)) and not stride)
    steps = kernel if absent else per_dimension(name, "stride", stride, count)
    borders = per_dimension(name, "padding", padding, count)
    dilations = per_dimension(name, "dilation", dilation, count)
    require_positive(name, kernel_size=kernel, stride=steps, dilation=dilations)
    require(all(p >= 0 for p in borders), f"{name}: pad must be non-negative, but got {borders}")
    return kernel, steps, borders, dilations


# the largest element ---------------------------------------------------------------------
def _smallest(x: Tensor) -> Any:
    dtype = x._type.dtype
    return -np.inf if dtype.is_floating_point else int(np.iinfo(dtype.numpy).min)


def _is_recorded(x: Tensor) -> bool:
    """Whether a derivative may be asked for; a trace decides later what it needs."""
    return thread.trace is not None or (thread.grad_enabled and x.requires_grad)


def _line(x: Tensor, count: Dim, place: int, rank: int) -> Tensor:
    """0, 1, … along dimension ``place`` of ``rank``."""
    shape = tuple(count if i == place else 1 for i in range(rank))
    return ops.iota(shape=shape, axis=place, dtype=int32, device=x._type.device)


def largest(view: Tensor, spatial: int, start: Tensor | int, fill: Any) -> tuple[Tensor, Tensor]:
    """The largest element of each window and its number in the window, int32.

    ``start``: the number that counts where no element is larger than ``fill``.
    """
    shape = view._type.shape
    outer, kernel = shape[: len(shape) - spatial], shape[len(shape) - spatial :]
    elements = product(kernel)
    if isinstance(elements, SymbolicDim) or elements > MOST_COMPARED:
        return _largest_by_folds(view, spatial, start)
    best: Any = None
    number: Any = start
    for position, place in enumerate(np.ndindex(*map(int, kernel))):
        element = slices(view, (*(0,) * len(outer), *place), (*outer, *(1,) * spatial))
        element = ops.reshape(element, shape=outer)
        if best is None:
            best = ops.maximum(element, fill)
            if not isinstance(number, Tensor):
                number = ops.full(value=number, shape=outer, dtype=int32, device=view._type.device)
                continue
            better = _exceeds(element, fill)
        else:
            better = _exceeds(element, best)
            best = ops.where(better, element, best)
        number = ops.where(better, ops.full(
            value=position, shape=(), dtype=int32, device=view._type.device
        ), number)  # fmt: skip
    return best, number


def _exceeds(element: Tensor, best: Any) -> Tensor:
    """Greater, or NaN."""
    greater = ops.gt(element, best)
    if not element._type.dtype.is_floating_point:
        return greater
    return ops.bitwise_or(greater, ops.ne(element, element))


def _largest_by_folds(view: Tensor, spatial: int, start: Tensor | int) -> tuple[Tensor, Tensor]:
    shape = view._type.shape
    axes = tuple(range(len(shape) - spatial, len(shape)))
    best = ops.amax(view, axes=axes)
    wide = ops.reshape(best, shape=(*best._type.shape, *(1,) * spatial))
    numbers = _numbers(view, spatial)
    elements = product(shape[a] for a in axes)
    first = ops.amin(ops.where(ops.eq(view, wide), numbers, elements), axes=axes)
    if view._type.dtype.is_floating_point:
        last = ops.amax(ops.where(ops.ne(view, view), numbers, -1), axes=axes)
        first = ops.where(ops.ge(last, 0), last, first)
    if isinstance(start, Tensor):
        none = ops.eq(best, _smallest(view))
        first = ops.where(none, ops.maximum(first, start), first)
    return best, first


def _numbers(view: Tensor, spatial: int) -> Tensor:
    """The number of each element in its window, of the shape [1, …, *kernel]."""
    shape = view._type.shape
    lead = len(shape) - spatial
    flat = ops.iota(shape=(product(shape[lead:]),), axis=0, dtype=int32, device=view._type.device)
    return ops.reshape(flat, shape=(*(1,) * lead, *shape[lead:]))


def _max_pool(
    name: str, spatial: int, input: Tensor, kernel_size: Any, stride: Any, padding: Any,
    dilation: Any, ceil_mode: bool, return_indices: bool,
) -> Any:  # fmt: skip
    x, single = batched(name, input, spatial)
    kernel, steps, borders, dilations = _settings(
        name, spatial, kernel_size, stride, padding, dilation
    )
    shape = x._type.shape
    _require_elements(name, input, spatial)
    steps = _needed_steps(shape[2:], kernel, steps, borders, dilations)
    fill = _smallest(x)
    if _are_whole(shape[2:], kernel, borders, dilations):
        result, number = _selected_of_all(x, spatial, fill)
        if not return_indices:
            return unbatched(result, single)
        return unbatched(result, single), unbatched(ops.cast(number, int64), single)
    counts = _counts(name, shape[2:], kernel, steps, borders, dilations, ceil_mode)
    origins = [
        ops.sub(ops.mul(_line(x, count, 2 + n, 2 + spatial), steps[n]), borders[n])
        for n, count in enumerate(counts)
    ]
    start: Tensor | int = 0
    if any(borders):  # the first place of a window that is not in the border
        start = row_major([
            ops.maximum(ops.floor_divide(ops.sub(dilations[n] - 1, o), dilations[n]), 0)
            for n, o in enumerate(origins)
        ], kernel)  # fmt: skip
        start = ops.expand(start, shape=(*shape[:2], *counts))
    window = (kernel, steps, borders, dilations, counts)
    result, number = selected(x, fill, start, window)
    if not return_indices:
        return unbatched(result, single)
    places: list[Tensor] = []
    rest = number
    for n in reversed(range(spatial)):
        inside = ops.fmod(rest, kernel[n])
        rest = ops.floor_divide(rest, kernel[n])
        places.insert(0, ops.add(origins[n], ops.mul(inside, dilations[n])))
    flat = row_major([ops.cast(p, int64) for p in places], shape[2:])
    return unbatched(result, single), unbatched(flat, single)


def _needed_steps(
    sizes: Sequence[Dim], kernel: Ints, steps: Ints, borders: Ints, dilations: Ints
) -> Ints:
    """The steps, 1 where there is one window, whose size is symbolic."""
    axes = zip(sizes, kernel, steps, borders, dilations, strict=True)
    return tuple([1 if _are_whole([n], [k], (p,), (d,)) else s for n, k, s, p, d in axes])


def _are_whole(sizes: Sequence[Dim], kernel: Sequence[Dim], borders: Ints, dilations: Ints) -> bool:
    """Whether there is one window, the whole plane, whose size is symbolic."""
    plain = not any(borders) and all(d == 1 for d in dilations)
    return plain and has_symbols(kernel) and all(map(structurally_equal, kernel, sizes))


def _selected_of_all(x: Tensor, spatial: int, fill: Any) -> tuple[Tensor, Tensor]:
    """``selected`` of one window that is the whole plane."""
    shape = x._type.shape
    view = ops.reshape(x, shape=(*shape[:2], *(1,) * spatial, *shape[2:]))
    best, number = largest(ops.detach(view), spatial, 0, fill)
    if not (_is_recorded(x) and x._type.dtype.is_floating_point):
        return best, number
    return with_history(best, numbered(view, number, spatial)), number


def row_major(places: Sequence[Tensor], sizes: Sequence[Dim]) -> Tensor:
    """Places along dimensions of ``sizes`` as numbers of elements in row-major order."""
    flat = places[0]
    for place, size in zip(places[1:], sizes[1:], strict=True):
        flat = ops.add(ops.mul(flat, size), place)
    return flat


def selected(
    x: Tensor, fill: Any, start: Tensor | int, window: tuple[Any, ...]
) -> tuple[Tensor, Tensor]:
    """The largest elements and their numbers; the derivative goes to these elements alone."""
    kernel, steps, borders, dilations, counts = window
    view = windows_of(ops.detach(x), fill, kernel, steps, borders, dilations, counts, True)
    best, number = largest(view, len(kernel), start, fill)
    if not (_is_recorded(x) and x._type.dtype.is_floating_point):
        return best, number
    sizes = x._type.shape[2:]
    if all(d == 1 for d in dilations) and plain(sizes, counts, kernel, steps, borders):
        return with_selected_gradient(best, x, number, kernel, steps, borders), number
    view = windows_of(x, fill, kernel, steps, borders, dilations, counts)
    return with_history(best, numbered(view, number, len(kernel))), number


def with_history(value: Tensor, source: Tensor) -> Tensor:
    """A tensor of its own with the elements of ``value`` and the derivative of ``source``."""
    return ops.sub(apply_named("overwrite", value, source), 0)


def numbered(view: Tensor, number: Tensor, spatial: int) -> Tensor:
    """The element of each window that has this number."""
    rank = len(view._type.shape)
    own = ops.reshape(number, shape=(*number._type.shape, *(1,) * spatial))
    kept = ops.where(ops.eq(own, _numbers(view, spatial)), view, 0.0)
    return ops.sum(kept, axes=tuple(range(rank - spatial, rank)))


def _require_elements(name: str, input: Tensor, spatial: int) -> None:
    require(
        not any(map(is_empty_size, input._type.shape[-spatial - 1 :])),
        f"{name}: expected non-zero sizes for the dimensions other than batch, but got input of "
        f"size {format_shape(input._type.shape)}",
    )


@fused()
def max_pool1d(
    input: Tensor, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
    dilation: Numbers = 1, ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """The largest element of each window of [N, C, L] or [C, L].

    ``stride`` is ``kernel_size`` unless given. ``return_indices``: also where it is, int64.
    """
    return _max_pool("max_pool1d", 1, input, kernel_size, stride, padding, dilation, ceil_mode,
                     return_indices)  # fmt: skip


@fused()
def max_pool2d(
    input: Tensor, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
    dilation: Numbers = 1, ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """The largest element of each window of [N, C, H, W] or [C, H, W].

    ``return_indices``: also its place in the plane, ``row * W + column``, int64.
    """
    return _max_pool("max_pool2d", 2, input, kernel_size, stride, padding, dilation, ceil_mode,
                     return_indices)  # fmt: skip


@autocasts(cpu=FLOAT32, unless="return_indices")
@fused()
def max_pool3d(
    input: Tensor, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
    dilation: Numbers = 1, ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """The largest element of each window of [N, C, D, H, W] or [C, D, H, W]."""
    return _max_pool("max_pool3d", 3, input, kernel_size, stride, padding, dilation, ceil_mode,
                     return_indices)  # fmt: skip


# means -----------------------------------------------------------------------------------
def _divisor(
    x: Tensor, kernel: Ints, steps: Ints, borders: Ints, counts: Sequence[Dim],
    count_include_pad: bool,
) -> Tensor:  # fmt: skip
    """Elements of each window that lie inside the input (or its border), broadcastable."""
    spatial = len(kernel)
    total: Any = None
    for n, (k, s, p, count) in enumerate(zip(kernel, steps, borders, counts, strict=True)):
        size = x._type.shape[2 + n]
        start = ops.sub(ops.mul(_line(x, count, 2 + n, 2 + spatial), s), p)
        end = ops.minimum(ops.add(start, k), size + (p if count_include_pad else 0))
        if not count_include_pad:
            start = ops.maximum(start, 0)
        length = ops.sub(end, start)
        total = length if total is None else ops.mul(total, length)
    return ops.cast(total, x._type.dtype)


def _summed(x: Tensor, window: tuple[Any, ...]) -> Tensor:
    """The sums of windows. Where windows overlap, the derivative is not that of their view."""
    kernel, steps, borders, dilations, counts = window
    spatial = len(kernel)
    sizes = x._type.shape[2:]
    apart = all(k <= s for k, s in zip(kernel, steps, strict=True))
    known = all(isinstance(size, int) for size in (*sizes, *counts))
    own = _is_recorded(x) and not (apart and known)
    own = own and plain(sizes, counts, kernel, steps, borders)
    source = ops.detach(x) if own else x
    detached = own or not _is_recorded(x)
    view = windows_of(source, 0.0, kernel, steps, borders, dilations, counts, detached)
    total: Tensor = ops.sum(view, axes=tuple(range(2 + spatial, 2 + 2 * spatial)))
    return with_summed_gradient(total, x, kernel, steps, borders) if own else total


def _avg_pool(
    name: str, spatial: int, input: Tensor, kernel_size: Any, stride: Any, padding: Any,
    ceil_mode: bool, count_include_pad: bool, divisor_override: int | None,
) -> Tensor:  # fmt: skip
    x, single = batched(name, input, spatial)
    if input._type.dtype is not int64:
        require_floating(name, input)
    kernel, steps, borders, dilations = _settings(name, spatial, kernel_size, stride, padding)
    _require_elements(name, input, spatial)
    require(divisor_override != 0, f"{name}: divisor must be not zero")
    steps = _needed_steps(x._type.shape[2:], kernel, steps, borders, dilations)
    wide = widened(x)
    if _are_whole(x._type.shape[2:], kernel, borders, dilations):
        total = reduce_kept("sum", wide, range(2, 2 + spatial))
        divisor = product(kernel) if divisor_override is None else divisor_override
        return unbatched(_quotient(total, divisor, input._type.dtype), single)
    counts = _counts(name, x._type.shape[2:], kernel, steps, borders, dilations, ceil_mode)
    total = _summed(wide, (kernel, steps, borders, dilations, counts))
    divisor = divisor_override
    if divisor is None:
        whole = not ceil_mode and (count_include_pad or not any(borders))
        divisor = product(kernel) if whole else _divisor(
            wide, kernel, steps, borders, counts, count_include_pad
        )  # fmt: skip
    return unbatched(_quotient(total, divisor, input._type.dtype), single)


def _quotient(total: Tensor, divisor: Any, dtype: DType) -> Tensor:
    """Sums of windows divided; those of integers are rounded towards zero."""
    if dtype.is_floating_point:
        return narrowed(ops.div(total, divisor), dtype)
    return div(total, divisor, rounding_mode="trunc")


@fused()
def avg_pool1d(
    input: Tensor, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
    ceil_mode: bool = False, count_include_pad: bool = True,
) -> Tensor:  # fmt: skip
    """The mean of each window of [N, C, L] or [C, L], zeros of the border counted or not."""
    return _avg_pool("avg_pool1d", 1, input, kernel_size, stride, padding, ceil_mode,
                     count_include_pad, None)  # fmt: skip


@public
@fused()
def avg_pool2d(
    input: Tensor, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """The mean of each window of [N, C, H, W] or [C, H, W]; or its sum / ``divisor_override``."""
    return _avg_pool("avg_pool2d", 2, input, kernel_size, stride, padding, ceil_mode,
                     count_include_pad, divisor_override)  # fmt: skip


@autocasts(cpu=FLOAT32)
@public
@fused()
def avg_pool3d(
    input: Tensor, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """The mean of each window of [N, C, D, H, W] or [C, D, H, W]."""
    return _avg_pool("avg_pool3d", 3, input, kernel_size, stride, padding, ceil_mode,
                     count_include_pad, divisor_override)  # fmt: skip


def _lp_pool(
    name: str, spatial: int, input: Tensor, norm_type: float, kernel_size: Any, stride: Any,
    ceil_mode: bool,
) -> Tensor:  # fmt: skip
    require_floating(name, require_tensor(name, "input", input))
    elements = product(per_dimension(name, "kernel_size", kernel_size, spatial))
    powers = pow(input, float(norm_type))
    mean = _avg_pool(name, spatial, powers, kernel_size, stride, 0, ceil_mode, True, None)
    # a root has no derivative at 0, where PyTorch's is 0
    zero = ops.eq(mean, 0.0)
    roots = pow(ops.mul(ops.where(zero, 1.0, mean), elements), 1.0 / norm_type)
    return ops.where(zero, math.inf if norm_type < 0 else 0.0 ** (1.0 / norm_type), roots)


@fused()
def lp_pool1d(
    input: Tensor, norm_type: float, kernel_size: Numbers, stride: Numbers | None = None,
    ceil_mode: bool = False,
) -> Tensor:  # fmt: skip
    """``(sum x**p) ** (1/p)`` over each window of [N, C, L] or [C, L]."""
    return _lp_pool("lp_pool1d", 1, input, norm_type, kernel_size, stride, ceil_mode)


@fused()
def lp_pool2d(
    input: Tensor, norm_type: float, kernel_size: Numbers, stride: Numbers | None = None,
    ceil_mode: bool = False,
) -> Tensor:  # fmt: skip
    """``(sum x**p) ** (1/p)`` over each window of [N, C, H, W] or [C, H, W]."""
    return _lp_pool("lp_pool2d", 2, input, norm_type, kernel_size, stride, ceil_mode)


@fused()
def lp_pool3d(
    input: Tensor, norm_type: float, kernel_size: Numbers, stride: Numbers | None = None,
    ceil_mode: bool = False,
) -> Tensor:  # fmt: skip
    """``(sum x**p) ** (1/p)`` over each window of [N, C, D, H, W] or [C, D, H, W]."""
    return _lp_pool("lp_pool3d", 3, input, norm_type, kernel_size, stride, ceil_mode)


__all__ = [
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "lp_pool1d", "lp_pool2d", "lp_pool3d",
    "max_pool1d", "max_pool2d", "max_pool3d",
]  # fmt: skip
