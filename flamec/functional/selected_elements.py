"""Which gradient the elements get that were selected from windows, or added up in them.

In: the gradient of one element for each window, and its number in the window; or of the window's
sum. Out: the gradient of the array. Each of its elements looks at the windows that it is in, of
which there are as many as the kernel has strides, so that nothing as large as all windows is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product as combinations
from typing import Any

from flamec.dispatch import apply
from flamec.functional.primitives import ops
from flamec.ir.builder import Builder
from flamec.ir.custom import custom_op
from flamec.ir.op import DerivativeContext, Op, OpKind
from flamec.ir.ops.windows import bordered
from flamec.ir.shape import Dim, floordiv, product, structurally_equal
from flamec.ir.types import int8, int32
from flamec.state import thread
from flamec.tape import record
from flamec.tensor import Tensor

Ints = tuple[int, ...]
_NARROW = 127  # the largest number of an element that is kept in eight bits


def plain(
    sizes: Sequence[Dim], counts: Sequence[Dim], kernel: Ints, steps: Ints, borders: Ints
) -> bool:
    """Whether there are windows as far as an array and its borders reach, or sizes are numbers;
    the sizes of windows are."""
    return all(
        isinstance(k, int)
        and (
            (isinstance(size, int) and isinstance(count, int))
            or structurally_equal(count, floordiv(size + 2 * p - k, s) + 1)
        )
        for size, count, k, s, p in zip(sizes, counts, kernel, steps, borders, strict=True)
    )


def _places(size: Dim, count: Dim, k: int, s: int, p: int) -> Dim:
    """Steps that an array has, the last one perhaps not whole; where its size is a symbol, as many
    more than windows as that can be for any size."""
    if isinstance(size, int) and isinstance(count, int):
        return -(-size // s)
    return count + max(-(-rest // s) - (rest + 2 * p - k) // s - 1 for rest in range(s))


def with_selected_gradient(
    value: Tensor, x: Tensor, number: Tensor, kernel: Ints, steps: Ints, borders: Ints
) -> Tensor:
    """``value`` [N, C, *counts], whose gradient goes to the elements of x with these numbers.

    Sizes along the dimensions of the windows are ``plain``.
    """
    number = ops.cast(number, int8 if product(kernel) <= _NARROW else int32)
    return _with_gradient((_SELECTED, _CALLED), [value, x, number], kernel, steps, borders)


def with_summed_gradient(
    value: Tensor, x: Tensor, kernel: Ints, steps: Ints, borders: Ints
) -> Tensor:
    """``value`` [N, C, *counts], whose gradient goes to all elements of x in the windows.

    Sizes along the dimensions of the windows are ``plain``.
    """
    return _with_gradient((_SUMMED, _SUM_CALLED), [value, x], kernel, steps, borders)


def _with_gradient(
    forms: tuple[Op, Op], operands: list[Tensor], kernel: Ints, steps: Ints, borders: Ints
) -> Tensor:
    known = {"kernel": kernel, "steps": steps, "borders": borders, "sizes": ()}
    traced, called = forms
    if thread.trace is not None:
        found = apply(traced, operands, known)
        return found[0] if isinstance(found, tuple) else found
    fresh: Tensor = ops.detach(operands[0])
    record(called, operands, known, [fresh])
    return fresh


def _gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any, ...]:
    """Element i = q * step + r of a dimension is element j of window q - t if
    j = r + border + t * step is in the kernel."""
    kernel, steps, borders = (ctx.attributes[k] for k in ("kernel", "steps", "borders"))
    shape = ctx.input_types[1].shape
    lead, sizes = shape[:2], shape[2:]
    counts = ctx.input_types[0].shape[2:]
    windows = zip(sizes, counts, kernel, steps, borders, strict=True)
    touch = kernel == steps and not any(borders)
    touch = touch and all(  # and none reaches beyond the array, as in ceil_mode
        structurally_equal(count, floordiv(size, k))
        for size, count, k in zip(sizes, counts, kernel, strict=True)
    )
    places = [*counts] if touch else [_places(*window) for window in windows]
    moves = [
        range(-((s - 1 + p) // s), (k - 1 - p) // s + 1)
        for k, s, p in zip(kernel, steps, borders, strict=True)
    ]
    apart = tuple(n for q, s in zip(places, steps, strict=True) for n in (q, s))
    thin = tuple(n for q in places for n in (q, 1))
    selecting = len(ctx.input_types) == 3
    total: Any = None
    for move in combinations(*moves):
        edges = [(t, q - t - count) for t, q, count in zip(move, places, counts, strict=True)]
        own, *numbers = (
            b.expand(
                b.reshape(bordered(b, v, ((0, 0), (0, 0), *edges)), shape=(*lead, *thin)),
                shape=(*lead, *apart),
            )
            for v in ((g, ctx.inputs[2]) if selecting else (g,))
        )
        if selecting:
            hit = b.eq(numbers[0], _numbers(b, ctx, move, apart))
        else:
            hit = _inside(b, ctx, move, apart)
        term = own if hit is None else b.where(hit, own, b.full_like(0, b.type_of(own)))
        total = term if total is None else b.add(total, term)
    whole = tuple(q * s for q, s in zip(places, steps, strict=True))
    total = b.reshape(total, shape=(*lead, *whole))
    if all(structurally_equal(size, n) for size, n in zip(sizes, whole, strict=True)):
        return None, total, *(None,) * selecting
    if touch:  # behind the last windows are elements in none
        nothing = b.full_like(0, b.type_of(total).with_shape(shape))
        total = b.slice_update(nothing, total, starts=(0,) * len(shape), steps=(1,) * len(shape))
    else:
        total = b.slice(total, starts=(0,) * len(shape), sizes=shape, steps=(1,) * len(shape))
    return None, total, *(None,) * selecting


def _numbers(b: Builder, ctx: DerivativeContext, move: Ints, apart: Sequence[Dim]) -> Any:
    """The number that an element has in the window at distance ``move``; -1 outside of it."""
    kernel, steps, borders = (ctx.attributes[k] for k in ("kernel", "steps", "borders"))
    type = ctx.input_types[2]
    rank = 2 + len(apart)
    number, inside = None, None
    for n, (k, s, p, t) in enumerate(zip(kernel, steps, borders, move, strict=True)):
        axis = 3 + 2 * n
        shape = tuple(s if i == axis else 1 for i in range(rank))
        line = b.iota(shape=shape, axis=axis, dtype=type.dtype, device=type.device)
        like = type.with_shape(shape)
        j = b.add(line, b.full_like(p + t * s, like))
        if not (p + t * s >= 0 and s - 1 + p + t * s < k):
            within = b.bitwise_and(b.ge(j, b.full_like(0, like)), b.lt(j, b.full_like(k, like)))
            inside = within if inside is None else _joined(b, b.bitwise_and, inside, within)
        if number is None:
            number = j
        else:
            scaled = b.mul(number, b.full_like(k, b.type_of(number)))
            number = _joined(b, b.add, scaled, j)
    if inside is not None:
        shape = b.type_of(number).shape
        inside = b.expand_to(inside, shape)
        number = b.where(inside, number, b.full_like(-1, b.type_of(number)))
    full = (*ctx.input_types[0].shape[:2], *apart)
    return b.expand_to(number, full)


def _inside(b: Builder, ctx: DerivativeContext, move: Ints, apart: Sequence[Dim]) -> Any:
    """Whether an element is in the window at distance ``move``; None if all are."""
    kernel, steps, borders = (ctx.attributes[k] for k in ("kernel", "steps", "borders"))
    type, rank, inside = ctx.input_types[1], 2 + len(apart), None
    for n, (k, s, p, t) in enumerate(zip(kernel, steps, borders, move, strict=True)):
        first = p + t * s
        if first >= 0 and s - 1 + first < k:
            continue
        shape = tuple(s if i == 3 + 2 * n else 1 for i in range(rank))
        line = b.iota(shape=shape, axis=3 + 2 * n, dtype=int32, device=type.device)
        like = b.type_of(line)
        within = b.bitwise_and(
            b.ge(line, b.full_like(-first, like)), b.lt(line, b.full_like(k - first, like))
        )
        inside = within if inside is None else _joined(b, b.bitwise_and, inside, within)
    full = (*type.shape[:2], *apart)
    return None if inside is None else b.expand_to(inside, full)


def _joined(b: Builder, apply_: Any, x: Any, y: Any) -> Any:
    """An operation on two arrays that have size 1 along each other's dimensions."""
    pairs = zip(b.type_of(x).shape, b.type_of(y).shape, strict=True)
    shape = tuple(n if m == 1 else m for m, n in pairs)
    return apply_(b.expand_to(x, shape), b.expand_to(y, shape))


_SELECTED = custom_op("selected", 1, _gradient, saves_inputs=(2,))
_CALLED = replace(_SELECTED, kind=OpKind.CALL)  # as the tape has it
_SUMMED = custom_op("summed", 1, _gradient)
_SUM_CALLED = replace(_SUMMED, kind=OpKind.CALL)
