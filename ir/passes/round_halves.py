"""Round 16-bit results where eager mode rounds them: after each operation.

In: an optimized graph. Out: one in which each computed 16-bit float passes through a conversion
to float32 and back. In the meaning of the IR that changes nothing; but kernels keep 16-bit floats
as float32 in registers, and round them where a conversion or a store says so.
"""

from __future__ import annotations

from flamec.ir.graph import Graph, Node
from flamec.ir.op import OpKind
from flamec.ir.passes.rewrite import Replacement, RewriteBuilder, rewrite
from flamec.ir.types import float32

_COMPUTING = (OpKind.ELEMENTWISE, OpKind.REDUCTION, OpKind.CONTRACTION, OpKind.SCAN)


def round_halves(graph: Graph) -> Graph:
    """The graph with its 16-bit roundings spelled out; itself if it computes no such floats."""
    return rewrite(graph, _round, applies=lambda op: op.kind in _COMPUTING)


def _round(b: RewriteBuilder, node: Node) -> Replacement:
    """A conversion from another type rounds by itself."""
    if node.op.kind not in _COMPUTING or node.op.name == "convert":  # what is emitted, too
        return None
    if not any(v.type.dtype.is_half for v in node.outputs):
        return None
    b.nodes.append(node)
    return tuple(
        b.convert(b.convert(v, dtype=float32), dtype=v.type.dtype) if v.type.dtype.is_half else v
        for v in node.outputs
    )
