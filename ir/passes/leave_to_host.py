"""Have the host compute what is inexact, so that its bits are those of eager mode.

In: any graph. Out: one in which operations that are ``inexact`` (a polynomial, an order of
additions) and give floats are computed by their NumPy meaning over dense operands, between the
kernels of the program; everything else rounds in one way only.
"""

from __future__ import annotations

from flamec.ir.graph import Graph, Node
from flamec.ir.op import lookup
from flamec.ir.ops.host import arguments_text
from flamec.ir.passes.rewrite import Replacement, RewriteBuilder, rewrite


def leave_to_host(graph: Graph) -> Graph:
    """The graph without inexact operations of its own; itself if it has none."""
    return rewrite(graph, _leave, applies=lambda op: op.inexact)


def _leave(b: RewriteBuilder, node: Node) -> Replacement:
    if not node.op.inexact or not node.outputs[0].type.dtype.is_floating_point:
        return None
    attributes = {"function": node.op.name, "arguments": arguments_text(node.attributes)}
    types = tuple(v.type for v in node.outputs)  # known: sizes may rest on guards
    host = Node(lookup("host"), node.inputs, attributes, b.location, b.scope, types)
    return b.rewritten(host)
