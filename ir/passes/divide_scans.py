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
from flamec.ir.op import lookup
from flamec.ir.ops.scan import part
from flamec.ir.passes.rewrite import Replacement, RewriteBuilder, rewrite
from flamec.ir.shape import Dim, product, structurally_equal
from flamec.ir.types import float32

LONG_ROW, FEW_ROWS = 1 << 15, 64  # from which on, and up to which, rows are divided
LINE = 1024  # elements

Typical = Callable[[Dim], int | None]


def divide_scans(graph: Graph, typical: Typical) -> Graph:
    """The graph without scans of few long rows; itself if it has none."""
    rule = partial(_divided, typical=typical)
    return rewrite(graph, rule, applies=lambda op: bool(op.scan_of))


def _divided(b: RewriteBuilder, node: Node, typical: Typical) -> Replacement:
    if not node.op.scan_of:
        return None
    (x,), axis = node.inputs, node.attributes["axis"]
    shape, dtype = x.type.shape, x.type.dtype
    before, size, after = shape[:axis], shape[axis], shape[axis + 1 :]
    length, rows = typical(size), typical(product([*before, *after]))
    if length is None or length < LONG_ROW or rows is None or not 0 < rows <= FEW_ROWS:
        return None
    fold, join = map(lookup, node.op.scan_of)
    wide = b.convert(x, dtype=float32) if dtype.is_half else x
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
    return b.convert(result, dtype=dtype) if dtype.is_half else result
