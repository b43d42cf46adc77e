"""Random words of which only parts are read are computed part by part, where they are read.

In and out: a graph. A word depends on its place alone, so rows of an array of words are an array of
words that starts further on: what reads two of them (Box and Muller's pairs) then needs no memory
for words.
"""

from __future__ import annotations

from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import OpKind
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.passes.rewrite import RewriteBuilder, rewrite
from flamec.ir.shape import product, structurally_equal


def part_random_bits(graph: Graph) -> Graph:
    """Slices of whole rows of random words as words of their own."""
    made = rewrite(graph, _part)
    return graph if made is graph else eliminate_dead_code(made)


def _part(b: RewriteBuilder, node: Node) -> Value | None:
    words = node.inputs[0].node if node.op.name == "slice" else None
    if words is None or words.op.kind is not OpKind.RANDOM:
        return None
    whole, sizes = words.output.type.shape, node.output.type.shape
    starts, steps = node.attributes["starts"], node.attributes["steps"]
    if any(step != 1 for step in steps):
        return None
    if not all(map(structurally_equal, whole[1:], sizes[1:])):
        return None
    start = words.attributes.get("start", 0) + starts[0] * product(whole[1:])
    return b.random_bits(words.inputs[0], shape=sizes, start=start)
