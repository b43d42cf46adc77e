"""Scans of few long rows, by lines that are scanned side by side: on a device that works so.

In: any graph, and what a size typically is. Out: one in which such a scan is three steps: each
line is folded, what all lines before give is scanned, and each line is scanned and joined with
that (Blelloch 1990, "Prefix Sums and Their Applications", section 1.5.1). Infinities so spoil only
what follows them. Lines of a scan that is still long are divided again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import Op, OpKind, lookup
from flamec.ir.ops.scan import part
from flamec.ir.passes.rewrite import Replacement, RewriteBuilder, rewrite
from flamec.ir.shape import Dim, product, structurally_equal
from flamec.ir.types import float32, int64

LONG_ROW, FEW_ROWS = 1 << 15, 64  # from which on, and up to which, rows are divided
LINE = 1024  # elements

Typical = Callable[[Dim], int | None]
Values = Sequence[Value]


def divide_scans(graph: Graph, typical: Typical) -> Graph:
    """The graph without scans of few long rows; itself if it has none."""
    rule = partial(_divided, typical=typical)
    return rewrite(graph, rule, applies=lambda op: op.kind is OpKind.SCAN)


def _divided(b: RewriteBuilder, node: Node, typical: Typical) -> Replacement:
    if node.op.kind is not OpKind.SCAN:
        return None
    axis, type = node.attributes["axis"], node.inputs[0].type
    length = typical(type.shape[axis])
    rows = typical(product([*type.shape[:axis], *type.shape[axis + 1 :]]))
    if length is None or length < LONG_ROW or rows is None or not 0 < rows <= FEW_ROWS:
        return None
    lines = _Lines(b, axis, type.shape)
    if node.op.takes_over:
        found = _by_lines(_Extremes(node, lines), lines, node.inputs)
    else:
        scan = _Folds(node, lines) if node.op.scan_of else _Recurrence(lines)
        half = type.dtype.is_half
        wide = [b.convert(x, dtype=float32) if half else x for x in node.inputs]
        found = _by_lines(scan, lines, wide)
        found = [b.convert(y, dtype=type.dtype) if half else y for y in found]
    return found[0] if len(found) == 1 else tuple(found)


@dataclass(frozen=True)
class _Lines:
    """Rows along ``axis`` of a shape as lines, and what is left behind the last of them."""

    b: RewriteBuilder
    axis: int
    shape: tuple[Dim, ...]

    @property
    def left_over(self) -> Dim:
        return self.shape[self.axis] % LINE

    @property
    def covered(self) -> Dim:
        return self.shape[self.axis] - self.left_over

    @property
    def count(self) -> Dim:
        return self.covered // LINE

    def around(self, *sizes: Dim) -> tuple[Dim, ...]:
        """The shape with ``sizes`` in the place of the axis."""
        return (*self.shape[: self.axis], *sizes, *self.shape[self.axis + 1 :])

    def of(self, x: Value) -> Value:
        """The lines, whose elements are along the dimension behind the axis."""
        covered = part(self.b, x, self.axis, 0, self.covered)
        return self.b.reshape(covered, shape=self.around(self.count, LINE))

    def left(self, x: Value) -> Value:
        return part(self.b, x, self.axis, self.covered, self.left_over)

    def ends(self, lines: Value) -> Value:
        """The last element of each."""
        last = part(self.b, lines, self.axis + 1, LINE - 1, 1)
        return self.b.reshape(last, shape=self.around(self.count))

    def behind(self, first: float, ends: Value) -> Value:
        """What stands before each line, and before what is left, of what each line ends with."""
        rank = len(self.shape)
        low, high = tuple(int(i == self.axis) for i in range(rank)), (0,) * rank
        unit = self.b.constant(first, ends.type.with_shape(()))
        return self.b.pad(ends, unit, low=low, high=high)

    def before_each(self, starts: Value, lines: Value) -> Value:
        """What stands before each line, for all of its elements."""
        start = part(self.b, starts, self.axis, 0, self.count)
        start = self.b.reshape(start, shape=self.around(self.count, 1))
        return self.b.expand_to(start, lines.type.shape)

    def before_left(self, starts: Value, left: Value) -> Value:
        start = part(self.b, starts, self.axis, self.count, 1)
        return self.b.expand_to(start, left.type.shape)


class _Scan(Protocol):
    """How a scan is put together from those of lines."""

    def within(self, operands: Values, axis: int) -> Values:
        """What is known at each element of the ones before it along the axis, and of itself."""
        ...

    def starts(self, lines: Values, within: Values) -> Values:
        """What is known before each line and before what is left."""
        ...

    def joined(self, starts: Values, within: Values) -> Values:
        """The results at elements of which the one is known, and the other of what is before."""
        ...


def _by_lines(scan: _Scan, lines: _Lines, operands: Values) -> list[Value]:
    given = [lines.of(x) for x in operands]
    within = scan.within(given, lines.axis + 1)
    starts = scan.starts(given, within)
    found = scan.joined([lines.before_each(y, within[0]) for y in starts], within)
    results = [lines.b.reshape(y, shape=lines.around(lines.covered)) for y in found]
    if structurally_equal(lines.left_over, 0):
        return results
    within = scan.within([lines.left(x) for x in operands], lines.axis)
    ends = scan.joined([lines.before_left(y, within[0]) for y in starts], within)
    pairs = zip(results, ends, strict=True)
    return [lines.b.concatenate(y, end, axis=lines.axis) for y, end in pairs]


@dataclass(frozen=True)
class _Folds:
    """Lines are folded, which takes no memory for their elements."""

    node: Node
    lines: _Lines

    def within(self, operands: Values, axis: int) -> Values:
        return [self.lines.b.apply(self.node.op, operands, {"axis": axis})]

    def starts(self, lines: Values, within: Values) -> Values:
        b, (fold, join) = self.lines.b, self._parts
        totals = b.apply(fold, lines, {"axes": (self.lines.axis + 1,)})
        unit = join.identity(totals.type.dtype)
        return [b.apply(self.node.op, (self.lines.behind(unit, totals),), self.node.attributes)]

    def joined(self, starts: Values, within: Values) -> Values:
        return [self.lines.b.apply(self._parts[1], (*starts, *within), {})]

    @property
    def _parts(self) -> tuple[Op, Op]:
        assert self.node.op.scan_of is not None
        fold, join = map(lookup, self.node.op.scan_of)
        return fold, join


@dataclass(frozen=True)
class _Extremes:
    """Values and places: those of the lines before stay where none of an element's own line takes
    over."""

    node: Node
    lines: _Lines

    def within(self, operands: Values, axis: int) -> Values:
        return self.lines.b.apply_all(self.node.op, operands, {"axis": axis})

    def starts(self, lines: Values, within: Values) -> Values:
        """Also the number of each line."""
        b, axis = self.lines.b, self.lines.axis
        ends, places = map(self.lines.ends, within)
        extremes, of_line = b.apply(self.node.op, (ends,), {"axis": axis})
        shape, kind = ends.type.shape, {"dtype": int64, "device": ends.type.device}
        at = [b.iota(axis=i, shape=shape, **kind) for i in range(len(shape))]
        at[axis] = of_line
        places = b.add(b.index(places, *at, inside=True), self._first_of(of_line))
        starts = self.lines.behind(0, extremes), self.lines.behind(0, places)
        return (*starts, b.iota(axis=axis, shape=starts[0].type.shape, **kind))

    def joined(self, starts: Values, within: Values) -> Values:
        b = self.lines.b
        (start, start_place, number), (value, place) = starts, within
        takes_over = b.apply(lookup(self.node.op.takes_over), (value, start), {})
        own = b.bitwise_or(takes_over, b.ne(value, value))
        own = b.bitwise_or(own, b.eq(number, b.constant(0, number.type)))
        place = b.add(place, self._first_of(number))
        return b.where(own, value, start), b.where(own, place, start_place)

    def _first_of(self, line: Value) -> Value:
        return self.lines.b.mul(line, self.lines.b.constant(LINE, line.type))


@dataclass(frozen=True)
class _Recurrence:
    """What a line begins with is multiplied by all its factors so far."""

    lines: _Lines

    def within(self, operands: Values, axis: int) -> Values:
        """Results and products of factors."""
        x, factors = operands
        results = self.lines.b.recurrence(x, factors, axis=axis)
        return results, self.lines.b.cumprod(factors, axis=axis)

    def starts(self, lines: Values, within: Values) -> Values:
        ends, passed = map(self.lines.ends, within)
        totals = self.lines.b.recurrence(ends, passed, axis=self.lines.axis)
        return [self.lines.behind(0, totals)]

    def joined(self, starts: Values, within: Values) -> Values:
        (start,), (results, products) = starts, within
        return [self.lines.b.add(results, self.lines.b.mul(start, products))]
