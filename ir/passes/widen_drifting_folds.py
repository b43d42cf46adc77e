"""Products and running sums of float32 in float64, where that costs little: on processors.

In: any graph. Out: one in which folds and scans whose rounding errors add up element by element
(``drifts`` in their declarations) are computed of float64 and rounded back, once. This is what
``evaluate`` does too.
"""

from __future__ import annotations

from flamec.ir.graph import Graph, Node
from flamec.ir.passes.rewrite import Replacement, RewriteBuilder, rewrite
from flamec.ir.types import float32, float64


def widen_drifting_folds(graph: Graph) -> Graph:
    """The graph without such folds of float32 and 16-bit floats; itself if it has none."""
    return rewrite(graph, _widened)


def _widened(b: RewriteBuilder, node: Node) -> Replacement:
    if not node.op.drifts:
        return None
    dtype = node.output.type.dtype
    if not (dtype.is_half or dtype is float32):
        return None
    wide = [b.convert(x, dtype=float64) for x in node.inputs]
    result = b.apply(node.op, wide, node.attributes)
    assert not isinstance(result, tuple), "one result"
    return b.convert(result, dtype=dtype)
