"""Write contractions that have no free axes, dot products, as products and a sum.

In: any graph. Out: one in which a ``dot_general`` with at most one row and one column (for each
element of its batch) is a ``mul`` and a ``sum``: these are fused with what surrounds them, run on
all threads, and are as exact as other sums are. 16-bit operands are multiplied in float32.
"""

from __future__ import annotations

from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import OpKind
from flamec.ir.passes.rewrite import Replacement, RewriteBuilder, rewrite
from flamec.ir.shape import product, structurally_equal
from flamec.ir.types import float32


def fold_products(graph: Graph) -> Graph:
    """The graph without dot products; itself if it has none."""
    return rewrite(graph, _folded)


def _folded(b: RewriteBuilder, node: Node) -> Replacement:
    if node.op.kind is not OpKind.CONTRACTION:
        return None
    sides = zip(node.inputs, node.attributes["contract"], node.attributes["batch"], strict=True)
    lines = []
    for value, contract, batch in sides:
        free = [i for i in range(len(value.type.shape)) if i not in (*contract, *batch)]
        if not structurally_equal(product(value.type.shape[i] for i in free), 1):
            return None
        lines.append(_line(b, value, batch, contract))
    batch = len(node.attributes["batch"][0])
    axes = tuple(range(batch, batch + len(node.attributes["contract"][0])))
    total = b.sum(b.mul(*lines), axes=axes)
    result = b.reshape(total, shape=node.output.type.shape)
    dtype = node.output.type.dtype
    return b.convert(result, dtype=dtype) if result.type.dtype is not dtype else result


def _line(
    b: RewriteBuilder, value: Value, batch: tuple[int, ...], contract: tuple[int, ...]
) -> Value:
    """An operand with its batch axes, then the contracted ones, and no others."""
    shape = value.type.shape
    free = tuple(i for i in range(len(shape)) if i not in (*batch, *contract))
    line = b.permute(value, axes=(*batch, *contract, *free))
    line = b.reshape(line, shape=tuple(shape[i] for i in (*batch, *contract)))
    return b.convert(line, dtype=float32) if value.type.dtype.is_half else line
