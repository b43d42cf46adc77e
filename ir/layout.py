"""Strided layouts: where the elements of a value lie in a dense buffer.

In: a chain of view nodes. Out: an offset and, for each dimension, a list of
(size, stride) factors in elements, outermost first. A dimension of several
factors is one that a reshape merged without the memory being contiguous.
Dimensions of size 1 have no factors. A layout never copies; where a reshape or
slice cannot be expressed the answer is None. An ``Access`` is a layout with borders around it,
which are not in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from flamec.ir.graph import Node
from flamec.ir.op import OpKind
from flamec.ir.shape import Dim, floordiv, product, structurally_equal


class Factor(NamedTuple):
    """``size`` steps of ``stride`` elements."""

    size: Dim
    stride: Dim


Dimension = tuple[Factor, ...]


@dataclass(frozen=True)
class Layout:
    """The element at index (i0, i1, …) lies at ``offset`` plus the sum over all factors."""

    offset: Dim
    dims: tuple[Dimension, ...]


class Bound(NamedTuple):
    """An element is in memory only where the place that ``at`` gives is in 0 … ``size`` - 1."""

    at: Layout
    size: Dim


@dataclass(frozen=True)
class Access:
    """Where elements lie that are all within ``bounds``; the others have no memory."""

    layout: Layout
    bounds: tuple[Bound, ...] = ()


def is_view(node: Node | None) -> bool:
    """Whether a node gives the elements of its only operand, unchanged."""
    return node is not None and node.op.kind in (OpKind.VIEW, OpKind.BARRIER)


def exact_quotient(a: Dim, b: Dim) -> Dim | None:
    """``a / b`` if it is known to be an integer, else None."""
    if structurally_equal(b, 0):
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a // b if a % b == 0 else None
    quotient = floordiv(a, b)
    return quotient if structurally_equal(quotient * b, a) else None


def dense_strides(shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """Row-major strides in elements."""
    strides: list[Dim] = []
    stride: Dim = 1
    for size in reversed(shape):
        strides.append(stride)
        stride = stride * size
    return tuple(reversed(strides))


def strided(shape: tuple[Dim, ...], strides: tuple[Dim, ...], offset: Dim = 0) -> Layout:
    return Layout(offset, tuple(_single(n, s) for n, s in zip(shape, strides, strict=True)))


def dense(shape: tuple[Dim, ...]) -> Layout:
    """The row-major layout of a whole buffer."""
    return strided(shape, dense_strides(shape))


def _single(size: Dim, stride: Dim) -> Dimension:
    return () if structurally_equal(size, 1) else (Factor(size, stride),)


def coalesce(factors: Iterable[Factor]) -> list[Factor]:
    """Neighbouring factors that step through memory evenly, joined."""
    joined: list[Factor] = []
    for factor in factors:
        if joined:
            outer = joined[-1]
            if structurally_equal(outer.stride, factor.size * factor.stride):
                joined[-1] = Factor(outer.size * factor.size, factor.stride)
                continue
        joined.append(factor)
    return joined


def is_dense(layout: Layout, shape: tuple[Dim, ...]) -> bool:
    """Whether the layout covers its buffer in row-major order from the start."""
    total = product(shape)
    if structurally_equal(total, 0):
        return True
    factors = coalesce(f for dim in layout.dims for f in dim)
    whole = [] if structurally_equal(total, 1) else [Factor(total, 1)]
    return structurally_equal(layout.offset, 0) and factors == whole


def regroup(factors: Iterable[Factor], shape: tuple[Dim, ...]) -> tuple[Dimension, ...] | None:
    """The factors divided among the dimensions of ``shape``, in order; None if they straddle."""
    queue = coalesce(factors)
    queue.reverse()
    dims: list[Dimension] = []
    for size in shape:
        rest: Dim = size
        taken: list[Factor] = []
        while not structurally_equal(rest, 1):
            if not queue:
                return None
            factor = queue.pop()
            whole = exact_quotient(rest, factor.size)
            if whole is not None:
                taken.append(factor)
                rest = whole
                continue
            inner = exact_quotient(factor.size, rest)
            if inner is None:
                return None
            taken.append(Factor(rest, factor.stride * inner))
            queue.append(Factor(inner, factor.stride))
            rest = 1
        dims.append(tuple(taken))
    return None if queue else tuple(dims)


def view_layout(node: Node, layout: Layout) -> Layout | None:
    """The layout of a view's result, given that of its operand; None where only a copy can."""
    if node.op.kind is OpKind.BARRIER:
        return layout
    return _RULES[node.op.name](node, layout)


def view_access(node: Node, access: Access) -> Access | None:
    """The same of a value with bounds; ``node`` may be a ``pad``, which adds some."""
    if node.op.name == "pad":
        return _bordered(node, access)
    layout = view_layout(node, access.layout)
    bounds = []
    for at, size in access.bounds:
        seen = view_layout(node, at)
        if seen is None:
            return None
        bounds.append(Bound(seen, size))
    return None if layout is None else Access(layout, tuple(bounds))


