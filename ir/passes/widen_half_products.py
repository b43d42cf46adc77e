"""Matrix products of 16-bit floats in float32, for processors that have no others.

In: any graph. Out: one in which 16-bit operands of a contraction are converted to float32
and the result is rounded back. This is what ``evaluate`` does too, so nothing changes.
"""

from __future__ import annotations

from flamec.ir.graph import Graph, Node
from flamec.ir.op import OpKind
from flamec.ir.passes.rewrite import Replacement, RewriteBuilder, rewrite
from flamec.ir.types import float32


def widen_half_products(graph: Graph) -> Graph:
    """The graph without contractions of 16-bit floats; itself if it has none."""
    return rewrite(graph, _widen)


def _widen(b: RewriteBuilder, node: Node) -> Replacement:
    dtype = node.outputs[0].type.dtype
    if node.op.kind is not OpKind.CONTRACTION or not dtype.is_half:
        return None
    wide = [b.convert(v, dtype=float32) for v in node.inputs]
    types = (node.output.type.with_dtype(float32),)  # known: sizes may rest on guards
    (product,) = b.rewritten(Node(node.op, wide, node.attributes, b.location, b.scope, types))
    return b.convert(product, dtype=dtype)
