"""Turn the casts that mixed precision asked for into plain conversions, as few as possible.

In: the traced graph, derivatives included, in which a conversion with the attribute
``autocast`` (the policy's name) was made for an operand of a function in an autocast
region. Out: a graph without that attribute in which a value is converted to a dtype by
one node, however many functions asked, and in which views that drop no element come after
the conversion: then a weight that is read as it lies and transposed is cast once. Values and
types do not change. What a cast shares a kernel with is for fusion to decide.
"""

from __future__ import annotations

from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import OpKind
from flamec.ir.passes.rewrite import RewriteBuilder, rewrite
from flamec.ir.shape import product, structurally_equal
from flamec.ir.types import DType, TensorType

ATTRIBUTE = "autocast"


def autocast(graph: Graph) -> Graph:
    """The same program with one plain conversion for each value and dtype asked for."""
    casts: dict[tuple[Value, DType], Value] = {}

    def resolve(b: RewriteBuilder, node: Node) -> Value | None:
        if ATTRIBUTE not in node.attributes:
            return None
        dtype = node.output.type.dtype
        source, views = _source(node.inputs[0])
        value = casts.get((source, dtype))
        if value is None:
            value = casts[source, dtype] = b.apply(node.op, (source,), {"dtype": dtype})
        for view in views:
            types = (view.output.type.with_dtype(dtype),)  # known: sizes may rest on guards
            (value,) = b.rewritten(
                Node(view.op, (value,), view.attributes, b.location, b.scope, types)
            )
        return value

    return rewrite(graph, resolve, applies=lambda op: op.name == "convert")


def _source(value: Value) -> tuple[Value, list[Node]]:
    """The value that ``value`` is a view of, and the views from there to it."""
    views: list[Node] = []
    while value.node is not None and value.node.op.kind is OpKind.VIEW:
        source = value.node.inputs[0]
        if not _keeps_all(source.type, value.type):
            break
        views.append(value.node)
        value = source
    return value, views[::-1]


def _keeps_all(source: TensorType, view: TensorType) -> bool:
    """Whether a view has at least as many elements as its source."""
    before, after = product(source.shape), product(view.shape)
    if isinstance(before, int) and isinstance(after, int):
        return before <= after
    return structurally_equal(before, after)
