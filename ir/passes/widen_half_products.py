"""Products and scattered sums of 16-bit floats in float32, for processors that have no others.

In: any graph. Out: one in which 16-bit operands of a contraction (``widen_half_products``), or of
values that are added or multiplied where they meet in memory (``widen_half_sums``), are converted
to float32 and the result is rounded back, once. This is what ``evaluate`` does too, so nothing
changes.
"""

from __future__ import annotations

from flamec.ir.graph import Graph, Node
from flamec.ir.op import OpKind
from flamec.ir.passes.rewrite import Replacement, RewriteBuilder, rewrite
from flamec.ir.types import float32


def widen_half_products(graph: Graph) -> Graph:
    """The graph without contractions of 16-bit floats; itself if it has none."""
    return rewrite(graph, _widen_product, applies=lambda op: op.kind is OpKind.CONTRACTION)


def widen_half_sums(graph: Graph) -> Graph:
    """The graph without scattered sums and products of 16-bit floats; itself if it has none."""
    return rewrite(graph, _widen_sum, applies=lambda op: op.kind is OpKind.SCATTER)


def _widen_product(b: RewriteBuilder, node: Node) -> Replacement:
    return _widened(b, node) if node.op.kind is OpKind.CONTRACTION else None


def _widen_sum(b: RewriteBuilder, node: Node) -> Replacement:
    adds = node.op.kind is OpKind.SCATTER and node.attributes["mode"] in ("add", "prod")
    return _widened(b, node) if adds else None


def _widened(b: RewriteBuilder, node: Node) -> Replacement:
    """An operation with one result in float32; None if it is not one of 16-bit floats."""
    dtype = node.output.type.dtype
    if not dtype.is_half:
        return None
    wide = [b.convert(v, dtype=float32) if v.type.dtype is dtype else v for v in node.inputs]
    types = (node.output.type.with_dtype(float32),)  # known: sizes may rest on guards
    (result,) = b.rewritten(Node(node.op, wide, node.attributes, b.location, b.scope, types))
    return b.convert(result, dtype=dtype)
