"""Scans of few long rows, by lines that are scanned side by side: on a device that works so.

In: any graph, and what a size typically is. Out: one in which such a scan is three steps: each
line is folded, what all lines before give is scanned, and each line is scanned and joined with
that (Blelloch 1990, "Prefix Sums and Their Applications", section 1.5.1). Infinities so spoil only
what follows them. Lines of a scan that is still long are divided again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import Op, lookup
from flamec.ir.ops.scan import LONG_ROW, part
from flamec.ir.passes.rewrite import Replacement, RewriteBuilder, rewrite
from flamec.ir.shape import Dim, product, structurally_equal
from flamec.ir.types import float32, int64

FEW_ROWS = 64  # up to which rows are divided, from LONG_ROW on
LINE = 1024  # elements

Typical = Callable[[Dim], int | None]


def divide_scans(graph: Graph, typical: Typical) -> Graph:
    """The graph without scans of few long rows; itself if it has none."""
    rule = partial(_divided, typical=typical)
    return rewrite(graph, rule, applies=_is_divisible)


def _is_divisible(op: Op) -> bool:
    return bool(op.scan_of or op.takes_over) or op.name == "recurrence"


def _divided(b: RewriteBuilder, node: Node, typical: Typical) -> Replacement:
    if not _is_divisible(node.op):
        return None
    x, axis = node.inputs[0], node.attributes["axis"]
    shape, dtype = x.type.shape, x.type.dtype
    before, size, after = shape[:axis], shape[axis], shape[axis + 1 :]
    length, rows = typical(size), typical(product([*before, *after]))
    if length is None or length < LONG_ROW or rows is None or not 0 < rows <= FEW_ROWS:
        return None
    if node.op.takes_over:
        return _extremes_by_lines(b, node, axis, x)
    wide = [b.convert(y, dtype=float32) if dtype.is_half else y for y in node.inputs]
    divided = _recurrence_by_lines if len(wide) > 1 else _scan_by_lines
    result = divided(b, node, axis, *wide)
    return b.convert(result, dtype=dtype) if dtype.is_half else result


def _scan_by_lines(b: RewriteBuilder, node: Node, axis: int, wide: Value) -> Value:
    assert node.op.scan_of is not None
    shape = wide.type.shape
    before, size, after = shape[:axis], shape[axis], shape[axis + 1 :]
    fold, join = map(lookup, node.op.scan_of)
    unit = b.constant(join.identity(wide.type.dtype), wide.type.with_shape(()))
    rest = size % LINE
    count = (size - rest) // LINE
    lines = b.reshape(part(b, wide, axis, 0, size - rest), shape=(*before, count, LINE, *after))
    totals = b.apply(fold, (lines,), {"axes": (axis + 1,)})
    one_before, none = tuple(int(i == axis) for i in range(len(shape))), (0,) * len(shape)
    starts = b.apply(node.op, (b.pad(totals, unit, low=one_before, high=none),), node.attributes)

    def joined(start: Value, values: Value, along: int) -> Value:
        within = b.apply(node.op, (values,), {"axis": along})
        return b.apply(join, (b.expand_to(start, within.type.shape), within), {})

    start = b.reshape(part(b, starts, axis, 0, count), shape=(*before, count, 1, *after))
    result = b.reshape(joined(start, lines, axis + 1), shape=(*before, size - rest, *after))
    if not structurally_equal(rest, 0):
        last, end = part(b, starts, axis, count, 1), part(b, wide, axis, size - rest, rest)
        result = b.concatenate(result, joined(last, end, axis), axis=axis)
    return result


def _extremes_by_lines(b: RewriteBuilder, node: Node, axis: int, x: Value) -> tuple[Value, Value]:
    """Values and places: those of the lines before stay where none of an element's own line takes
    over."""
    shape, rank = x.type.shape, len(x.type.shape)
    before, size, after = shape[:axis], shape[axis], shape[axis + 1 :]
    rest = size % LINE
    count = (size - rest) // LINE
    lines = b.reshape(part(b, x, axis, 0, size - rest), shape=(*before, count, LINE, *after))
    within = b.apply(node.op, (lines,), {"axis": axis + 1})
    ends, places = (
        b.reshape(part(b, y, axis + 1, LINE - 1, 1), shape=(*before, count, *after)) for y in within
    )
    extremes, of_line = b.apply(node.op, (ends,), {"axis": axis})
    where = {"shape": of_line.type.shape, "dtype": int64, "device": x.type.device}
    others = [of_line if i == axis else b.iota(axis=i, **where) for i in range(rank)]
    line = b.constant(LINE, of_line.type)
    places = b.add(b.index(places, *others, inside=True), b.mul(of_line, line))
    one_before, none = tuple(int(i == axis) for i in range(rank)), (0,) * rank
    starts = tuple(
        b.pad(y, b.constant(0, y.type.with_shape(())), low=one_before, high=none)
        for y in (extremes, places)
    )
    number = b.iota(axis=axis, **{**where, "shape": starts[0].type.shape})

    def joined(of: tuple[Value, Value], first: Dim, lines: Dim, along: int) -> list[Value]:
        """Of so many lines from ``first`` on, whose dimension ``along`` is that of elements."""
        value, place = of
        wanted = value.type.shape
        shape = (*before, lines, 1, *after) if along > axis else (*before, 1, *after)
        start, start_place, at = (
            b.expand_to(b.reshape(part(b, y, axis, first, lines), shape=shape), wanted)
            for y in (*starts, number)
        )
        place = b.add(place, b.mul(at, line))
        compare = lookup(node.op.takes_over)
        own = b.bitwise_or(b.apply(compare, (value, start), {}), b.ne(value, value))
        own = b.bitwise_or(own, b.eq(at, b.constant(0, at.type)))
        return [b.where(own, value, start), b.where(own, place, start_place)]

    found = [
        b.reshape(y, shape=(*before, size - rest, *after))
        for y in joined(within, 0, count, axis + 1)
    ]
    if not structurally_equal(rest, 0):
        end = b.apply(node.op, (part(b, x, axis, size - rest, rest),), {"axis": axis})
        found = [
            b.concatenate(y, z, axis=axis)
            for y, z in zip(found, joined(end, count, 1, axis), strict=True)
        ]
    values, positions = found
    return values, positions


def _recurrence_by_lines(
    b: RewriteBuilder, node: Node, axis: int, x: Value, factors: Value
) -> Value:
    """What a line begins with is multiplied by all its factors so far."""
    shape = x.type.shape
    before, size, after = shape[:axis], shape[axis], shape[axis + 1 :]
    rest = size % LINE
    count = (size - rest) // LINE

    def within(values: Value, by: Value, along: int) -> tuple[Value, Value]:
        return b.recurrence(values, by, axis=along), b.cumprod(by, axis=along)

    def lines(y: Value) -> Value:
        return b.reshape(part(b, y, axis, 0, size - rest), shape=(*before, count, LINE, *after))

    results, products = within(lines(x), lines(factors), axis + 1)
    ends, passed = (
        b.reshape(part(b, y, axis + 1, LINE - 1, 1), shape=(*before, count, *after))
        for y in (results, products)
    )
    totals = b.recurrence(ends, passed, axis=axis)
    one_more, none = tuple(int(i == axis) for i in range(len(shape))), (0,) * len(shape)
    starts = b.pad(totals, b.constant(0, x.type.with_shape(())), low=one_more, high=none)
    start = b.reshape(part(b, starts, axis, 0, count), shape=(*before, count, 1, *after))
    started = b.mul(b.expand_to(start, products.type.shape), products)
    result = b.reshape(b.add(results, started), shape=(*before, size - rest, *after))
    if structurally_equal(rest, 0):
        return result
    results, products = within(
        part(b, x, axis, size - rest, rest), part(b, factors, axis, size - rest, rest), axis
    )
    last = part(b, starts, axis, count, 1)
    started = b.mul(b.expand_to(last, products.type.shape), products)
    return b.concatenate(result, b.add(results, started), axis=axis)
