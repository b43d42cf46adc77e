"""Products of many rows that meet in one place, by a sort: blocks would all look at all rows.

In: any graph, and what a size typically is. Out: one in which such an ``index_put`` is steps whose
work is that of a sort: rows are put in the order of their places, each is multiplied with those
before it that have the same place, and the last of each place, which has the product of all, is
put there (others are put behind the table, where nobody reads them). Products of runs grow
eightfold at each step within lines of 512 rows (Hillis and Steele, "Data parallel algorithms", CACM
29(12), 1986); what lines end with is joined in the same way (Blelloch 1990, "Prefix Sums and Their
Applications", section 1.5). The order of factors depends on their number alone, so results are the
same in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.layout import dense_strides
from flamec.ir.ops.indexing import index_put
from flamec.ir.passes.rewrite import Replacement, RewriteBuilder, rewrite
from flamec.ir.shape import Dim, equal, product
from flamec.ir.types import DType, float32, int16, int32, int64

FEW_ROWS = 1024  # at which blocks may look
WIDE_ROW, LOOKED_AT = 256, 16  # rows at which a block may look for each element of a wide row
JOINED, STEPS = 8, 3  # rows at each step, and steps of a line
LINE = JOINED**STEPS
ROOM, LEAST_ROOM = 1 << 14, 64  # elements that nobody reads, so that few meet, and rows at least
LONGEST = 1 << 31  # rows: a sort takes no more

Typical = Callable[[Dim], int | None]


def segment_products(graph: Graph, typical: Typical, narrow: bool = False) -> Graph:
    """The graph without products of many rows; itself if it has none. ``narrow``: no array has
    2^31 or more elements."""
    rule = partial(_segmented, typical=typical, narrow=narrow)
    return rewrite(graph, rule, applies=lambda op: op is index_put)


def _segmented(b: RewriteBuilder, node: Node, typical: Typical, narrow: bool) -> Replacement:
    if node.op is not index_put or node.attributes["mode"] != "prod":
        return None
    x, values, *indices = node.inputs
    shape, inner = indices[0].type.shape, x.type.shape[len(indices) :]
    rows = product(shape)
    count, width = typical(rows), typical(product(inner))
    if count is None or width is None or not FEW_ROWS < count < LONGEST:
        return None
    if width >= WIDE_ROW and count <= LOOKED_AT * width:
        return None
    dtype, places = x.type.dtype, product(x.type.shape[: len(indices)])
    lines = [b.reshape(i, shape=(rows,)) for i in indices]
    ordered, order = b.sort(_place(b, lines, x, narrow), axis=0, descending=False)
    lines = [b.index(line, order, inside=True) for line in lines]
    terms = b.index(b.reshape(values, shape=(rows, *inner)), order, inside=True)
    if dtype.is_half:
        terms = b.cast(terms, float32)
    found = _Products(b, rows, ordered, LINE).of(terms)
    result = b.cast(b.mul(b.cast(b.index(x, *lines), found.type.dtype), found), dtype)
    room = max(LEAST_ROOM, ROOM // width)
    behind = tuple(room if i == 0 else 0 for i in range(1 + len(inner)))
    none = (0,) * len(behind)
    table = b.pad(
        b.reshape(x, shape=(places, *inner)), b.constant(0, x.type), low=none, high=behind
    )
    table = b.index_put(table, result, _last_of_each(b, ordered, places, room), mode="any")
    kept = b.slice(table, starts=none, sizes=(places, *inner), steps=(1,) * len(none))
    return b.reshape(kept, shape=x.type.shape)


def _last_of_each(b: GraphBuilder, ordered: Value, places: Dim, room: int) -> Value:
    """Where each row is put: the last of each place there, others in the room behind all places."""
    (rows,), device = ordered.type.shape, ordered.type.device
    at = b.iota(shape=(rows,), axis=0, dtype=int64, device=device)
    one, end = b.constant(1, at.type), b.constant(rows - 1, at.type)
    after = b.index(ordered, b.minimum(b.add(at, one), end), inside=True)
    last = b.bitwise_or(b.eq(at, end), b.ne(after, ordered))
    place = b.maximum(b.cast(ordered, int64), b.constant(0, at.type))  # errors are reported before
    place = b.minimum(place, b.constant(places - 1, at.type))
    behind = b.add(b.remainder(at, b.constant(room, at.type)), b.constant(places, at.type))
    return b.where(last, place, behind)


def _place(b: GraphBuilder, indices: Sequence[Value], x: Value, narrow: bool) -> Value:
    """One number for the place of each row, of as few bytes as may be: a sort takes each by itself.
    Indices out of range are reported where they are used."""
    sizes = x.type.shape[: len(indices)]
    total: Value | None = None
    for i, size, stride in zip(indices, sizes, dense_strides(sizes), strict=True):
        i = b.cast(i, int64)
        i = b.where(b.lt(i, b.constant(0, i.type)), b.add(i, b.constant(size, i.type)), i)
        term = i if equal(stride, 1) else b.mul(i, b.constant(stride, i.type))
        total = term if total is None else b.add(total, term)
    assert total is not None
    return b.cast(total, _narrowest(product(sizes), narrow))


def _narrowest(places: Dim, narrow: bool) -> DType:
    if not isinstance(places, int):
        return int32 if narrow else int64
    return next((d for d, bits in ((int16, 15), (int32, 31)) if places <= 1 << bits), int64)


@dataclass(frozen=True)
class _Products:
    """Rows in the order of their places, which are one dimension: ``size`` of them."""

    b: GraphBuilder
    size: Dim
    places: Value
    reach: int  # rows of which an element of the lines, all told, is the product

    def of(self, values: Value) -> Value:
        """Of each row and those before it that have the same place."""
        b, at = self.b, self._iota(self.size)
        in_line = b.remainder(at, self._number(LINE, at))
        step = 1
        for _ in range(STEPS):
            found = values
            for count in range(1, JOINED):
                distance = self._number(count * step, at)
                reached = b.ge(in_line, distance)
                found = self._joined(found, values, b.sub(at, distance), self.places, reached)
            values, step = found, step * JOINED
        if self._is_one_line():
            return values
        lines = (self.size + (LINE - 1)) // LINE
        line = self._iota(lines)
        last = b.minimum(
            b.add(b.mul(line, self._number(LINE, line)), self._number(LINE - 1, line)),
            b.constant(self.size - 1, line.type),
        )
        ends = _Products(b, lines, self._read(self.places, last), self.reach * LINE)
        carried = ends.of(self._read(values, last))
        before = b.sub(b.floor_divide(at, self._number(LINE, at)), self._number(1, at))
        reached = b.ge(before, self._number(0, at))
        return self._joined(values, carried, before, ends.places, reached)

    def _joined(
        self, values: Value, others: Value, at: Value, places: Value, reached: Value
    ) -> Value:
        """``values`` times those of the ``others`` at ``at`` that are reached and have the same
        place; those have ``places``."""
        b = self.b
        at = b.maximum(at, self._number(0, at))
        same = b.bitwise_and(reached, b.eq(self._read(places, at), self.places))
        shape = values.type.shape
        same = b.expand_to(b.reshape(same, shape=(shape[0], *(1 for _ in shape[1:]))), shape)
        one = b.constant(1, values.type)
        return b.mul(b.where(same, self._read(others, at), one), values)

    def _is_one_line(self) -> bool:
        if isinstance(self.size, int):
            return self.size <= LINE
        return self.reach >= LONGEST

    def _read(self, values: Value, at: Value) -> Value:
        return self.b.index(values, at, inside=True)

    def _iota(self, size: Dim) -> Value:
        device = self.places.type.device
        return self.b.iota(shape=(size,), axis=0, dtype=int64, device=device)

    def _number(self, value: int, like: Value) -> Value:
        return self.b.constant(value, like.type)
