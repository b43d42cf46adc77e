"""Masks that follow from positions alone: which diagonals of a matrix they choose.

In: a value made of counters and constants by comparisons, choices and views, as ``tril``, ``triu``,
``arange`` and comparisons leave them. Out: ``Choice``: two numbers and the condition on the
indices that chooses between them, or None. Nothing is computed element by element, and sizes may
be symbolic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flamec.ir.evaluate import run_op
from flamec.ir.graph import Node, Value
from flamec.ir.op import OpKind
from flamec.ir.shape import Dim, structurally_equal
from flamec.ir.types import CPU, TensorType


@dataclass(frozen=True)
class Line:
    """The sum of ``offset`` and of indices times whole numbers; ``terms`` by axis, none 0."""

    terms: tuple[tuple[int, int], ...]
    offset: Dim

    def plus(self, other: Line, sign: int = 1) -> Line:
        """The sum, or the difference."""
        terms = dict(self.terms)
        for axis, factor in other.terms:
            terms[axis] = terms.get(axis, 0) + sign * factor
        kept = tuple(sorted((axis, f) for axis, f in terms.items() if f))
        return Line(kept, self.offset + sign * other.offset)

    def moved(self, axes: Mapping[int, int]) -> Line | None:
        """With its axes renamed; None if one has no new name."""
        if any(axis not in axes for axis, _ in self.terms):
            return None
        return Line(tuple(sorted((axes[a], f) for a, f in self.terms)), self.offset)


@dataclass(frozen=True)
class Choice:
    """``holds`` where ``condition`` >= 0, ``fails`` elsewhere; no condition: ``holds`` everywhere.

    The two are arrays without dimensions.
    """

    condition: Line | None
    holds: np.ndarray
    fails: np.ndarray


Known = Line | Choice


class Positions:
    """What is known of the values of one graph."""

    def __init__(self) -> None:
        self._known: dict[Value, Known | None] = {}

    def choice(self, value: Value) -> Choice | None:
        """A value as a choice between two numbers; axes are the value's own."""
        found = self._of(value)
        return found if isinstance(found, Choice) else None

    def _of(self, value: Value) -> Known | None:
        if value not in self._known:
            self._known[value] = None if value.node is None else self._follow(value.node)
        return self._known[value]

    def _follow(self, node: Node) -> Known | None:
        rule = _RULES.get(node.op.name)
        elementwise = node.op.kind is OpKind.ELEMENTWISE
        if rule is None and not elementwise:
            return None
        operands = [self._of(v) for v in node.inputs]
        if any(o is None for o in operands):
            return None
        if elementwise:
            rank = node.output.type.ndim
            shift = [rank - v.type.ndim for v in node.inputs]
            operands = [_shifted(o, s) for o, s in zip(operands, shift, strict=True) if o]
        found = rule(node, operands) if rule is not None else None
        return _branches(node, operands) if found is None and elementwise else found


def _shifted(known: Known, by: int) -> Known:
    """With the axes of a result that has more dimensions on the left."""
    line = known if isinstance(known, Line) else known.condition
    if line is None or not by:
        return known
    moved = Line(tuple((axis + by, f) for axis, f in line.terms), line.offset)
    return moved if isinstance(known, Line) else replace(known, condition=moved)


def _branches(node: Node, operands: Sequence[Known | None]) -> Choice | None:
    """An elementwise operation of choices with one condition: computed for both branches."""
    choices = [o for o in operands if isinstance(o, Choice)]
    conditions = {c.condition for c in choices if c.condition is not None}
    if len(choices) < len(operands) or len(conditions) > 1:
        return None
    type = TensorType((), node.output.type.dtype, CPU)
    (holds,) = run_op(node.op, node.attributes, [c.holds for c in choices], (type,))
    arrays = [c.holds if c.condition is None else c.fails for c in choices]
    (fails,) = run_op(node.op, node.attributes, arrays, (type,))
    return Choice(conditions.pop() if conditions else None, holds, fails)


def _full(node: Node, operands: Sequence[Any]) -> Known | None:
    value = node.attributes["value"]
    if not isinstance(value, (bool, int, float)):
        return None
    array = np.asarray(value).astype(node.output.type.dtype.numpy)
    return Choice(None, array, array)


def _iota(node: Node, operands: Sequence[Any]) -> Known | None:
    axis, type = node.attributes["axis"], node.output.type
    if type.dtype.kind != "int" or type.dtype.itemsize < 4:
        return None  # it may wrap around, or be rounded
    return Line((), 0) if structurally_equal(type.shape[axis], 1) else Line(((axis, 1),), 0)


