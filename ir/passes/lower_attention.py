"""Write attention with other operations where no kernel of its own computes it.

In: any graph, and which nodes a back end takes. Out: a graph whose other attention nodes are
products, masks and softmaxes.
"""

from __future__ import annotations

from collections.abc import Callable

from flamec.ir.graph import Graph, Node
from flamec.ir.op import OpKind
from flamec.ir.ops.attention import decomposed_attention, decomposed_backward
from flamec.ir.passes.rewrite import Replacement, RewriteBuilder, rewrite

LARGEST_HEAD = 256


def lower_attention(graph: Graph, takes: Callable[[Node], bool]) -> Graph:
    """The graph without the attention nodes that ``takes`` refuses; itself if it has none."""

    def expand(b: RewriteBuilder, node: Node) -> Replacement:
        if node.op.kind is not OpKind.ATTENTION or takes(node):
            return None
        several = len(node.outputs) > 2
        rule = decomposed_backward if several else decomposed_attention
        return rule(b, node.attributes, *node.inputs)

    return rewrite(graph, expand, applies=lambda op: op.kind is OpKind.ATTENTION)


def has_kernel(node: Node) -> bool:
    """Whether a GPU has kernels for an attention node: 16-bit floats, heads of at most 256
    numbers, a positive scale (the largest score is looked for before it is scaled)."""
    q, _, v = (value.type for value in node.inputs[:3])
    sizes = (q.shape[-1], v.shape[-1])
    heads = all(isinstance(size, int) and 1 <= size <= LARGEST_HEAD for size in sizes)
    scale = node.attributes["scale"]
    in_order = all(order[-1] == len(order) - 1 for order in node.attributes["orders"])
    return q.dtype.is_half and heads and 0 < scale < float("inf") and in_order


def never(node: Node) -> bool:
    """No attention has a kernel of its own."""
    return False
