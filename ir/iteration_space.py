"""The axes that fused operations iterate over together.

A dimension of a value is a list of ``Axis`` objects, outermost first. ``unify``
states that two lists run over the same elements in the same order: axes become
one, or are split into common parts, so that reshapes cost no index arithmetic.
Only what cannot be split evenly raises ``Incompatible``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flamec.ir.layout import exact_quotient
from flamec.ir.shape import Dim, SymbolicDim, product, structurally_equal


class Incompatible(Exception):
    """Operations that cannot run in one loop nest; the message is the reason."""


class Axis:
    """A range of indices. After a split or a merge it stands for its ``parts``."""

    __slots__ = ("parts", "size")

    def __init__(self, size: Dim) -> None:
        self.size = size
        self.parts: tuple[Axis, ...] | None = None

    def __repr__(self) -> str:
        return f"<Axis {self.size}>"


Axes = list[Axis]  # one dimension
Dims = list[Axes]  # one value


def leaves(axes: Iterable[Axis]) -> Axes:
    """The unsplit axes that a list stands for."""
    result: Axes = []
    for axis in axes:
        parts = axis.parts
        if parts is None:
            result.append(axis)
        elif len(parts) == 1 and parts[0].parts is None:
            result.append(parts[0])
        else:
            result += _shortened(axis)
    return result


def _shortened(axis: Axis) -> tuple[Axis, ...]:
    """The unsplit parts of an axis, which it then has itself: what is unified with one after the
    other does not become a long chain."""
    parts = axis.parts
    assert parts is not None
    for part in parts:
        if part.parts is not None:
            axis.parts = tuple(leaves(parts))
            return axis.parts
    return parts


def fresh_axes(size: Dim) -> Axes:
    """A new dimension; one of size 1 has no axis."""
    return [] if structurally_equal(size, 1) else [Axis(size)]


def fresh_dims(shape: Sequence[Dim]) -> Dims:
    return [fresh_axes(size) for size in shape]


def _split(axis: Axis, outer: Dim, inner: Dim) -> None:
    axis.parts = (Axis(outer), Axis(inner))


def unify(a: Axes, b: Axes) -> None:
    """Make two lists run over the same axes; Incompatible if their sizes interleave unevenly."""
    left, right = leaves(a), leaves(b)
    if left == right:
        return
    left.reverse()
    right.reverse()
    while left and right:
        x, y = left.pop(), right.pop()
        if x.parts is not None or y.parts is not None:
            left.extend(leaves((x,))[::-1])
            right.extend(leaves((y,))[::-1])
            continue
        if x is y:
            continue
        if structurally_equal(x.size, y.size) or not (left or right or _divides(x, y)):
            _merge(x, y)
            continue
        inner = exact_quotient(x.size, y.size)
        if inner is not None:
            _split(x, y.size, inner)
        else:
            inner = exact_quotient(y.size, x.size)
            if inner is None:
                raise Incompatible(f"a dimension of {x.size} does not line up with one of {y.size}")
            _split(y, x.size, inner)
        left.append(x)
        right.append(y)
    if left or right:
        rest = product(axis.size for axis in left + right)
        if not _may_be(rest, 1, a, b):
            raise Incompatible(f"a dimension of {rest} has no counterpart")


def _divides(x: Axis, y: Axis) -> bool:
    either = exact_quotient(x.size, y.size), exact_quotient(y.size, x.size)
    return any(q is not None for q in either)


def _merge(x: Axis, y: Axis) -> None:
    """Two names for one axis. Sizes of different form are equal by a guard; the number wins."""
    if isinstance(y.size, SymbolicDim) and not isinstance(x.size, SymbolicDim):
        y.parts = (x,)
    else:
        x.parts = (y,)


def _may_be(rest: Dim, wanted: int, a: Axes, b: Axes) -> bool:
    """Whether what is left over is harmless: everything is empty anyway."""
    empty = any(structurally_equal(axis.size, 0) for axis in leaves(a) + leaves(b))
    return empty or structurally_equal(rest, wanted)