def _line(known: Known | None) -> Line | None:
    """A whole number that is the same everywhere is a line, too."""
    if isinstance(known, Line) or known is None:
        return known
    whole = known.condition is None and known.holds.dtype.kind in "iu"
    return Line((), int(known.holds)) if whole else None


def _sum(sign: int) -> Callable[[Node, Sequence[Any]], Known | None]:
    def rule(node: Node, operands: Sequence[Any]) -> Known | None:
        x, y = map(_line, operands)
        if x is None or y is None or not (x.terms or y.terms):
            return None
        return x.plus(y, sign)

    return rule


def _comparison(sign: int, strict: bool) -> Callable[[Node, Sequence[Any]], Known | None]:
    """``sign`` 1: whether the first is the larger one."""

    def rule(node: Node, operands: Sequence[Any]) -> Known | None:
        x, y = map(_line, operands)
        if x is None or y is None or not (x.terms or y.terms):
            return None
        larger, smaller = (x, y) if sign > 0 else (y, x)
        condition = larger.plus(smaller, -1)
        if strict:
            condition = replace(condition, offset=condition.offset - 1)
        return Choice(condition, np.asarray(True), np.asarray(False))

    return rule


def _convert(node: Node, operands: Sequence[Any]) -> Known | None:
    """A counter in another integer type that holds it."""
    dtype = node.output.type.dtype
    if isinstance(operands[0], Line):
        return operands[0] if dtype.kind == "int" and dtype.itemsize >= 4 else None
    return None


def _viewed(axes: Callable[[Node], Mapping[int, int] | None]) -> Any:
    def rule(node: Node, operands: Sequence[Any]) -> Known | None:
        known = operands[0]
        line = known if isinstance(known, Line) else known.condition
        if line is None:
            return known
        found = axes(node)
        moved = None if found is None else line.moved(found)
        if moved is None or isinstance(known, Line):
            return moved
        return replace(known, condition=moved)

    return rule


def _permuted(node: Node) -> Mapping[int, int]:
    return {old: new for new, old in enumerate(node.attributes["axes"])}


def _expanded(node: Node) -> Mapping[int, int]:
    extra = node.output.type.ndim - node.inputs[0].type.ndim
    return {axis: axis + extra for axis in range(node.inputs[0].type.ndim)}


def _reshaped(node: Node) -> Mapping[int, int] | None:
    """Dimensions of size 1 come and go; the others stay in order."""
    old, new = (
        [axis for axis, size in enumerate(t.shape) if not structurally_equal(size, 1)]
        for t in (node.inputs[0].type, node.output.type)
    )
    sizes = (node.inputs[0].type.shape, node.output.type.shape)
    if len(old) != len(new) or not all(
        structurally_equal(sizes[0][a], sizes[1][b]) for a, b in zip(old, new, strict=True)
    ):
        return None
    return dict(zip(old, new, strict=True))


def _sliced(node: Node, operands: Sequence[Any]) -> Known | None:
    """Parts from the start, or from somewhere else: then the index is larger."""
    known = operands[0]
    line = known if isinstance(known, Line) else known.condition
    if line is None:
        return known
    starts, steps = node.attributes["starts"], node.attributes["steps"]
    offset = line.offset
    terms = []
    for axis, factor in line.terms:
        offset = offset + factor * starts[axis]
        if not structurally_equal(node.output.type.shape[axis], 1):
            terms.append((axis, factor * steps[axis]))
    moved = Line(tuple(terms), offset)
    return moved if isinstance(known, Line) else replace(known, condition=moved)


_RULES: dict[str, Callable[[Node, Sequence[Any]], Known | None]] = {
    "full": _full,
    "iota": _iota,
    "add": _sum(1),
    "sub": _sum(-1),
    "ge": _comparison(1, strict=False),
    "gt": _comparison(1, strict=True),
    "le": _comparison(-1, strict=False),
    "lt": _comparison(-1, strict=True),
    "convert": _convert,
    "permute": _viewed(_permuted),
    "expand": _viewed(_expanded),
    "reshape": _viewed(_reshaped),
    "slice": _sliced,
    "detach": _viewed(lambda node: {axis: axis for axis in range(node.output.type.ndim)}),
}


def band(condition: Line, rank: int) -> tuple[Dim | None, Dim | None] | None:
    """(lower, upper): the condition as lower <= column - row <= upper, of the last two axes.

    None if it is about something else.
    """
    row, column = rank - 2, rank - 1
    terms = dict(condition.terms)
    if terms == {row: 1, column: -1}:
        return None, condition.offset
    if terms == {row: -1, column: 1}:
        return -1 * condition.offset, None
    return None


def opposite(condition: Line) -> Line:
    """Holds where the other one fails."""
    return Line(tuple((axis, -f) for axis, f in condition.terms), -1 * condition.offset - 1)
