"""Exact rules of ``simplify`` about where elements lie: views, and what only moves elements.

Each takes a builder and a node whose operands are simplified, and gives the value
that replaces its result, or None. Sizes are compared by form: nothing is assumed
about symbols.
"""

from __future__ import annotations

from collections.abc import Callable

from flamec.ir.graph import Node, Value
from flamec.ir.passes.rewrite import RewriteBuilder
from flamec.ir.passes.simplify_broadcasts import Shape, broadcast_to, same_shape
from flamec.ir.shape import Dim, product, structurally_equal


def simplify_view(b: RewriteBuilder, node: Node) -> Value | None:
    """A view that changes nothing, or of a view of the same sort, as at most one view."""
    rule = _VIEWS.get(node.op.name)
    return None if rule is None else rule(b, node)


def _parent(node: Node) -> Node | None:
    """The node that made the operand, if it is the same sort of view."""
    producer = node.inputs[0].node
    return producer if producer is not None and producer.op is node.op else None


def _simplify_reshape(b: RewriteBuilder, node: Node) -> Value | None:
    (x,) = node.inputs
    shape = node.output.type.shape
    if same_shape(x.type.shape, shape):
        return x
    parent = _parent(node)
    if parent is None:
        return None
    (source,) = parent.inputs
    if not structurally_equal(product(source.type.shape), product(shape)):
        return None  # only a guard tells that the sizes agree
    return b.reshape(source, shape=shape)


def _simplify_expand(b: RewriteBuilder, node: Node) -> Value | None:
    (x,) = node.inputs
    shape = node.output.type.shape
    if same_shape(x.type.shape, shape):
        return x
    parent = _parent(node)
    return None if parent is None else broadcast_to(b, parent.inputs[0], shape)


def _simplify_permute(b: RewriteBuilder, node: Node) -> Value | None:
    (x,) = node.inputs
    axes: tuple[int, ...] = node.attributes["axes"]
    if axes == tuple(range(len(axes))):
        return x
    parent = _parent(node)
    if parent is not None:
        inner = parent.attributes["axes"]
        return b.permute(parent.inputs[0], axes=tuple(inner[a] for a in axes))
    moved = [a for a in axes if not structurally_equal(x.type.shape[a], 1)]
    if moved == sorted(moved):  # only dimensions of size 1 change places
        return b.reshape(x, shape=node.output.type.shape)
    return None


def _window(node: Node) -> tuple[tuple[Dim, ...], tuple[int, ...]]:
    return node.attributes["starts"], node.attributes["steps"]


def _covers(sizes: Shape, shape: Shape, starts: Shape, steps: tuple[int, ...]) -> bool:
    """Whether a window is the whole array, in order."""
    at_zero = all(structurally_equal(s, 0) for s in starts)
    return at_zero and all(s == 1 for s in steps) and same_shape(sizes, shape)


def _simplify_slice(b: RewriteBuilder, node: Node) -> Value | None:
    (x,) = node.inputs
    sizes = node.output.type.shape
    starts, steps = _window(node)
    if _covers(sizes, x.type.shape, starts, steps):
        return x
    producer = x.node
    if producer is None:
        return None
    if producer.op is node.op:
        inner_starts, inner_steps = _window(producer)
        return b.slice(
            producer.inputs[0],
            starts=tuple(
                i + s * k for i, s, k in zip(inner_starts, starts, inner_steps, strict=True)
            ),
            sizes=sizes,
            steps=tuple(s * k for s, k in zip(steps, inner_steps, strict=True)),
        )
    if producer.op.name == "slice_update" and _same_place(producer, sizes, starts, steps):
        return producer.inputs[1]  # reading what was written there
    return None


def _same_place(update: Node, sizes: Shape, starts: Shape, steps: tuple[int, ...]) -> bool:
    """Whether an update writes to this window."""
    inner_starts, inner_steps = _window(update)
    return (
        steps == inner_steps
        and same_shape(starts, inner_starts)
        and same_shape(sizes, update.inputs[1].type.shape)
    )


_VIEWS: dict[str, Callable[[RewriteBuilder, Node], Value | None]] = {
    "reshape": _simplify_reshape,
    "expand": _simplify_expand,
    "permute": _simplify_permute,
    "slice": _simplify_slice,
}


def drop_single_reduction(b: RewriteBuilder, node: Node) -> Value | None:
    """Folding no axes, or axes of one element each, moves elements only."""
    (x,) = node.inputs
    axes = node.attributes["axes"]
    if not node.op.associative or not all(structurally_equal(x.type.shape[a], 1) for a in axes):
        return None  # the position of an extreme value is not that value
    return b.reshape(x, shape=node.output.type.shape) if axes else x


def simplify_assembly(b: RewriteBuilder, node: Node) -> Value | None:
    """Concatenating one array, padding by nothing, overwriting everything, overwriting twice."""
    x = node.inputs[0]
    if node.op.name == "concatenate":
        return x if len(node.inputs) == 1 else None
    if node.op.name == "slice_update":
        written, before = node.inputs[1], x.node
        sizes, (starts, steps) = written.type.shape, _window(node)
        if _covers(sizes, x.type.shape, starts, steps):
            return written
        if before is None or before.op is not node.op:
            return None
        if not _same_place(before, sizes, starts, steps):
            return None
        return b.slice_update(before.inputs[0], written, starts=starts, steps=steps)
    return x if same_shape(x.type.shape, node.output.type.shape) else None