def through_views(access: Access, views: Iterable[Node]) -> Access | None:
    """The same after all ``views``, the first of which is one of what ``access`` belongs to."""
    found: Access | None = access
    for node in views:
        if found is None:
            break
        found = view_access(node, found)
    return found


def _bordered(node: Node, access: Access) -> Access | None:
    """Every place moves by the border before it; outside of the operand nothing is there."""
    attributes: Mapping[str, Any] = node.attributes
    shape, whole = node.inputs[0].type.shape, node.output.type.shape
    moves: dict[int, Dim] = {}
    for axis, (low, high) in enumerate(zip(attributes["low"], attributes["high"], strict=True)):
        if not (structurally_equal(low, 0) and structurally_equal(high, 0)):
            moves[axis] = low

    def moved(layout: Layout) -> Layout | None:
        offset, dims = layout.offset, list(layout.dims)
        for axis, low in moves.items():
            factors = coalesce(dims[axis])
            if len(factors) > 1:
                return None
            stride = factors[0].stride if factors else 0
            offset, dims[axis] = offset - low * stride, _single(whole[axis], stride)
        return Layout(offset, tuple(dims))

    layout = moved(access.layout)
    bounds = []
    for at, size in access.bounds:
        seen = moved(at)
        if seen is None:
            return None
        bounds.append(Bound(seen, size))
    for axis, low in moves.items():
        steps = tuple(int(i == axis) for i in range(len(whole)))
        bounds.append(Bound(strided(whole, steps, -low), shape[axis]))
    return None if layout is None else Access(layout, tuple(bounds))


def _reshape(node: Node, layout: Layout) -> Layout | None:
    shape = node.output.type.shape
    if structurally_equal(product(shape), 0):
        return dense(shape)
    factors = coalesce(f for dim in layout.dims for f in dim)
    if len(factors) == 1:  # evenly spaced: any shape will do, and no size need be divided
        strides = tuple(s * factors[0].stride for s in dense_strides(shape))
        return strided(shape, strides, layout.offset)
    dims = regroup(factors, shape)
    return None if dims is None else Layout(layout.offset, dims)


def _permute(node: Node, layout: Layout) -> Layout:
    return Layout(layout.offset, tuple(layout.dims[a] for a in node.attributes["axes"]))


def _expand(node: Node, layout: Layout) -> Layout:
    have, want = node.inputs[0].type.shape, node.output.type.shape
    extra = len(want) - len(have)
    dims = [_single(size, 0) for size in want[:extra]]
    for size, target, dim in zip(have, want[extra:], layout.dims, strict=True):
        dims.append(_single(target, 0) if structurally_equal(size, 1) else dim)
    return Layout(layout.offset, tuple(dims))


def _slice(node: Node, layout: Layout) -> Layout | None:
    offset = layout.offset
    dims: list[Dimension] = []
    attributes: Mapping[str, Any] = node.attributes
    entries = zip(
        node.inputs[0].type.shape,
        layout.dims,
        attributes["starts"],
        attributes["sizes"],
        attributes["steps"],
        strict=True,
    )
    for size, dim, start, count, step in entries:
        whole = structurally_equal(start, 0) and step == 1 and structurally_equal(count, size)
        if whole:
            dims.append(dim)
            continue
        factors = coalesce(dim)
        if len(factors) > 1:
            return None
        stride = factors[0].stride if factors else 0
        offset = offset + start * stride
        dims.append(_single(count, stride * step))
    return Layout(offset, tuple(dims))


def _diagonal(node: Node, layout: Layout) -> Layout | None:
    attributes: Mapping[str, Any] = node.attributes
    first, second, shift = attributes["axis1"], attributes["axis2"], attributes["offset"]
    rank = len(layout.dims)
    first, second = first % rank, second % rank
    rows, columns = coalesce(layout.dims[first]), coalesce(layout.dims[second])
    if len(rows) > 1 or len(columns) > 1:
        return None
    row_stride = rows[0].stride if rows else 0
    column_stride = columns[0].stride if columns else 0
    offset = layout.offset + (shift * column_stride if shift > 0 else -shift * row_stride)
    rest = [dim for i, dim in enumerate(layout.dims) if i not in (first, second)]
    line = _single(node.output.type.shape[-1], row_stride + column_stride)
    return Layout(offset, (*rest, line))


def _windows(node: Node, layout: Layout) -> Layout | None:
    attributes: Mapping[str, Any] = node.attributes
    dims = list(layout.dims)
    inner: list[Dimension] = []
    for axis, count, size, step, dilation in zip(
        *(attributes[k] for k in ("axes", "counts", "sizes", "steps", "dilations")), strict=True
    ):
        factors = coalesce(dims[axis])
        if len(factors) > 1:
            return None
        stride = factors[0].stride if factors else 0
        dims[axis] = _single(count, stride * step)
        inner.append(_single(size, stride * dilation))
    last = attributes["axes"][-1] + 1
    return Layout(layout.offset, (*dims[:last], *inner, *dims[last:]))


_RULES: dict[str, Callable[[Node, Layout], Layout | None]] = {
    "reshape": _reshape,
    "permute": _permute,
    "expand": _expand,
    "slice": _slice,
    "diagonal": _diagonal,
    "windows": _windows,
}
