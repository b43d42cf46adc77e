"""Exact rules of ``simplify`` about broadcasting, by the form of the sizes alone."""

from __future__ import annotations

from flamec.ir.graph import Node, Value
from flamec.ir.passes.rewrite import RewriteBuilder
from flamec.ir.shape import Dim, structurally_equal

Shape = tuple[Dim, ...]


def same_shape(a: Shape, b: Shape) -> bool:
    """Equal by form, dimension by dimension."""
    return len(a) == len(b) and all(map(structurally_equal, a, b))


def _stretches(have: Shape, shape: Shape) -> bool:
    """Whether ``have`` broadcasts to ``shape``, by form."""
    extra = len(shape) - len(have)
    return extra >= 0 and all(
        structurally_equal(h, 1) or structurally_equal(h, s)
        for h, s in zip(have, shape[extra:], strict=True)
    )


def broadcast_to(b: RewriteBuilder, value: Value, shape: Shape) -> Value | None:
    """``value`` in ``shape``; None where only a guard could tell that it broadcasts."""
    return b.expand_to(value, shape) if _stretches(value.type.shape, shape) else None


def drop_stretching(b: RewriteBuilder, node: Node) -> Value | None:
    """An elementwise operation on operands before they were broadcast, if the shape stays."""
    shape = node.output.type.shape
    if not shape:
        return None
    shapes = [v.type.shape for v in node.inputs]
    dropped = []
    for i, value in enumerate(node.inputs):
        shorter = _before_stretching(value)
        if shorter is not None:
            tried = [*shapes[:i], shorter, *shapes[i + 1 :]]
            if _spans(shape, tried):
                shapes = tried
                dropped.append(i)
    if not dropped:
        return None
    operands = [_unstretched(b, v) if i in dropped else v for i, v in enumerate(node.inputs)]
    return b.apply(node.op, operands, node.attributes)


def _before_stretching(value: Value) -> Shape | None:
    """The shape that was broadcast, or to which a reshape added leading ones.

    A ``full`` array is a broadcast scalar.
    """
    producer = value.node
    shape = value.type.shape
    if producer is None or not shape:
        return None
    if producer.op.name == "full":
        return ()
    if producer.op.name not in ("expand", "reshape"):
        return None
    source = producer.inputs[0].type.shape
    extra = len(shape) - len(source)
    if producer.op.name == "expand":
        return source
    added = extra > 0 and all(structurally_equal(d, 1) for d in shape[:extra])
    return source if added and same_shape(source, shape[extra:]) else None


def _unstretched(b: RewriteBuilder, value: Value) -> Value:
    producer = value.node
    assert producer is not None
    if producer.op.name == "full":
        return b.constant(producer.attributes["value"], value.type)
    return producer.inputs[0]


def _spans(shape: Shape, operands: list[Shape]) -> bool:
    """Whether broadcasting the operands gives ``shape``, by form."""
    if max(map(len, operands)) != len(shape):
        return False
    for axis, size in enumerate(shape, start=-len(shape)):
        sizes = [s[axis] for s in operands if -axis <= len(s)]
        wide = [d for d in sizes if not structurally_equal(d, 1)]
        if not all(structurally_equal(d, size) for d in wide):
            return False
        if not wide and not structurally_equal(size, 1):
            return False
    return True
