"""Products and scattered sums of 16-bit floats in float32, for processors that have no others.

In: any graph. Out: one in which 16-bit operands of a contraction, or of values that are added (or
multiplied) where they meet in memory, are converted to float32 and the result is rounded back,
once.
This is what ``evaluate`` does too, so nothing changes.
"""

from __future__ import annotations

from flamec.ir.graph import Graph, Node
from flamec.ir.op import OpKind
from flamec.ir.passes.rewrite import Replacement, RewriteBuilder, rewrite
from flamec.ir.types import float32


def widen_half_products(graph: Graph) -> Graph:
    """The graph without such operations of 16-bit floats; itself if it has none."""
    return rewrite(graph, _widen)


def _widen(b: RewriteBuilder, node: Node) -> Replacement:
    dtype = node.outputs[0].type.dtype
    adds = node.op.kind is OpKind.SCATTER and node.attributes["mode"] in ("add", "prod")
    if not dtype.is_half or not (adds or node.op.kind is OpKind.CONTRACTION):
        return None
    wide = [b.convert(v, dtype=float32) if v.type.dtype is dtype else v for v in node.inputs]
    types = (node.output.type.with_dtype(float32),)  # known: sizes may rest on guards
    (product,) = b.rewritten(Node(node.op, wide, node.attributes, b.location, b.scope, types))
    return b.convert(product, dtype=dtype)
